"""The functions of torch that the operators of an exported program stand for.

An exported program calls operators (`aten.conv2d.default`); everything here that looks into a network,
recording, smoothing and hooks alike, knows torch's functions (`torch.nn.functional.conv2d`). Most operators
have the name and the arguments of a function; the table has the others.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Any]


def function_of(operator: Any) -> Function:
    """What computes an operator, by functions of torch.

    Args:
        operator: of an exported graph: `torch.ops.aten...`, or a function of Python on numbers.

    Returns:
        A function of the same arguments and results.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(operator, torch._ops.OpOverload):
        if getattr(operator, "__module__", "") in ("_operator", "math", "builtins", "torch"):
            return operator  # type: ignore[no-any-return]
        raise ValueError(_unknown(str(operator)))
    space, name = operator.namespace, operator._schema.name.split("::")[1]
    if space == "aten" and name in _OWN:
        return _OWN[name]
    found = _named(name) if space == "aten" else None
    if found is None:
        raise ValueError(_unknown(str(operator)))
    return found


def _named(name: str) -> Function | None:
    """The function of that name; one in place where the name ends with an underscore."""
    plain = name.removesuffix("_")
    if name != plain:
        found = getattr(F, plain, None)
        if found is not None and _has_inplace(found):
            return partial(found, inplace=True)
    for home in (torch, F, torch.Tensor):
        function = getattr(home, name, None)
        if callable(function):
            return function  # type: ignore[no-any-return]
    return None


def _has_inplace(function: Function) -> bool:
    try:
        return "inplace" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _unknown(operator: str) -> str:
    return (
        f"expected a program of operators that functions of torch stand for, got {operator}; export the "
        "network in evaluation mode without custom operators, or name a callable that builds it"
    )


def _batch_norm(  # noqa: PLR0913, PLR0917 - the operator's arguments
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: bool,
) -> Tensor:
    return F.batch_norm(input, mean, variance, weight, bias, training, momentum, eps)


def _batch_norm_in_evaluation(  # noqa: PLR0913, PLR0917 - the operator's arguments
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, None, None]:
    return F.batch_norm(input, mean, variance, weight, bias, False, momentum, eps), None, None


def _layer_norm(
    input: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: bool,
) -> Tensor:
    return F.layer_norm(input, list(shape), weight, bias, eps)


def _group_norm(  # noqa: PLR0917 - the operator's arguments
    input: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: bool,
) -> Tensor:
    return F.group_norm(input, groups, weight, bias, eps)


def _native_group_norm(  # noqa: PLR0913, PLR0917 - the operator's arguments
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    _count: int,
    _channels: int,
    _places: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, None, None]:
    return F.group_norm(input, groups, weight, bias, eps), None, None


def _convolution(  # noqa: PLR0913, PLR0917 - the operator's arguments
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    dims = weight.dim() - 2
    if transposed:
        across: Function = getattr(F, f"conv_transpose{dims}d")
        result: Tensor = across(input, weight, bias, stride, padding, output_padding, groups, dilation)
        return result
    along: Function = getattr(F, f"conv{dims}d")
    result = along(input, weight, bias, stride, padding, dilation, groups)
    return result


def _affine(input: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """addmm: a linear layer where its first argument is a bias."""
    if beta == 1 and alpha == 1 and input.dim() == 1:
        return F.linear(left, right.t(), input)
    return torch.addmm(input, left, right, beta=beta, alpha=alpha)


def _slice(
    input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    return input[(slice(None),) * (dim % input.dim()) + (slice(start, end, step),)]


def _interpolated(mode: str, input: Tensor, size: Any, *options: Any, aligned: bool = True) -> Tensor:
    corners = options[0] if aligned else None
    scales = options[-1] if options else None
    return F.interpolate(
        input, size, scales if size is None else None, mode, corners, recompute_scale_factor=None
    )


def _cast(input: Tensor, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    """Another type, on the device where the tensor is: the program may have been exported on another one."""
    return input if dtype is None or dtype == input.dtype else input.to(dtype)


def _size_of(input: Tensor, dim: int) -> int:
    return input.shape[dim]


def _pooled_with_places(pool: Function, *args: Any) -> tuple[Tensor, None]:
    input, kernel, *rest = args
    stride = rest[0] if rest and rest[0] else None
    return pool(input, kernel, stride, *rest[1:]), None


def _normalized_natively(*args: Any) -> tuple[Tensor, None, None]:
    return _layer_norm(*args), None, None


def _same(input: Any, *_: Any, **__: Any) -> Any:
    return input


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _full_softmax(input: Tensor, dim: int, _half: bool = False) -> Tensor:
    return F.softmax(input, dim)


_OWN: Mapping[str, Function] = {
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "_assert_scalar": _nothing,
    "_assert_tensor_metadata": _nothing,
    "_native_batch_norm_legit_no_training": _batch_norm_in_evaluation,
    "_softmax": _full_softmax,
    "_to_copy": _cast,
    "_unsafe_view": torch.Tensor.reshape,  # written out, attention has other strides than fused
    "addmm": _affine,
    "alias": _same,
    "batch_norm": _batch_norm,
    "constant_pad_nd": lambda input, pad, value=0: F.pad(input, pad, "constant", value),
    "convolution": _convolution,
    "detach_": _same,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "lift_fresh_copy": _same,
    "max_pool2d_with_indices": partial(_pooled_with_places, F.max_pool2d),
    "native_group_norm": _native_group_norm,
    "native_layer_norm": _normalized_natively,
    "pad": F.pad,
    "scaled_dot_product_attention": F.scaled_dot_product_attention,
    "slice": _slice,
    "sym_constrain_range_for_size": _nothing,
    "sym_size": _size_of,
    "upsample_bicubic2d": partial(_interpolated, "bicubic"),
    "upsample_bilinear2d": partial(_interpolated, "bilinear"),
    "upsample_nearest2d": partial(_interpolated, "nearest", aligned=False),
    "view": torch.Tensor.reshape,
}
