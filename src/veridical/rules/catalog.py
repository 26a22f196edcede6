"""Propagation rules: how one operation hands the relevance of its output to its inputs.

Relevance always has a leading dimension for S starting vectors: (S, N, ...). A `Rule` maps an operation and
the relevance of its outputs to the relevance of its inputs. An `AffineRule` does so for y = W x + b. Every
rule is written in differentiable tensor operations on the activations of the true forward pass, so that a
relevance can be differentiated once more at any time. What multiplies or divides relevance is given the
leading dimension, `x[None]`: by broadcasting, its derivative would be summed over the S = 1 vectors of an
attack, a pass over the memory for nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from veridical.rules.affine import LARGE, Affine
from veridical.rules.operations import Operation, multiplies
from veridical.rules.ruleset import AffineRule, Application, Rule
from veridical.tensors import safe_divide, summed_to

Bias = Literal["none", "signed", "whole"]
"""How a bias enters the denominators of alpha-beta rules: not at all; its positive part in the activator's
and its negative part in the inhibitor's; or the whole bias in both (as the code of Sixt et al. 2020 does)."""

# --- rules of affine operations -----------------------------------------------------------------------------


def affine_gradient(at: Application, relevance: Tensor) -> Tensor:
    """R_in = W^T R."""
    return at.affine.adjoint(relevance, at.affine.weight)


def affine_z(at: Application, relevance: Tensor) -> Tensor:
    """R_in = x W^T (R / y), y = W x + b: the bias is an input that absorbs relevance (Sixt 2020, eq. 7)."""
    return affine_epsilon(0.0)(at, relevance)


