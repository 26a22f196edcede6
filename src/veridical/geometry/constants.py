"""The constant of theorem 1: a bound on the Hessian of a softplus network from its weights alone.

Through the recorded operations three numbers are carried for the map from the image to a tensor: bounds on
the spectral and the Frobenius norm of its Jacobian J and on the Frobenius norm of its second derivative D.

    affine W              J -> ||W||_F ||J||_2           D -> ||W||_F ||D||_F
    softplus_beta         J -> J (slope at most 1)       D -> D + factor beta ||J||_2 ||J||_F
    sum of branches       sums of the bounds (triangle inequality)
    average, padding, ... J -> ||A||_2 J                 D -> ||A||_2 D,   ||A||_2^2 <= ||A||_1 ||A||_inf

On a chain of layers this is the paper's sum over m of prod_{l>m} ||W_l|| prod_{l<=m} ||W_l||^2, times beta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from veridical.checks import check_choice, evaluation_mode, resolve_target
from veridical.rules import Operation, Trace, record
from veridical.rules.affine import Affine, affine_of, fold
from veridical.smoothing import predicted_target
from veridical.smoothing.activations import rectification
from veridical.smoothing.schedule import check_beta
from veridical.values import Target

FACTORS = {"paper": 1.0, "tight": 0.25}
"""Bounds of softplus_beta'' / beta: 1 in the paper's proof, and its largest value, 1/4 (at 0)."""

_JOINING = frozenset({"cat", "concat", "concatenate"})
_SPLITTING = frozenset({"chunk", "split", "unbind", "tensor_split", "split_with_sizes"})
_NOT_POSITIVE = frozenset({"masked_fill", "where", "interpolate", "upsample"})
"""Operations of a linear kind that may have negative entries, or are not linear."""


@dataclass(frozen=True, eq=False)
class WeightConstant:
    """||H||_F <= beta * constant everywhere, for the Hessian H of each image's logit.

    Attributes:
        constant: float64 (N,), the paper's C times the least gradient norm; the factor is in it.
        gradient: float64 (N,), a bound on ||grad g||.
        norms: the Frobenius norm of every affine operation, by name, batch normalization folded in.
        beta: of the softplus; the largest where the network has several of its own.
        factor: "paper" or "tight".
    """

    constant: Tensor
    gradient: Tensor
    norms: dict[str, float]
    beta: float
    factor: str

    @property
    def hessian(self) -> Tensor:
        """float64 (N,), the bound on ||H||_F."""
        return self.beta * self.constant


@dataclass(frozen=True)
class _Bound:
    """Bounds for the map from the image to one tensor."""

    spectral: float
    frobenius: float
    second: float

    def scaled(self, norm: float) -> _Bound:
        return _Bound(norm * self.spectral, norm * self.frobenius, norm * self.second)

    def through(self, norm: float) -> _Bound:
        """After an affine map of that Frobenius norm."""
        return _Bound(norm * self.spectral, norm * self.spectral, norm * self.second)

    def curved(self, sharpness: float) -> _Bound:
        """After an activation with slope at most 1 and second derivative at most `sharpness`."""
        added = sharpness * self.spectral * self.frobenius
        return _Bound(self.spectral, self.frobenius, self.second + added)

    def plus(self, other: _Bound) -> _Bound:
        return _Bound(
            self.spectral + other.spectral, self.frobenius + other.frobenius, self.second + other.second
        )

    def beside(self, other: _Bound) -> _Bound:
        return _Bound(
            math.hypot(self.spectral, other.spectral),
            math.hypot(self.frobenius, other.frobenius),
            math.hypot(self.second, other.second),
        )


@dataclass
class _Walk:
    """What is known so far."""

    beta: float | None
    factor: float
    bounds: dict[int, _Bound]
    norms: dict[str, float] = field(default_factory=dict)
    betas: list[float] = field(default_factory=list)


