"""Small tensor operations that more than one part needs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def safe_divide(numerator: Tensor, denominator: Tensor, epsilon: float = 0.0) -> Tensor:
    """`numerator / denominator`, and 0 where the denominator is 0 or imprecise; differentiable there too.

    A sum below the smallest normal number over the machine epsilon (1e-31 in single precision) is made of
    parts that are rounded away: what softplus leaves of a dead unit. Its quotient would overflow. In half
    precision that number is 0.06, an ordinary one: there the quotient is taken in single precision.

    With an `epsilon`, the denominator is moved away from 0 by as much instead, and 0 itself to `epsilon`.
    """
    # Not `where` or `masked_fill`: on a CPU they take ten times as long as these, which are vectorized.
    if epsilon:
        shift = torch.copysign(denominator.new_full((), epsilon), denominator + 0.0)  # -0.0 becomes 0.0
        return numerator / (denominator + shift)
    if torch.float16 in (numerator.dtype, denominator.dtype):
        kind = torch.result_type(numerator, denominator)
        return safe_divide(numerator.float(), denominator.float()).to(kind)
    info = torch.finfo(denominator.dtype)
    least = info.tiny / info.eps
    if torch.is_grad_enabled() and (numerator.requires_grad or denominator.requires_grad):
        divisor = _OffZero.apply(denominator, least)  # type: ignore[no-untyped-call]
        quotient: Tensor = _Quotient.apply(*torch.broadcast_tensors(numerator, divisor))  # type: ignore[no-untyped-call]
        return quotient
    return numerator / _off_zero(denominator, least)


def _off_zero(denominator: Tensor, least: float) -> Tensor:
    """The denominator, infinite where its size is at most `least`."""
    return F.threshold(denominator.abs(), least, math.inf, inplace=True).copysign_(denominator)


class _OffZero(torch.autograd.Function):
    """`_off_zero` as the identity: where it is infinite, a quotient of it hands back zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(denominator: Tensor, least: float) -> Tensor:
        return _off_zero(denominator, least)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Nothing is needed later."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Quotient(torch.autograd.Function):
    """n / d of one shape, with the derivative for d as (g / d) q and not as g (q / d), q = n / d.

    The second overflows in single precision from d = 1e-19 down. The first does not where g is as small as d,
    as in relevance that is multiplied by the input again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(numerator: Tensor, denominator: Tensor) -> Tensor:
        return numerator / denominator

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        denominator, quotient = ctx.saved_tensors
        share = grads[0] / denominator
        return share, (share * quotient).neg_() if ctx.needs_input_grad[1] else None


def summed_to(relevance: Tensor, shape: torch.Size) -> Tensor:
    """Relevance (S, ...) of a broadcast value, summed to (S, *shape)."""
    extra = relevance.dim() - 1 - len(shape)
    if extra:
        relevance = relevance.sum(tuple(range(1, 1 + extra)))
    axes = [i + 1 for i, size in enumerate(shape) if size == 1 and relevance.shape[i + 1] != 1]
    return relevance.sum(axes, keepdim=True) if axes else relevance


def sum_normalize(maps: Tensor) -> Tensor:
    """Divide every map (N, H, W) by its sum, so that each sums to 1; a map of zeros stays zero."""
    return safe_divide(maps, maps.sum(dim=(1, 2), keepdim=True))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value a sample (N,) so that it broadcasts against `like` (N, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below the smallest normal one for 0, on this thread of the CPU; afterwards as before.

    Softplus networks make many of them, and each costs a hundred ordinary ones.
    """
    before = bool(torch.tensor(2.0**-126, dtype=torch.float32) * 0.5 == 0)  # torch does not tell
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
