"""Layers whose weights are constants: second derivatives by the image without those by the weights.

The double backward of torch's convolution always computes the derivative by the weights, group by group; for
the depthwise convolutions of mobile networks that takes most of a product with the Hessian. By the image a
convolution is linear: its derivative is the transposed convolution, and the derivative of that the
convolution. Batch normalization is a product with constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

Sizes = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups."""


class ConstantWeights(TorchFunctionMode):
    """Within it, convolutions and batch normalization have no derivatives by their weights, of any order.

    What is computed from parameters, statistics of the batch, padding given by name, and what runs under
    autocast are left as they are.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace a convolution, call everything else."""
        if func in _DIMENSIONS and not torch.is_autocast_enabled(_where(args, kwargs)):
            given = dict(zip(_NAMES, args, strict=False)) | dict(kwargs or {})
            if _constant(given["weight"], given.get("bias")) and not isinstance(given.get("padding"), str):
                return _convolved(given, _DIMENSIONS[func])
        if func is torch.batch_norm and not kwargs:
            x, weight, bias, mean, variance, training, _, eps, _ = args
            if not training and _constant(weight, bias, mean, variance):
                return _normalized(x, (weight, bias), mean, (variance + eps).rsqrt())
        return func(*args, **(kwargs or {}))


def _where(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> str:
    x: Tensor = args[0] if args else (kwargs or {})["input"]
    return x.device.type


def _constant(*weights: Tensor | None) -> bool:
    return all(weight is None or weight.is_leaf for weight in weights)


def _normalized(x: Tensor, affine: Sequence[Tensor | None], mean: Tensor, scale: Tensor) -> Tensor:
    weight, bias = (None if item is None else item.detach() for item in affine)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1, *[1] * (x.dim() - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


def _convolved(given: Mapping[str, Any], dims: int) -> Tensor:
    stride, padding, dilation = (
        [size] * dims if isinstance(size, int) else list(size) * (dims if len(size) == 1 else 1)
        for size in (given.get("stride", 1), given.get("padding", 0), given.get("dilation", 1))
    )
    sizes = (stride, padding, dilation, given.get("groups", 1))
    x, alone = given["input"], given["input"].dim() == dims + 1
    bias = given.get("bias")
    found: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        x[None] if alone else x, given["weight"].detach(), None if bias is None else bias.detach(), sizes
    )
    return found[0] if alone else found


class _Convolution(torch.autograd.Function):
    """The convolution, with the transposed one as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sizes) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.sizes = x.shape, sizes
        stride, padding, dilation, groups = sizes
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _Transposed.apply(grads[0], weight, ctx.shape, ctx.sizes), None, None, None  # type: ignore[no-untyped-call]


class _Transposed(torch.autograd.Function):
    """The derivative by the image, with the convolution without bias as its own."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, shape: torch.Size, sizes: Sizes) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.sizes = sizes
        stride, padding, dilation, groups = sizes
        image = g.new_empty(1).expand(shape)  # its size counts, not its values
        found: Tensor = torch.ops.aten.convolution_backward(
            g, image, weight, None, stride, padding, dilation, False, [0] * len(stride), groups,
            [True, False, False],
        )[0]  # fmt: skip
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _Convolution.apply(grads[0], weight, None, ctx.sizes), None, None, None  # type: ignore[no-untyped-call]
