"""What an audit stores of the cosine convergence of its images: see `CosineConvergence` for what it means."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from veridical.auditing.pooling import Kind
from veridical.faithfulness import CosineConvergence

_MEDIAN = 50


@dataclass(frozen=True)
class Summary:
    """One statistic of a layer, or of a bin of the histogram: one value for each image."""

    statistic: str
    layer: str
    kind: Kind
    values: tuple[float, ...]


def summaries(results: Sequence[CosineConvergence]) -> list[Summary]:
    """All summaries over the images, layer by layer, and then the histogram at the first convolution.

    Args:
        results: one for each image, of the same layers.
    """
    every = [*_with_interval(results), *_percentiles(results), *_circumstances(results)]
    found = [
        Summary(statistic, layer, kind, tuple(float(one[place]) for one in values))
        for place, layer in enumerate(results[0].layers)
        for statistic, kind, values in every
    ]
    return found + _histogram(results)


_Rows = list[tuple[str, Kind, list[NDArray[np.float64]]]]
"""Name, how images are summarized, and for each image an array (L,)."""


def _with_interval(results: Sequence[CosineConvergence]) -> _Rows:
    return [
        ("median_cosine", "median", [one.median for one in results]),
        ("mean_cosine", "median", [one.mean for one in results]),
        ("one_minus_median_cosine", "median", [one.one_minus_median for one in results]),
    ]


def _percentiles(results: Sequence[CosineConvergence]) -> _Rows:
    """1 - cosine at each percentile of the cosine: 95 is nearer to 0 than 5."""
    return [
        (
            f"one_minus_percentile_{level}_cosine",
            "middle",
            [one.one_minus_percentiles[level] for one in results],
        )
        for level in results[0].percentiles
        if level != _MEDIAN
    ]


def _circumstances(results: Sequence[CosineConvergence]) -> _Rows:
    # A layer without any cosine is not unresolved: nan_fraction says it.
    unresolved = [~one.resolved & ~np.isnan(one.one_minus_median) for one in results]
    return [
        ("random_baseline", "same", [one.random_baseline for one in results]),
        ("nan_fraction", "mean", [one.nan_fraction for one in results]),
        ("resolution", "middle", [one.resolution for one in results]),
        ("unresolved_fraction", "mean", [one.astype(np.float64) for one in unresolved]),
    ]


def _histogram(results: Sequence[CosineConvergence]) -> list[Summary]:
    """How many |cosines| lay between two bounds, which stand where layers do; the nearest to 1 come first."""
    bins = [one.histogram(one.layers[-2]) for one in results]
    bounds = [f"{1 - edge:.6g}" for edge in bins[0].edges]
    return [
        Summary("cosines", f"{low} to {high}", "sum", tuple(float(one.counts[place]) for one in bins))
        for place, (high, low) in enumerate(pairwise(bounds))
    ]
