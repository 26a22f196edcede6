"""Small tensor operations that more than one part needs."""

import math

from torch import Tensor


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 where the denominator is exactly 0; differentiable there too."""
    return numerator / denominator.masked_fill(denominator == 0, math.inf)


def sum_normalize(maps: Tensor) -> Tensor:
    """Divide every map (N, H, W) by its sum, so that each sums to 1; a map of zeros stays zero."""
    return safe_divide(maps, maps.sum(dim=(1, 2), keepdim=True))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value a sample (N,) so that it broadcasts against `like` (N, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
