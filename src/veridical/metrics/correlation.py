"""Correlations and distances of two batches, one value per sample.

`pearson`, `spearman` and `cosine` lie in [-1, 1] and grow with likeness; `mse` is a distance.
"""

import torch
from torch import Tensor

from veridical.metrics._pairs import paired


def _cosine_of_rows(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the rows of two (N, D); NaN where a row has norm 0."""
    lengths = first.norm(dim=1) * second.norm(dim=1)
    value = (first * second).sum(dim=1) / torch.where(lengths > 0, lengths, torch.nan)
    return value.clamp(-1.0, 1.0)


def _rescaled(rows: Tensor) -> Tensor:
    """Rows divided by their largest magnitude, so that squares neither overflow nor vanish."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    return rows / torch.where(largest > 0, largest, 1.0)


def _centered(rows: Tensor) -> Tensor:
    """Rows minus their mean; a constant row becomes exactly 0, whatever the rounding of its mean."""
    constant = rows.amax(dim=1, keepdim=True) == rows.amin(dim=1, keepdim=True)
    return torch.where(constant, 0.0, rows - rows.mean(dim=1, keepdim=True))


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation over all values of a sample.

    Args:
        first: (N, ...), for example maps (N, H, W).
        second: the same shape.

    Returns:
        float64 (N,) in [-1, 1]; NaN where a map is constant or holds NaN.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ.
    """
    a, b = paired(first, second)
    return _cosine_of_rows(_centered(_rescaled(a.flatten(1))), _centered(_rescaled(b.flatten(1))))


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between two samples seen as vectors.

    Args:
        first: (N, ...).
        second: the same shape.

    Returns:
        float64 (N,) in [-1, 1]; NaN where a sample is zero or holds NaN.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ.
    """
    a, b = paired(first, second)
    return _cosine_of_rows(_rescaled(a.flatten(1)), _rescaled(b.flatten(1)))


def _average_ranks(rows: Tensor) -> Tensor:
    """Ranks 1..D along each row of (N, D); tied values share the mean of their ranks."""
    ordered, order = rows.sort(dim=1)
    place = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = starts.roll(-1, dims=1)  # the first value starts a run, so the last ends one
    first = torch.where(starts, place, 0).cummax(dim=1).values
    last = torch.where(ends, place, place.shape[1] - 1).flip(1).cummin(dim=1).values.flip(1)
    ranks = torch.empty_like(rows).scatter_(1, order, (first + last).to(rows.dtype) / 2 + 1)
    return torch.where(rows.isnan().any(dim=1, keepdim=True), torch.nan, ranks)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation over all values of a sample, ties averaged.

    Args:
        first: (N, ...).
        second: the same shape.

    Returns:
        float64 (N,) in [-1, 1]; NaN where a map is constant or holds NaN. Not differentiable.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ.
    """
    ranks = [_average_ranks(rows.detach().flatten(1).contiguous()) for rows in paired(first, second)]
    return _cosine_of_rows(_centered(ranks[0]), _centered(ranks[1]))


def mse(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference over all values of a sample (a mean, not a sum).

    Args:
        first: (N, ...).
        second: the same shape.

    Returns:
        float64 (N,), non-negative; less is better.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ.
    """
    a, b = paired(first, second)
    return (a - b).square().flatten(1).mean(dim=1)
