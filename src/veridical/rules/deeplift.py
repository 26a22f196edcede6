"""DeepLIFT's rules with one multiplier for each value: Rescale, and the ablation without cross terms.

A multiplier m says how much of the output's difference from its reference follows from a value's difference:
contribution = m (x - x0). Every rule needs the same operation in the pass of the reference beside it; a
`Pairing` has both. Multipliers are (S, N, ...), tensors of the reference (N, ...) or (1, ...).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from veridical.rules.catalog import gradient, some_images_at_a_time
from veridical.rules.deeplift_norm import normalized, softmax
from veridical.rules.deeplift_pairs import Pairing
from veridical.rules.operations import Operation, multiplies
from veridical.rules.ruleset import AffineRule, Application, Rule
from veridical.tensors import safe_divide

NEAR = 1e-7
"""Up to this difference of an activation's input, times `magnitude`, the derivative stands for the slope."""

NODES = 16
"""Gauss-Legendre nodes on the path from the reference to the image, at operations without a closed form."""


def rescale(pairs: Pairing) -> Rule:
    """The Rescale rule: slope of the chord, for activations of one variable."""

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """m_in = m (y - y0) / (x - x0), with f'(x0) in its place where |x - x0| is below 1e-7 (Rescale)."""
        there, x = pairs.reference(operation), operation.values[0]
        local = there.adjoint([torch.ones_like(there.output)[None]])[0][0]
        fixed = (value.expand_as(x) for value in (there.values[0], there.output, local))
        return (some_images_at_a_time(_chord, relevance[0], x, operation.output, *fixed),)

    return rule


def _chord(m: Tensor, x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, local: Tensor) -> Tensor:  # noqa: PLR0913
    dx = x - x0
    near = dx.abs() <= NEAR * magnitude(x, x0, y, y0)
    return m * torch.where(near, local, (y - y0) / dx.masked_fill(near, 1.0))


def magnitude(*values: Tensor) -> Tensor:
    """The largest of the absolute values at each place, at most 1; a constant for derivatives."""
    return reduce(torch.maximum, (value.detach().abs() for value in values)).clamp(max=1)


def exchange(pairs: Pairing) -> Rule:
    """Max pooling that is complete: each change of an output goes to the input that made it.

    Where the output rose, the image's largest input rose at least as much; where it fell, the reference's
    largest input fell at least as much. So no contribution is divided by a difference of 0, no multiplier
    exceeds the output's, and the contributions of a window sum to the output's, whether or not windows
    overlap. Where the image's largest input is among the reference's largest (a window of one value, such as
    zeros give), it made the whole change, up or down. A contribution of 0 to an input that did not change
    leaves its multiplier open: the gradient.
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """m_in = contribution / (x - x0): to the image's winner if y rose, to the reference's if it fell."""
        x = operation.values[0]
        x0 = pairs.reference(operation).values[0].expand_as(x)
        return (some_images_at_a_time(partial(_exchanged, operation), relevance[0], x, x0),)

    return rule


def _exchanged(operation: Operation, m: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Multipliers of the input of a max pooling, from those of its output, for some of the images."""
    here, there = _Pooling(operation, x), _Pooling(operation, x0)
    dy = here.output - there.output
    elsewhere = (dy < 0) & (here.at_winners(x0) != there.output)
    contribution = here.adjoint(m * dy.masked_fill(elsewhere, 0.0))
    if bool(elsewhere.any()):
        contribution = contribution + there.adjoint(m * dy.masked_fill(~elsewhere, 0.0))
    result = safe_divide(contribution, x - x0)
    if bool((dy == 0).any()):
        result = result + here.adjoint(m * (dy == 0)) * (x == x0)
    return result


class _Pooling:
    """A max pooling of other values, with its derivative."""

    def __init__(self, operation: Operation, x: Tensor) -> None:
        with torch.enable_grad():
            self.input = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            self.result = operation.replay(self.input)
        self.output = self.result if torch.is_grad_enabled() else self.result.detach()

    def adjoint(self, m: Tensor) -> Tensor:
        """The vector-Jacobian product (S, N, ...) for cotangents (S, N, ...)."""
        several = len(m) > 1
        (found,) = torch.autograd.grad(
            self.result, self.input, m if several else m[0],
            retain_graph=True, create_graph=torch.is_grad_enabled(), is_grads_batched=several,
        )  # fmt: skip
        return found if several else found[None]

    def at_winners(self, values: Tensor) -> Tensor:
        """What other values of the input are where this one is largest."""
        with torch.enable_grad():
            probe = torch.zeros_like(self.result)[None].requires_grad_()
            (found,) = torch.autograd.grad(self.adjoint(probe), probe, values.detach()[None])
        return found[0].detach()


