"""DeepLIFT at normalization layers and softmax: their elementary steps in closed form, exactly complete.

Normalization: y = weight (x - mean) s + bias with s = 1 / sqrt(variance + eps): a product of two values that
depend on x. The product has the mean of the gradients at both ends, the variance v, of degree two, the
gradient in the middle, and s the slope of its chord, (s - s0) / (v - v0) = - (s s0)^2 / (s + s0). Nothing is
divided by a difference, and a reference of variance 0 is as good as another.

Softmax: y = exp(z), z = x - L, L the logarithm of the sum. Let a = (y - y0) / (z - z0), the slope of exp's
chord (the logarithmic mean of y and y0). Because y and y0 both sum to 1, 0 = sum a (z - z0), and therefore
L - L0 = sum a (x - x0) / sum a. That is the softmax's own Jacobian with a in the place of y.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from veridical.rules.deeplift_pairs import Pairing
from veridical.rules.operations import Operation
from veridical.rules.ruleset import Rule

_NAMES = {
    "layer_norm": ("input", "shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "shape", "weight", "eps"),
    "group_norm": ("input", "groups", "weight", "bias", "eps"),
    "instance_norm": (
        "input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps",
    ),
}  # fmt: skip
_NEAR = 1e-6  # the logarithmic mean is the mean there, to 1e-13
_ALIASES = {"normalized_shape": "shape", "num_groups": "groups"}


@dataclass(frozen=True, eq=False)
class _Layout:
    """How a normalization layer groups the values of its input (N, ...).

    Attributes:
        split: the shape in which each last dimension is one group.
        weight: broadcastable to the input; None for 1.
        eps: what is added to the variance.
        centered: whether the mean is subtracted.
    """

    split: tuple[int, ...]
    weight: Tensor | None
    eps: float
    centered: bool

    def deviations(self, x: Tensor) -> Tensor:
        """The values (N, ...) or (1, ...) minus their group's mean, (..., n); the values if not centered."""
        rows = x.reshape(len(x), *self.split[1:])
        return rows - rows.mean(-1, keepdim=True) if self.centered else rows

    def inverse_deviation(self, deviations: Tensor) -> Tensor:
        """1 / sqrt(variance + eps) of each group, (..., groups, 1)."""
        return torch.rsqrt(deviations.square().mean(-1, keepdim=True) + self.eps)


def _layout(operation: Operation) -> _Layout | None:
    """The groups of a layer, group, instance or RMS norm; None where it works with stored statistics."""
    if operation.base not in _NAMES:
        return None
    if operation.base == "instance_norm" and operation.function is not F.instance_norm:
        return None  # torch.instance_norm has its arguments in another order
    given = {_ALIASES.get(key, key): value for key, value in operation.kwargs.items()}
    values: dict[str, Any] = dict(zip(_NAMES[operation.base], operation.args, strict=False)) | given
    x, weight = operation.inputs[0], values.get("weight")
    if len(operation.inputs) > 1:  # the weight depends on the image too
        return None
    eps = values.get("eps", torch.finfo(x.dtype).eps if operation.base == "rms_norm" else 1e-5)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if "shape" in values:
        rows = tuple(x.shape[: x.dim() - len(tuple(values["shape"]))])
        return _Layout((*rows, -1), weight, eps, operation.base == "layer_norm")
    if not values.get("use_input_stats", True):
        return None
    groups = values.get("groups", x.shape[1])
    shaped = None if weight is None else weight.reshape(-1, *[1] * (x.dim() - 2))
    return _Layout((len(x), groups, -1), shaped, eps, True)


def normalized(pairs: Pairing, general: Rule) -> Rule:
    """The rule of normalization layers; `general` serves those that are none of the four."""

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The product rule for (x - mean) and 1/std, the chord's slope for 1/std; complete."""
        layout = _layout(operation)
        if layout is None:
            return general(operation, relevance)
        here, there = (
            layout.deviations(x) for x in (operation.inputs[0], pairs.reference(operation).inputs[0])
        )
        s, s0 = layout.inverse_deviation(here), layout.inverse_deviation(there)
        m = relevance[0] if layout.weight is None else relevance[0] * layout.weight
        m = m.reshape(len(m), *here.shape)
        middle = (here + there) / 2
        direct = m * ((s + s0) / 2)
        if layout.centered:
            direct = direct - direct.mean(-1, keepdim=True)
        slope = -((s * s0) ** 2) / (s + s0)
        pull = (m * middle).sum(-1, keepdim=True) * slope * (2 / here.shape[-1])
        return ((direct + pull * middle).reshape(relevance[0].shape),)

    return rule


def softmax(pairs: Pairing, general: Rule) -> Rule:
    """The rule of softmax; `general` serves calls that do not name their dimension."""

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """m_in = a (m - sum a m / sum a), a = (y - y0) / (log y - log y0); complete."""
        dim = operation.kwargs.get("dim", operation.args[1] if len(operation.args) > 1 else None)
        if not isinstance(dim, int):
            return general(operation, relevance)
        there, m = pairs.reference(operation), relevance[0]
        axis = dim % operation.output.dim() + 1
        a = _chord(operation, there, dim)[None]
        return (a * (m - (a * m).sum(axis, keepdim=True) / a.sum(axis, keepdim=True)),)

    return rule


def _chord(operation: Operation, there: Operation, dim: int) -> Tensor:
    """The logarithmic mean of a softmax's values at both ends; 0 where a mask leaves none."""
    y, y0 = operation.output, there.output
    z, z0 = (torch.log_softmax(end.inputs[0], dim) for end in (operation, there))
    step = z - z0
    masked = ~step.isfinite()
    near = (step.abs() < _NEAR) | masked
    size = step.abs().masked_fill(near, 1.0)
    slope = torch.maximum(y, y0) * -torch.expm1(-size) / size  # no overflow, no difference of near values
    return torch.where(near, (y + y0) / 2, slope)
