"""Measures of map pairs as rows of a table: medians and shares of sign flips, with intervals."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from veridical.metrics import Interval, bootstrap_interval, share_interval

Row = dict[str, str | float | int]

_SIGNED = ("pcc", "spearman")


class Sampling(NamedTuple):
    """How intervals are made."""

    level: float
    resamples: int
    seed: int


def flips_of(similarity: Tensor, flipped: Tensor, *, looked_for: bool) -> Tensor:
    """1 where the negative map was the more similar one, 0 where not, NaN where that was not measured."""
    known = ~similarity.isnan() & looked_for
    return torch.where(known, flipped.to(torch.float64), math.nan)


def rows_of(measures: Mapping[str, Tensor], flips: Tensor, how: Sampling) -> list[Row]:
    """The rows of one step: `measures` and `flips` hold one value an image (N,).

    A median with its bootstrap interval for each measure; for signed correlations also the share of images in
    which they are negative, and for the protocol that of sign flips, with the score interval of Wilson 1927.
    """
    rows = []
    for name, values in measures.items():
        plain = values.cpu().numpy()
        median = bootstrap_interval(plain, level=how.level, resamples=how.resamples, seed=how.seed)
        rows.append(_row(name, "median", median, len(values), how))
        if name in _SIGNED:
            negative = torch.where(values.isnan(), math.nan, (values < 0).to(torch.float64))
            share = share_interval(negative, level=how.level)
            rows.append(_row(name, "share negative", share, len(values), how))
    if not bool(flips.isnan().all()):
        share = share_interval(flips, level=how.level)
        rows.append(_row("flipped", "share", share, len(flips), how))
    return rows


def _row(measure: str, statistic: str, found: Interval, count: int, how: Sampling) -> Row:
    return {
        "measure": measure,
        "statistic": statistic,
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "missing": count - found.n,
        "level": how.level,
    }
