"""Bootstrap intervals: how far a summary over images would move with other images."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Literal["median", "mean"]

_CHUNK = 4_000_000


class Interval(NamedTuple):
    """A summary with its bootstrap interval; `n` is the number of measured values behind it."""

    estimate: float
    low: float
    high: float
    n: int


def _summaries(drawn: NDArray[np.float64], statistic: Statistic) -> NDArray[np.float64]:
    return np.median(drawn, axis=1) if statistic == "median" else np.mean(drawn, axis=1)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = "median",
    *,
    level: float = 0.99,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the median or mean of independent values.

    Sixt et al. 2020 report 99 % intervals (figure 4b); their code takes the median and 10 000 resamples.

    Args:
        values: one value per image; NaN means not measured. NaN values are left out and not counted in `n`,
            so that a caller can report how many there were.
        statistic: `"median"` or `"mean"`.
        level: probability that the interval covers, in (0, 1).
        resamples: number of draws with replacement.
        seed: of a local generator.

    Returns:
        The interval; estimate and ends are NaN where nothing was measured, and equal for one value.

    Raises:
        ValueError: if an argument is outside its range.
    """
    if statistic not in ("median", "mean"):
        raise ValueError(f"expected statistic 'median' or 'mean', got {statistic!r}; choose one of them")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.99 means 99 %")
    if resamples < 1:
        raise ValueError(f"expected at least one resample, got {resamples}; 10000 is usual")
    everything = np.asarray(values, dtype=np.float64)
    if everything.ndim != 1:
        raise ValueError(f"expected one value per image, got shape {everything.shape}; flatten or index it")
    measured = everything[~np.isnan(everything)]
    if measured.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // measured.size)
    summaries = np.concatenate(
        [
            _summaries(measured[generator.integers(measured.size, size=(count, measured.size))], statistic)
            for count in (min(rows, resamples - start) for start in range(0, resamples, rows))
        ]
    )
    # Between infinite values (the PSNR of an unchanged image) nothing can be interpolated.
    exact = np.isfinite(summaries).all()
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(summaries, ends, method="linear" if exact else "inverted_cdf")
    estimate = _summaries(measured[None], statistic)[0]
    return Interval(float(estimate), float(low), float(high), int(measured.size))
