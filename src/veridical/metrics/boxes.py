"""Box statistics as in the figures of Dombrowski et al. 2019, and the interval of a share."""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from veridical.metrics.intervals import Interval, bootstrap_interval

_QUANTILES = (0.10, 0.25, 0.75, 0.90)


@dataclass(frozen=True)
class Box:
    """A box plot in numbers: box at 25 and 75 %, whiskers at 10 and 90 % (Dombrowski et al. 2019, figure 3).

    All are NaN where nothing was measured.

    Args:
        median: of the measured values.
        q25: lower edge of the box.
        q75: upper edge of the box.
        q10: lower whisker.
        q90: upper whisker.
        mean: of the measured values; the share, for values of 0 and 1.
        low: lower end of the bootstrap interval of the median.
        high: upper end of it.
        n: measured values.
        missing: values that were NaN, "not measured".
        level: probability that the interval covers.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    median: float
    q25: float
    q75: float
    q10: float
    q90: float
    mean: float
    low: float
    high: float
    n: int
    missing: int
    level: float
    resamples: int
    seed: int

    def record(self) -> dict[str, float | int]:
        """The fields by name, as one row of a table."""
        return asdict(self)


def box(values: ArrayLike | Tensor, *, level: float = 0.99, resamples: int = 10_000, seed: int = 0) -> Box:
    """The box of independent values.

    Quantiles are interpolated linearly; between infinite values (the PSNR of an unchanged image), where
    nothing can be interpolated, the lower of the two neighbors is taken.

    Args:
        values: one value a pair or image (N,), a tensor on any device or anything NumPy reads; NaN means
            "not measured", True and False count as 1 and 0.
        level: probability that the interval of the median covers, in (0, 1).
        resamples: draws of the bootstrap.
        seed: of its generator.

    Raises:
        ValueError: if the values are not (N,), or an argument is out of range.
    """
    everything = _values(values)
    interval = bootstrap_interval(everything, "median", level=level, resamples=resamples, seed=seed)
    measured = everything[~np.isnan(everything)]
    q10, q25, q75, q90 = _quantiles(measured)
    return Box(
        median=interval.estimate,
        q25=q25,
        q75=q75,
        q10=q10,
        q90=q90,
        mean=float(measured.mean()) if measured.size else math.nan,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        missing=int(everything.size - measured.size),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def share_interval(values: ArrayLike | Tensor, *, level: float = 0.99) -> Interval:
    """The share of true values, with the score interval of Wilson 1927.

    The bootstrap of values that are all alike has no width; this interval has, and it stays in [0, 1].

    Args:
        values: 0, 1 (or booleans) (N,); NaN means "not measured" and is left out.
        level: probability that the interval covers, in (0, 1).

    Returns:
        Share, both ends, and the number of measured values; NaN where nothing was measured.

    Raises:
        ValueError: if a value is neither 0, 1 nor NaN, the values are not (N,), or the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.99 means 99 %")
    everything = _values(values)
    measured = everything[~np.isnan(everything)]
    if not np.isin(measured, (0.0, 1.0)).all():
        raise ValueError(f"expected values of 0 and 1, got {measured.max():.3g}; compare with a threshold")
    if measured.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    n, share = measured.size, float(measured.mean())
    z = NormalDist().inv_cdf((1 + level) / 2)
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(0.0, center - half), min(1.0, center + half), n)


def _values(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    """The values as float64 (N,)."""
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    found = np.asarray(plain, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"expected one value per image (N,), got shape {found.shape}; flatten or index it")
    return found


def _quantiles(measured: NDArray[np.float64]) -> tuple[float, float, float, float]:
    if measured.size == 0:
        return (math.nan,) * 4
    exact = np.isfinite(measured).all()
    found = np.quantile(measured, _QUANTILES, method="linear" if exact else "inverted_cdf")
    q10, q25, q75, q90 = found.tolist()
    return q10, q25, q75, q90
