"""Which call is a ReLU, and the smooth function that takes its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

THRESHOLD = 20.0
"""Above ``beta * x = THRESHOLD`` softplus is exactly x (torch's default): its curvature is 0 there.

The written-out slope of the smooth ReLU6 is the logistic function's there too, which differs by 2e-9 at most.
"""

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "relu": ("input", "inplace"),
    "relu6": ("input", "inplace"),
    "hardtanh": ("input", "min_val", "max_val", "inplace"),
    "clamp": ("input", "min", "max"),
    "clip": ("input", "min", "max"),
    "clamp_min": ("input", "min"),
    "threshold": ("input", "threshold", "value", "inplace"),
}


@dataclass(frozen=True)
class Rectification:
    """One call that computes ``min(max(x, 0), ceiling)``.

    Args:
        input: the tensor that the call is given.
        ceiling: 6 for ReLU6, infinity for ReLU.
        inplace: whether the call overwrites its input.
    """

    input: Tensor
    ceiling: float
    inplace: bool

    def smooth(self, beta: float | Tensor) -> Tensor:
        """``softplus_beta(x)``, less ``softplus_beta(x - ceiling)`` where there is a ceiling."""
        if math.isinf(self.ceiling):
            return softplus(self.input, beta)
        return smooth_relu6(self.input, beta, self.ceiling)


def softplus(input: Tensor, beta: float | Tensor) -> Tensor:
    """The ``softplus_beta(x)`` of torch, its second derivative in few passes over the memory.

    Overridable, as torch's is: function modes further out see it under the same name. A beta that is a tensor
    (a number, without derivative) stays one: a recorded graph can be given another.
    """
    if has_torch_function_unary(input):
        result: Tensor = handle_torch_function(softplus, (input,), input, beta)
        return result
    if isinstance(beta, Tensor):
        return softplus(input * beta, 1.0) / beta
    if torch.is_grad_enabled() and input.requires_grad:
        smooth: Tensor = _Softplus.apply(input, beta)  # type: ignore[no-untyped-call]
        return smooth
    return functional.softplus(input, beta, THRESHOLD)


class _Softplus(torch.autograd.Function):
    """The function; its derivative is torch's, the second one `_SoftplusSlope` has."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: float) -> Tensor:
        return functional.softplus(x, beta, THRESHOLD)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.beta = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _SoftplusSlope.apply(grads[0], x, ctx.beta), None  # type: ignore[no-untyped-call]


class _SoftplusSlope(torch.autograd.Function):
    """``g f'(x)``. As ``f'' = beta f' (1 - f')``, its derivative by x is ``beta (g f') (h - h f')`` for h.

    Both products are there or needed anyway; torch's own derivative takes three times as many passes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, beta: float) -> Tensor:
        return torch.ops.aten.softplus_backward(g, x, beta, THRESHOLD)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        _, x, ctx.beta = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, scaled = ctx.saved_tensors
        share: Tensor = _SoftplusSlope.apply(grads[0], x, ctx.beta)  # type: ignore[no-untyped-call]
        if not ctx.needs_input_grad[1]:
            return share, None, None
        return share, ((grads[0] - share) * scaled).mul_(ctx.beta), None


def smooth_relu6(input: Tensor, beta: float | Tensor, ceiling: float | Tensor = 6.0) -> Tensor:
    """``softplus_beta(x) - softplus_beta(x - ceiling)``, of any shape.

    One overridable operation, so that function modes further out see one activation and not a difference:
    a rule that rectifies the backward signal must not see the two halves. For a beta that is a tensor see
    `softplus`.
    """
    if has_torch_function_unary(input):
        result: Tensor = handle_torch_function(smooth_relu6, (input,), input, beta, ceiling)
        return result
    if isinstance(beta, Tensor):
        return smooth_relu6(input * beta, 1.0, ceiling * beta) / beta
    if torch.is_grad_enabled() and input.requires_grad:
        smooth: Tensor = _SmoothRelu6.apply(input, beta, ceiling)[0]  # type: ignore[no-untyped-call]
        return smooth
    return _smooth_relu6(input, beta, ceiling)


def _smooth_relu6(x: Tensor, beta: float, ceiling: float | Tensor) -> Tensor:
    low = functional.softplus(x, beta, THRESHOLD)
    return low.sub_(functional.softplus(x - ceiling, beta, THRESHOLD))


class _SmoothRelu6(torch.autograd.Function):
    """The function with its slope, which is used three times where a map is differentiated.

    Autograd's own derivative of the two halves takes three times as many passes over the memory.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: float, ceiling: float) -> tuple[Tensor, Tensor, Tensor]:
        low = x * beta
        high = (low - beta * ceiling).sigmoid_()
        low.sigmoid_()
        return _smooth_relu6(x, beta, ceiling), low - high, low.add_(high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: tuple[Tensor, ...]) -> None:
        x, ctx.beta, ctx.ceiling = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # no zeros for the slope's
        ctx.save_for_backward(x, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grads[0] is None:
            return None, None, None
        return _Slope.apply(grads[0], *ctx.saved_tensors, ctx.beta, ctx.ceiling), None, None  # type: ignore[no-untyped-call]


class _Slope(torch.autograd.Function):
    """``g f'(x)``; its derivative is written out, and further ones are autograd's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, slope: Tensor, both: Tensor, beta: float, ceiling: float) -> Tensor:
        return g * slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.beta, ctx.ceiling = inputs[4:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, x, slope, both = ctx.saved_tensors
        if torch.is_grad_enabled():  # what was kept does not know of x
            low, high = (x * ctx.beta).sigmoid(), ((x - ctx.ceiling) * ctx.beta).sigmoid()
            slope, both = low - high, low + high
        share = grads[0] * slope
        bend = (share * g).mul_(ctx.beta)
        return share, torch.addcmul(bend, bend, both, value=-1), None, None, None, None


def rectification(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Rectification | None:
    """The call as a `Rectification`, or None where it is anything else.

    Functions are known by name, so the function of `torch`, of `torch.nn.functional`, the tensor method
    and the ATen operator of an exported program are all found.
    """
    written = str(getattr(func, "__name__", "")).split(".")[0]
    name = written.strip("_")
    if name not in _PARAMETERS:
        return None
    given: dict[str, Any] = dict(zip(_PARAMETERS[name], args, strict=False)) | dict(kwargs)
    given.setdefault("input", given.pop("self", None))
    ceiling = _ceiling(name, given)
    if ceiling is None or not isinstance(given["input"], Tensor) or given.get("out") is not None:
        return None
    return Rectification(given["input"], ceiling, written.endswith("_") or bool(given.get("inplace", False)))


def _ceiling(name: str, given: Mapping[str, Any]) -> float | None:
    """The upper limit of a call whose lower limit is 0; None where the lower limit is not 0."""
    low, high = {
        "relu": (0.0, math.inf),
        "relu6": (0.0, 6.0),
        "hardtanh": (given.get("min_val", -1.0), given.get("max_val", 1.0)),
        "threshold": (given.get("threshold"), math.inf if given.get("value") == 0 else None),
    }.get(name, (given.get("min"), given.get("max", None)))
    if name in {"clamp", "clip", "clamp_min"} and high is None:
        high = math.inf
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    return float(high) if low == 0 and high > 0 else None