def affine_epsilon(epsilon: float) -> AffineRule:
    """R_in = x W^T (R / (y + epsilon sign(y))), sign(0) = 1 (Bach et al. 2015, eq. 58)."""

    def shares(affine: Affine, r: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return x[None] * affine.adjoint(safe_divide(r, y[None], epsilon), affine.weight)

    def rule(at: Application, relevance: Tensor) -> Tensor:
        return some_images_at_a_time(partial(shares, at.affine), relevance, at.x, at.y)

    rule.__doc__ = f"R_in = x W^T (R / (y + {epsilon:g} sign(y))), sign(0) = 1."
    return rule


def affine_products(epsilon: float) -> AffineRule:
    """R_in = x W^T (R / (W x + epsilon sign(W x))): Sixt 2020, eq. 7 as printed; the bias takes no share."""

    def rule(at: Application, relevance: Tensor) -> Tensor:
        def shares(r: Tensor, x: Tensor) -> Tensor:
            z = at.affine.product(x, at.affine.weight)
            return x[None] * at.affine.adjoint(safe_divide(r, z[None], epsilon), at.affine.weight)

        return some_images_at_a_time(shares, relevance, at.x)

    below = f"(W x + {epsilon:g} sign(W x))" if epsilon else "W x"
    rule.__doc__ = f"R_in = x W^T (R / {below}), without the bias."
    return rule


def affine_alpha_beta(alpha: float, beta: float, bias: Bias) -> AffineRule:
    """Alpha times the positive share minus beta times the negative share (Bach et al. 2015, eq. 60).

    The activator collects the positive products, W+ x+ + W- x-, the inhibitor the negative ones; both split
    by the sign of the products. With alpha 1, beta 0 and no bias this is the z+ rule (Sixt 2020, eq. 5).
    """

    def shares(affine: Affine, r: Tensor, x: Tensor) -> Tensor:
        activated = alpha * _share(affine, x, r, 1, bias)
        return activated - beta * _share(affine, x, r, -1, bias) if beta else activated

    def rule(at: Application, relevance: Tensor) -> Tensor:
        return some_images_at_a_time(partial(shares, at.affine), relevance, at.x)

    offset = {"none": "", "signed": " + b+", "whole": " + b"}[bias]
    text = f"{alpha:g} x positive share - {beta:g} x negative share" if beta else "positive share"
    rule.__doc__ = f"R_in = {text}; the positive is x+ W+^T S + x- W-^T S, S = R / (W+ x+ + W- x-{offset})."
    return rule


def affine_contrast(at: Application, relevance: Tensor) -> Tensor:
    """R_in = (Z+ - N+) R: the z+ share minus the z+ share of the layer with weights -W (Sixt 2020, eq. 16).

    Each share hands on the whole relevance: the result sums to 0 where neither denominator vanishes.
    """

    def shares(r: Tensor, x: Tensor) -> Tensor:
        positive, negative = (_share(at.affine, x, r, sign, "none") for sign in (1, -1))
        return positive - negative

    return some_images_at_a_time(shares, relevance, at.x)


def some_images_at_a_time(shares: Callable[..., Tensor], relevance: Tensor, x: Tensor, *y: Tensor) -> Tensor:
    """`shares(relevance, x, *y)`, by parts of a large batch: what lies between then needs less memory.

    Where the result will be differentiated, it is needed all the same.
    """
    size = max(x.numel(), relevance.numel())
    if torch.is_grad_enabled() or size <= _MANY or x.dim() < 2:
        return shares(relevance, x, *y)
    result = x.new_empty((len(relevance), *x.shape))
    step = max(1, len(x) * _MANY // size)
    for begin in range(0, len(x), step):
        part = slice(begin, begin + step)
        result[:, part] = shares(relevance[:, part], x[part], *(values[part] for values in y))
    return result


_MANY = 2**22
"""Values of an activation of which intermediate results are made at once: 16 MB in single precision."""


def _share(affine: Affine, x: Tensor, relevance: Tensor, sign: int, bias: Bias) -> Tensor:
    """Relevance in proportion to the products of one sign; large linear layers some rows at a time."""
    if affine.dims or affine.weight.numel() <= LARGE:
        return _share_of(affine, x, relevance, sign, bias)
    parts = affine.rows(LARGE)
    return sum(
        (_share_of(part, x, relevance[..., rows], sign, bias) for rows, part in parts),
        start=relevance.new_zeros(()),
    )


def _share_of(affine: Affine, x: Tensor, relevance: Tensor, sign: int, bias: Bias) -> Tensor:
    signed = bool(x.detach().amin() < 0)  # behind a ReLU the second half would only multiply zeros
    straight = _one_sign(affine.weight, sign)
    above = x.clamp(min=0) if signed else x
    z = affine.product(above, straight)
    if signed:
        below, crossed = x.clamp(max=0), _one_sign(affine.weight, -sign)
        z = z + affine.product(below, crossed)
    offset = affine.shaped_bias(z)
    if offset is not None and bias != "none":
        z = z + (offset if bias == "whole" else _one_sign(offset, sign))
    scaled = safe_divide(relevance, z[None])
    result = above[None] * affine.adjoint(scaled, straight)
    return result + below[None] * affine.adjoint(scaled, crossed) if signed else result


def _one_sign(values: Tensor, sign: int) -> Tensor:
    return values.clamp(min=0) if sign > 0 else values.clamp(max=0)


def affine_z_box(at: Application, relevance: Tensor) -> Tensor:
    """The z^B rule for inputs in [low, high] (Dombrowski 2019, eq. 3; Montavon et al. 2017).

    Z = W x - W+ low - W- high without bias; R_in = x W^T S - low W+^T S - high W-^T S with S = R / Z. Padding
    stays zero: the bounds are not padded in.
    """
    if at.low is None or at.high is None:
        raise ValueError("expected the input's bounds, got none; the z^B rule is for the first layer only")
    affine = at.affine
    positive, negative = affine.weight.clamp(min=0), affine.weight.clamp(max=0)
    z = (
        affine.product(at.x, affine.weight)
        - affine.product(at.low, positive)
        - affine.product(at.high, negative)
    )
    scaled = safe_divide(relevance, z[None])
    lowest, highest = at.low * affine.adjoint(scaled, positive), at.high * affine.adjoint(scaled, negative)
    return at.x[None] * affine.adjoint(scaled, affine.weight) - lowest - highest


def affine_w_square(at: Application, relevance: Tensor) -> Tensor:
    """R_in = (W^2)^T (R / sum W^2), whatever the input is (Montavon et al. 2017, section 4.1).

    Padding counts in no sum and receives nothing, so that the relevance is conserved at borders too.
    """
    return _whatever_the_input(at, relevance, at.affine.weight.square())


def affine_flat(at: Application, relevance: Tensor) -> Tensor:
    """R_in = 1^T (R / sum 1): the same share to each input of a unit (Lapuschkin et al. 2019).

    The w^2 rule with weights of one: padding counts in no sum and receives nothing.
    """
    return _whatever_the_input(at, relevance, torch.ones_like(at.affine.weight))


def _whatever_the_input(at: Application, relevance: Tensor, weight: Tensor) -> Tensor:
    """Relevance in proportion to `weight`, to the inputs that the image can change: those with a range."""
    if at.low is None or at.high is None:
        raise ValueError("expected the input's bounds, got none; w^2 and flat are for the first layer only")
    real = (at.low != at.high).to(at.x.dtype)  # padding, in the layer or before it, has no range
    return real * at.affine.adjoint(safe_divide(relevance, at.affine.product(real, weight)), weight)


# --- rules of the other operations --------------------------------------------------------------------------


def gradient(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The operation's exact vector-Jacobian product."""
    return operation.adjoint(relevance)


def pass_through(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """R_in = R: the identity, for operations on one input that keep its shape.

    A constant shift or factor may repeat the input (one channel minus a mean for each of three): the
    relevance of the copies is then summed.
    """
    shape, repeats = operation.inputs[0].shape, operation.kind in ("shift", "scale")
    if operation.kind == "scale" and not multiplies(operation):
        raise ValueError(
            f"expected a constant factor, got a constant divided by its input in {operation.describe()}; "
            f'say how to treat it: overrides=(("{operation.base}", "gradient"),)'
        )
    if len(operation.inputs) != 1 or (relevance[0].shape[1:] != shape and not repeats):
        raise ValueError(
            f"expected an operation that keeps its one input's shape, got {operation.describe()}; "
            "relevance cannot be passed through it unchanged"
        )
    return (summed_to(relevance[0], shape),)


def proportional(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """R_in = x A^T (R / y) for an operation y = A x + c: the z rule of pooling, sums and shifts."""
    shares = operation.adjoint([safe_divide(relevance[0], operation.value[None])])
    return tuple(x[None] * share for x, share in zip(operation.values, shares, strict=True))


def guided(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """R_in = [R]+ f'(x) (Springenberg et al. 2015; Sixt 2020, eq. 14).

    For softplus the relevance is rectified by the same softplus (Dombrowski 2019). For activations other than
    ReLU the literature has no definition; f' generalizes the mask.
    """
    if operation.base in _RISING and not torch.is_grad_enabled():  # the same, with one copy less
        return (operation.adjoint(relevance)[0].clamp_(min=0),)
    return operation.adjoint([_rectify(operation, relevance[0])])


_RISING = frozenset({"relu", "relu6"})
"""Activations whose slope is 0 or 1 everywhere."""


def deconvolved(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """R_in = [R]+, whatever the activation was (Zeiler and Fergus 2014; Sixt 2020, section 2.2)."""
    return (_rectify(operation, relevance[0]),)


def _rectify(operation: Operation, relevance: Tensor) -> Tensor:
    if operation.base != "softplus":
        return relevance.clamp(min=0)
    beta = operation.kwargs.get("beta", operation.args[1] if len(operation.args) > 1 else 1.0)
    if isinstance(beta, Tensor):  # of a recorded step
        return F.softplus(relevance * beta) / beta
    return F.softplus(relevance, beta=beta)


def signed_sum(alpha: float, beta: float, clip: bool) -> Rule:
    """The alpha-beta rule of a sum: each addend's share of the positive and of the negative addends.

    Args:
        alpha: weight of the positive addends.
        beta: weight of the negative ones.
        clip: cut each addend's relevance to [0, 1000], as the code of Sixt et al. 2020 does at residual
            additions.
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        r, addends = relevance[0], _addends(operation)
        shares = [alpha * share for share in _split(addends, r, 1)]
        if beta:
            shares = [s - beta * share for s, share in zip(shares, _split(addends, r, -1), strict=True)]
        shares = [summed_to(share, x.shape) for share, x in zip(shares, addends, strict=True)]
        return tuple(share.clamp(0, 1000) if clip else share for share in shares)

    shares_ = f"{alpha:g} x_i+ R / sum x+ - {beta:g} x_i- R / sum x-" if beta else "x_i+ R / sum x+"
    rule.__doc__ = f"R_i = {shares_}{', cut to [0, 1000]' if clip else ''}, for the addends x_i."
    return rule


def _addends(operation: Operation) -> list[Tensor]:
    """The tensors that a sum really adds: with their sign, their factor, and how often they occur."""
    if operation.base == "add" and not operation.kwargs and set(operation.counts) == {1}:
        return list(operation.values)
    factors = operation.adjoint([torch.ones_like(operation.output)[None]])
    size = operation.output.numel()  # the factor of a broadcast addend is summed over its copies
    return [x * factor[0] * (x.numel() / size) for x, factor in zip(operation.values, factors, strict=True)]


def _split(addends: list[Tensor], relevance: Tensor, sign: int) -> list[Tensor]:
    """Relevance in proportion to the addends of one sign."""
    parts = [_one_sign(addend, sign) for addend in addends]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    scaled = safe_divide(relevance, total[None])
    return [part[None] * scaled for part in parts]