def weight_constant(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    beta: float | None = None,
    factor: str = "paper",
) -> WeightConstant:
    """The constant of theorem 1 for each image's logit, from the weights and the size of the images.

    Args:
        model: made of linear layers, convolutions, batch normalization, ReLU or softplus, averages, padding,
            reshapes, slices, concatenations and residual sums.
        inputs: (N, C, H, W); their numbers do not matter but for the predicted classes, their size does.
        target: the class; None for the predicted one.
        beta: of the softplus in place of every ReLU; None where the network has softplus of its own.
        factor: "paper" bounds the second derivative of softplus_beta by beta, "tight" by beta / 4.

    Raises:
        TypeError: if something is of the wrong type.
        ValueError: if the network has an operation without a bound; the message names it and the reason.

    Source: Dombrowski et al. 2019, supplement E.1, equations 12 to 18. The paper has chains of linear layers
    with softplus after each, the last included; the rest of the table above is ours. softplus of torch is
    linear above beta x = 20, where its slope jumps by 2e-9; that is neglected.
    """
    check_choice("factor", factor, FACTORS)
    if beta is not None:
        check_beta(beta)
    with evaluation_mode(model):
        classes = predicted_target(model, inputs, target)
        trace = record(model, inputs[:1].detach())
    start = _Bound(1.0, math.sqrt(inputs[0].numel()), 0.0)
    walk = _Walk(beta, FACTORS[factor], {id(trace.inputs): start})
    for operation in trace.operations:
        bound = _after(operation, walk)
        walk.bounds.update((id(tensor), bound) for tensor in operation.outputs)
    if not walk.betas:
        raise ValueError("expected a network with ReLU or softplus, got none; its logits are affine")
    gradient, second = _rows(trace, walk)
    sharpest = max(walk.betas)
    where = resolve_target(trace.logits.detach().expand(len(inputs), -1), classes).cpu()
    return WeightConstant(second[where] / sharpest, gradient[where], walk.norms, sharpest, factor)


def _rows(trace: Trace, walk: _Walk) -> tuple[Tensor, Tensor]:
    """Bounds on gradient and Hessian of every logit: by the rows of the last layer where it is linear."""
    maker = next((item for item in trace.operations if item.outputs[0] is trace.logits), None)
    classes = trace.logits.shape[1]
    if maker is not None and maker.kind == "linear":
        before = walk.bounds[id(maker.sources[0])]
        rows = affine_of(maker).weight.detach().double().norm(dim=1).cpu()
        return rows * before.spectral, rows * before.second
    bound = walk.bounds[id(trace.logits)]
    full = torch.ones(classes, dtype=torch.float64)
    return full * bound.spectral, full * bound.second


def _after(operation: Operation, walk: _Walk) -> _Bound:
    """The bound for the result of one operation."""
    bounds = [walk.bounds[id(tensor)] for tensor in operation.sources]
    kind = operation.kind
    if kind in ("convolution", "linear"):
        norm = operator_norm(affine_of(operation), tuple(operation.inputs[0].shape[1:]))
        walk.norms[operation.name] = norm
        return bounds[0].through(norm)
    if kind == "batch_norm":
        return _batch_norm(operation, bounds[0], walk)
    if kind == "activation":
        return _activation(operation, bounds[0], walk)
    if kind == "sum":
        return _sum(operation, bounds)
    if kind == "shift" and operation.output.shape == operation.inputs[0].shape:
        return bounds[0]
    if kind == "scale":
        return bounds[0].scaled(_largest_factor(operation))
    if kind in ("structure", "average_pool") and len(bounds) == 1:
        return bounds[0].scaled(_averaging_norm(operation))
    if operation.base in _JOINING:
        joined = bounds[0].scaled(math.sqrt(operation.counts[0]))
        for bound, count in zip(bounds[1:], operation.counts[1:], strict=True):
            joined = joined.beside(bound.scaled(math.sqrt(count)))
        return joined
    raise _refused(operation)


def _refused(operation: Operation) -> ValueError:
    reasons = {
        "max_pool": "the gradient jumps where another value becomes the largest, whatever beta is; "
        "use average pooling",
        "activation": "only ReLU with beta, and softplus, have a slope of at most 1 and a second derivative "
        "of at most beta",
        "product": "its derivatives depend on the size of its factors, which weights do not bound",
        "matmul": "its derivatives depend on the size of its factors, which weights do not bound",
        "normalization": "it divides by statistics of the image, which weights do not bound from below",
        "softmax": "no weight stands in it; take the bound for the logits",
    }
    reason = reasons.get(operation.kind, "no bound on its derivatives is known")
    return ValueError(f"expected operations that weights bound, got {operation.describe()}: {reason}")


