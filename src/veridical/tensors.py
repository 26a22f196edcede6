"""Small tensor operations that more than one part needs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 where the denominator is 0 or imprecise; differentiable there too.

    A sum below the smallest normal number over the machine epsilon (1e-31 in single precision) is made of
    parts that are rounded away: what softplus leaves of a dead unit. Its quotient would overflow.
    """
    info = torch.finfo(denominator.dtype)
    return numerator / denominator.masked_fill(denominator.abs() < info.tiny / info.eps, math.inf)


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