def along_path(pairs: Pairing, nodes: int) -> Rule:
    """The integrated gradients of one operation (Sundararajan et al. 2017), with Gauss-Legendre nodes.

    Complete to the quadrature error. One node is the middle of the path: exact where the operation is of
    degree two, as a product of two inputs is, and then the mean of the gradients at both ends, which is the
    Shapley value of the two inputs.
    """
    text = (
        "mean of the gradients at the image and at the reference"
        if nodes == 1
        else f"mean gradient on the path from the reference, {nodes} Gauss-Legendre nodes"
    )

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        starts = pairs.reference(operation).inputs
        # What is minus infinity in both, as behind an attention mask, does not change.
        steps = [_finite(x - start) for x, start in zip(operation.inputs, starts, strict=True)]
        total: list[Tensor] = []
        for node, weight in _quadrature(nodes):
            points = [start + node * step for start, step in zip(starts, steps, strict=True)]
            parts = [weight * part for part in _vjp(operation, points, relevance[0])]
            total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
        return tuple(total)

    rule.__doc__ = f"m_in = m times the {text}."
    return rule


def _finite(values: Tensor) -> Tensor:
    return values.masked_fill(~values.isfinite(), 0.0)


@cache
def _quadrature(nodes: int) -> tuple[tuple[float, float], ...]:
    """Nodes in (0, 1) and weights that sum to 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple(zip(((points + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def _vjp(operation: Operation, points: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """The vector-Jacobian products (S, N, ...) of an operation at other values of its inputs."""
    create, several = torch.is_grad_enabled(), len(cotangent) > 1
    with torch.enable_grad():
        if not create:
            points = [point.detach().requires_grad_() for point in points]
        output = operation.replay(*points)
        grads = torch.autograd.grad(
            output, points, cotangent if several else cotangent[0],
            create_graph=create, is_grads_batched=several,
        )  # fmt: skip
    return [grad if several else grad[None] for grad in grads]


def quotient(pairs: Pairing) -> Rule:
    """A quotient a / b as the product of a and 1 / b: closed form, complete."""

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """For a / b the product rule for a and 1/b, and for 1/b the slope of its chord, -1 / (b b0)."""
        m, there = relevance[0], pairs.reference(operation)
        terms = _operands(operation)
        (a, b), (a0, b0) = terms, _operands(there)
        totals = [x.new_zeros(()) for x in operation.inputs]
        for term, slope in zip(terms, ((1 / b + 1 / b0) / 2, -(a + a0) / 2 / (b * b0)), strict=True):
            for index, x in enumerate(operation.inputs):
                if term is x:
                    shape = (len(m), *[1] * (m.dim() - 1 - x.dim()), *x.shape)
                    totals[index] = totals[index] + (m * slope).sum_to_size(shape).reshape(len(m), *x.shape)
        return tuple(totals)

    return rule


def _operands(operation: Operation) -> list[Any]:
    """Numerator and denominator, tensors or numbers."""
    given = dict(zip(("input", "other"), operation.args, strict=False)) | operation.kwargs
    return [given["input"], given["other"]]


def quotients_apart(pairs: Pairing, rule: Rule) -> Rule:
    """A rule for factors and products, with the rule of quotients where the image is what is divided by."""
    below = quotient(pairs)

    def chosen(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (rule if multiplies(operation) else below)(operation, relevance)

    chosen.__doc__ = f"{(rule.__doc__ or '').splitlines()[0]} {below.__doc__}"
    return chosen


def single_rules(pairs: Pairing, max_pool: Callable[[Pairing], Rule]) -> dict[str, Rule]:
    """The rules of all kinds of operations but affine ones, for one multiplier."""
    return {
        "activation": rescale(pairs),
        "max_pool": max_pool(pairs),
        "normalization": normalized(pairs, along_path(pairs, NODES)),
        "softmax": softmax(pairs, along_path(pairs, NODES)),
        "product": quotients_apart(pairs, along_path(pairs, 1)),
        "matmul": along_path(pairs, 1),
        "scale": quotients_apart(pairs, gradient),
        **dict.fromkeys(("average_pool", "structure", "sum", "shift"), gradient),
    }


def affine_ablation(pairs: Pairing) -> AffineRule:
    """The linear rule of Sixt et al.'s ablation, as their code has it."""

    def rule(at: Application, relevance: Tensor) -> Tensor:
        """m_in = W+^T m where x differs from x0, W^T m where it does not; BatchNorm alone: g m."""
        affine = at.affine
        if affine.dims < 0:
            return affine.adjoint(relevance, affine.weight)
        same = pairs.before(at) == 0
        kept = affine.adjoint(relevance, affine.weight.clamp(min=0))
        if not bool(same.any()):
            return kept
        return torch.where(same, affine.adjoint(relevance, affine.weight), kept)

    return rule


def affine_decoupled(pairs: Pairing) -> AffineRule:
    """The linear rule of the ablation as the text of Sixt et al. 2020 has it: two chains that never mix."""

    def rule(at: Application, relevance: Tensor) -> Tensor:
        """m+_in = [x > x0] W+^T m+; m-_in = [x < x0] W-^T m-."""
        affine, dx = at.affine, pairs.before(at)
        above, below = relevance.chunk(2)
        positive = affine.adjoint(above, affine.weight.clamp(min=0)) * (dx > 0)
        return torch.cat([positive, affine.adjoint(below, affine.weight.clamp(max=0)) * (dx < 0)])

    return rule