def _sum(operation: Operation, bounds: list[_Bound]) -> _Bound:
    """A residual sum, sizes broadcast or not, with the factor `alpha` of `torch.add`."""
    if operation.kwargs.get("alpha", 1) != 1 or any(
        tensor.shape != operation.output.shape for tensor in operation.inputs
    ):
        raise _refused(operation)
    total = bounds[0].scaled(operation.counts[0])
    for bound, count in zip(bounds[1:], operation.counts[1:], strict=True):
        total = total.plus(bound.scaled(count))
    return total


def _batch_norm(operation: Operation, bound: _Bound, walk: _Walk) -> _Bound:
    """Folded into the convolution or linear layer before it; otherwise the largest scale of a channel."""
    scale = affine_of(operation)
    maker = operation.makers[0]
    if maker is None or maker.kind not in ("convolution", "linear"):
        return bound.scaled(float(scale.weight.detach().abs().max()))
    folded = fold(affine_of(maker), scale)
    norm = operator_norm(folded, tuple(maker.inputs[0].shape[1:]))
    walk.norms.pop(maker.name, None)
    walk.norms[f"{maker.name} + {operation.name}"] = norm
    return walk.bounds[id(maker.sources[0])].through(norm)


def _activation(operation: Operation, bound: _Bound, walk: _Walk) -> _Bound:
    if operation.base == "softplus":
        given = dict(zip(("input", "beta", "threshold"), operation.args, strict=False)) | operation.kwargs
        beta = float(given.get("beta", 1.0))
    elif rectification(operation.function, operation.args, operation.kwargs) is not None:
        if walk.beta is None:
            raise ValueError(
                f"expected beta for a network with ReLU, got None at {operation.describe()}; the bound grows "
                "with beta and is infinite for ReLU"
            )
        beta = walk.beta
    else:
        raise _refused(operation)
    walk.betas.append(beta)
    return bound.curved(walk.factor * beta)


def _largest_factor(operation: Operation) -> float:
    """Of a product with numbers that do not depend on the image."""
    if operation.base == "neg":
        return 1.0
    ones = torch.ones_like(operation.inputs[0])
    factors = operation.replay(ones).detach()
    zeros = operation.replay(torch.zeros_like(ones)).detach()
    if not bool(torch.isfinite(factors).all()) or bool((zeros != 0).any()):
        raise _refused(operation)  # a number divided by a value of the network
    spread = math.sqrt(factors.numel() / ones.numel())  # values that are broadcast stand there several times
    return float(factors.abs().max()) * max(1.0, spread)


def _averaging_norm(operation: Operation) -> float:
    """sqrt(||A||_1 ||A||_inf) of a linear operation with entries of at least 0, by products with ones."""
    if operation.base in _SPLITTING:
        return 1.0
    if operation.base in _NOT_POSITIVE or len(operation.outputs) != 1:
        raise _refused(operation)
    source = operation.inputs[0].detach()
    with torch.enable_grad():
        ones = torch.ones_like(source).requires_grad_()
        rows = operation.replay(ones) - operation.replay(torch.zeros_like(source))
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    if bool((rows < 0).any()):
        raise _refused(operation)
    return math.sqrt(float(rows.detach().max()) * float(columns.max()))


def operator_norm(affine: Affine, shape: tuple[int, ...]) -> float:
    """Frobenius norm of a linear layer or convolution as a matrix, in closed form: it is never built.

    A weight of a convolution stands in the matrix once for every output whose tap falls on a value of the
    image and not on the padding; the number of these is a product over the axes.

    Args:
        affine: of any stride, zero padding, dilation and groups.
        shape: of one input, without the batch; a linear layer is applied along its last axis.
    """
    weight = affine.weight.detach().double()
    if affine.dims == 0:
        return float(weight.norm()) * math.sqrt(math.prod(shape[:-1]))
    squares = weight.square()
    for axis in range(affine.dims):
        squares = squares * _uses(affine, axis).to(squares).reshape(-1, *[1] * (affine.dims - 1 - axis))
    return math.sqrt(float(squares.sum()))


def _uses(affine: Affine, axis: int) -> Tensor:
    """How many outputs along an axis see the image through each tap of the kernel."""
    size, kernel = affine.size[axis], affine.weight.shape[2 + axis]
    stride, padding, dilation = affine.stride[axis], affine.padding[axis], affine.dilation[axis]
    outputs = (size + 2 * padding + affine.extra[axis] - dilation * (kernel - 1) - 1) // stride + 1
    places = torch.arange(outputs)[None] * stride - padding + torch.arange(kernel)[:, None] * dilation
    return ((places >= 0) & (places < size)).sum(dim=1)
