"""Affine operations y = W x + b: convolution, linear, and batch normalization, alone or folded in."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from veridical.rules.operations import Operation

_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_LINEAR_ARGUMENTS = ("input", "weight", "bias")
_BATCH_NORM_ARGUMENTS = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip

LARGE = 2**24
"""Weights of a linear layer of which a copy is made at once: 64 MB in single precision."""

_FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_WEIGHT_GRADIENT = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False)
class Affine:
    """W and b of one operation, with the products W x and W^T r for any weight of the same shape.

    Attributes:
        weight: as the operation has it; for batch normalization the scale of each channel (C,).
        bias: (channels out,) or None.
        dims: number of spatial dimensions of a convolution; 0 for linear, -1 for batch normalization.
        stride, padding, dilation: one value for each spatial dimension.
        extra: the end padding that exceeds the start padding (an even kernel with padding "same").
        groups: of a convolution.
        size: spatial size of the input.
    """

    weight: Tensor
    bias: Tensor | None
    dims: int
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    groups: int = 1
    size: tuple[int, ...] = ()

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """W x for x (N, ...), without the bias."""
        if self.dims == 0:
            return F.linear(x, weight)
        if self.dims < 0:
            return x * _channelwise(weight, x)
        if any(self.extra):
            x = F.pad(x, [side for extra in reversed(self.extra) for side in (0, extra)])
        return _FORWARD[self.dims](x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, r: Tensor, weight: Tensor) -> Tensor:
        """W^T r for r (S, N, ...), as a transposed convolution: its own derivative is a plain convolution.

        A convolution of single places is a product of matrices for each group: faster in both directions.
        """
        if self.dims == 0:
            return F.linear(r, weight.t())
        if self.dims < 0:
            return r * _channelwise(weight, r[0])
        flat = r.flatten(0, 1)
        if self._is_pointwise():
            turned = weight.flatten(1).unflatten(0, (self.groups, -1)).transpose(1, 2)
            places = flat.flatten(2).unflatten(1, (self.groups, -1))
            back = turned.expand(len(flat), -1, -1, -1) @ places  # batched on both sides: no copy of places
            back = back.flatten(1, 2).unflatten(2, self.size)
        else:
            back = self._transposed(flat, weight)
        unfolded: Tensor = back.unflatten(0, r.shape[:2])
        return unfolded

    def _is_pointwise(self) -> bool:
        """Whether each output sees one place of the input, and each place is seen once."""
        kernel = self.weight.shape[2:]
        return {*kernel, *self.stride} == {1} and {*self.padding, *self.extra} == {0}

    def _transposed(self, flat: Tensor, weight: Tensor) -> Tensor:
        rest = tuple(
            size + extra - ((out - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1)
            for size, extra, out, stride, pad, dilation, kernel in zip(
                self.size, self.extra, flat.shape[2:], self.stride, self.padding, self.dilation,
                weight.shape[2:], strict=True,
            )
        )  # fmt: skip
        back = _TRANSPOSED[self.dims](
            flat, weight, None, self.stride, self.padding, rest, self.groups, self.dilation
        )
        for axis, size in enumerate(self.size):
            if self.extra[axis]:
                back = back.narrow(axis + 2, 0, size)
        return back

    def sizes_product(self, x: Tensor) -> Tensor:
        """|W| x for x (N, ...), without the bias; the copy of a large linear layer is made in parts."""
        if self.dims or self.weight.numel() <= LARGE:
            return self.product(x, self.weight.abs())
        return torch.cat([part.product(x, part.weight.abs()) for _, part in self.rows(LARGE)], dim=-1)

    def sizes_adjoint(self, r: Tensor) -> Tensor:
        """|W|^T r for r (S, N, ...), in the same way."""
        if self.dims or self.weight.numel() <= LARGE:
            return self.adjoint(r, self.weight.abs())
        parts = (part.adjoint(r[..., rows], part.weight.abs()) for rows, part in self.rows(LARGE))
        return reduce(torch.add, parts)

    def rows(self, limit: int) -> Iterator[tuple[slice, "Affine"]]:
        """A linear layer as layers of some of its outputs, each of about `limit` weights."""
        step = max(1, limit // self.weight.shape[1])
        for begin in range(0, self.weight.shape[0], step):
            part = slice(begin, begin + step)
            yield (
                part,
                replace(self, weight=self.weight[part], bias=None if self.bias is None else self.bias[part]),
            )

    def weight_gradient(self, x: Tensor, r: Tensor) -> Tensor:
        """The sum over images and places of r times the x it sees, for x (N, ...) and outputs r (N, ...).

        It has the weight's shape, and is the gradient of (r * W x).sum() with respect to W: sums over all
        patches of a convolution without unfolding them. Not differentiable.
        """
        if self.dims == 0:
            return r.flatten(0, -2).t() @ x.flatten(0, -2)
        if self.dims < 0:
            return (r * x).transpose(0, 1).flatten(1).sum(1)
        if any(self.extra):
            x = F.pad(x, [side for extra in reversed(self.extra) for side in (0, extra)])
        total: Tensor = _WEIGHT_GRADIENT[self.dims](  # type: ignore[no-untyped-call]
            x, self.weight.shape, r, self.stride, self.padding, self.dilation, self.groups
        )
        return total

    def shaped_bias(self, like: Tensor) -> Tensor | None:
        """The bias, shaped to be added to an output like `like` (N, ...)."""
        if self.bias is None or self.dims == 0:
            return self.bias
        return _channelwise(self.bias, like)


def affine_of(operation: Operation) -> Affine:
    """The affine map that an operation of kind convolution, linear or batch_norm performs."""
    if operation.kind == "linear":
        values = _named(operation, _LINEAR_ARGUMENTS)
        _check_precision(operation, values["weight"])
        return Affine(values["weight"], values.get("bias"), 0)
    if operation.kind == "batch_norm":
        return _batch_norm(operation)
    values = _named(operation, _CONVOLUTION_ARGUMENTS)
    weight, dims = values["weight"], values["weight"].dim() - 2
    _check_precision(operation, weight)
    stride = _each(values.get("stride", 1), dims)
    dilation = _each(values.get("dilation", 1), dims)
    padding, extra = values.get("padding", 0), (0,) * dims
    if padding == "same":
        totals = tuple(d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
        padding, extra = tuple(total // 2 for total in totals), tuple(total % 2 for total in totals)
    elif padding == "valid":
        padding = 0
    size = tuple(operation.inputs[0].shape[2:])
    return Affine(
        weight, values.get("bias"), dims, stride, _each(padding, dims), dilation, extra,
        values.get("groups", 1), size,
    )  # fmt: skip


def _check_precision(operation: Operation, weight: Tensor) -> None:
    """Check that a layer computed in the precision of its weights, as its rule will."""
    result = operation.output.dtype
    if result != weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        raise ValueError(
            f"expected a layer that computes in its weights' precision, got {weight.dtype} weights and "
            f"{result} results in {operation.describe()}; take torch.autocast out of the model, or "
            "explain it under torch.autocast too"
        )


def fold(convolution: Affine, batch_norm: Affine) -> Affine:
    """The one affine map that a convolution (or linear) and the batch normalization after it perform."""
    scale = batch_norm.weight
    bias = (
        batch_norm.bias if convolution.bias is None else convolution.bias * scale + _zero_if_none(batch_norm)
    )
    return replace(
        convolution,
        weight=convolution.weight * scale.reshape(-1, *[1] * (convolution.weight.dim() - 1)),
        bias=bias,
    )


def _zero_if_none(batch_norm: Affine) -> Tensor:
    return torch.zeros_like(batch_norm.weight) if batch_norm.bias is None else batch_norm.bias


def _batch_norm(operation: Operation) -> Affine:
    values = _named(operation, _BATCH_NORM_ARGUMENTS)
    mean, variance = values["running_mean"], values["running_var"]
    if values.get("training", False) or mean is None or variance is None:
        raise ValueError(
            f"expected batch normalization with stored statistics, got {operation.describe()} that uses "
            "the batch's own; "
            "an explanation of one image would depend on the others"
        )
    scale = torch.rsqrt(variance + values.get("eps", 1e-5))
    if values.get("weight") is not None:
        scale = scale * values["weight"]
    shift = -mean * scale
    return Affine(scale, shift if values.get("bias") is None else shift + values["bias"], -1)


def _named(operation: Operation, names: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(names, operation.args, strict=False)) | operation.kwargs


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _channelwise(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))
