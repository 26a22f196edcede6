"""How sure one can be of a median, at the high levels that many comparisons ask for.

Nothing is drawn: the distribution of a resampled median is a binomial probability, so that a level of 99.97 %
is met as exactly as one of 95 %, and the same values always give the same ends.
"""

import bisect
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, stdtrit

IntervalKind = Literal["bootstrap", "exact"]

LEVEL = 0.99
"""Confidence level of the bootstrap intervals that an audit stores: that of Sixt et al. 2020."""

_NEGLIGIBLE = 1e-18


class Ends(NamedTuple):
    """The two ends of an interval."""

    low: float
    high: float


def median_interval(values: NDArray[np.float64], level: float, kind: IntervalKind) -> Ends:
    """An interval for the median of the values that these were drawn from.

    Args:
        values: (n,), measured; infinite ones are allowed.
        level: probability that the interval shall cover, in (0, 1).
        kind: "bootstrap": the percentile interval of infinitely many resamples (Efron 1982, chapter 10.3); of
            an even number of values the low end is that of the lower and the high end that of the upper
            middle value. "exact": from order statistics (the sign test), which covers with at least the level
            whatever the distribution; its ends are infinite where n is too small for the level.

    Returns:
        Both ends; NaN without values.
    """
    ordered = np.sort(values)
    if not ordered.size:
        return Ends(math.nan, math.nan)
    find = _bootstrap_low if kind == "bootstrap" else _exact_low
    tail = (1 - level) / 2
    return Ends(find(ordered, tail), -find(-ordered[::-1], tail))


def _bootstrap_low(ordered: NDArray[np.float64], tail: float) -> float:
    """The smallest value that more than `tail` of all resamples have their (lower) median at or below."""
    n = ordered.size
    rank = (n + 1) // 2
    reached = bdtrc(rank - 1, n, np.arange(1, n + 1) / n)
    return float(ordered[np.argmax(reached > tail)])


def _exact_low(ordered: NDArray[np.float64], tail: float) -> float:
    """The k-th smallest value with the largest k for which fewer than k below the median is rare enough."""
    n = ordered.size
    k = int(np.sum(bdtr(np.arange(n), n, 0.5) <= tail))
    return float(ordered[k - 1]) if k else -math.inf


def difference_interval(before: NDArray[np.float64], after: NDArray[np.float64], level: float) -> Ends:
    """An interval for the median of `after` minus that of `before`, of values that are not paired.

    Each median lies between the k-th and the next value with probability C(n, k) / 2^n (the distribution
    whose quantiles are the exact interval of `median_interval`); the two are taken as independent, and of
    each gap the end that makes the interval wider.

    Args:
        before: (n,), measured.
        after: (m,), measured.
        level: probability that the interval shall cover, in (0, 1).

    Returns:
        Both ends; infinite where there are too few values for the level, NaN without values or where one of
        them is infinite.
    """
    known = before.size and after.size and np.isfinite(before).all() and np.isfinite(after).all()
    if not known:
        return Ends(math.nan, math.nan)
    tail = (1 - level) / 2
    return Ends(_difference_low(before, after, tail), -_difference_low(after, before, tail))


def _difference_low(before: NDArray[np.float64], after: NDArray[np.float64], tail: float) -> float:
    lower, share = _gaps(np.sort(after))
    negated, other = _gaps(np.sort(-before))
    sums = (lower[:, None] + negated[None]).ravel()
    weights = (share[:, None] * other[None]).ravel()
    order = np.argsort(sums, kind="stable")
    reached = np.cumsum(weights[order])
    return float(sums[order][min(int(np.sum(reached <= tail)), order.size - 1)])


def _gaps(ordered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower ends of the gaps that the median may lie in, the first -infinity, and their shares."""
    n = ordered.size
    reached = bdtr(np.arange(n + 1), n, 0.5)
    share = np.diff(reached, prepend=0.0)
    kept = share > _NEGLIGIBLE
    return np.concatenate([[-np.inf], ordered])[kept], share[kept]


def share_interval(values: NDArray[np.float64], level: float) -> Ends:
    """The score interval of Wilson 1927 for a share.

    Args:
        values: (n,), 0 or 1 each, at least one.
        level: probability that the interval covers, in (0, 1).
    """
    from scipy.stats import binomtest  # slow to load, and few policies judge a share

    found = binomtest(round(float(values.sum())), values.size).proportion_ci(level, method="wilson")
    return Ends(float(found.low), float(found.high))


def student_width(level: float, n: int) -> float:
    """Half of Student's interval for the mean of n values, in standard deviations of them; NaN for one."""
    return float(stdtrit(n - 1, (1 + level) / 2)) / math.sqrt(n)


def least_for_width(level: float, n: int, ratio: float, most: int) -> int | None:
    """The fewest values whose Student's interval is at most `ratio` times as wide as that of n values.

    Returns:
        The number; None where it is above `most`.
    """
    wanted = ratio * student_width(level, n)
    place = bisect.bisect_left(range(2, most + 1), -wanted, key=lambda count: -student_width(level, count))
    return place + 2 if place + 2 <= most else None


def least_images(level: float) -> int:
    """The fewest values of which any interval for a median can have that level: 1 - 2^(1-n) reaches it."""
    return 1 + math.ceil(-math.log2(1 - level) - 1e-9)


def holm_level(level: float, count: int, decided: Callable[[float], int]) -> float:
    """The level of each interval that makes all conclusions of a family right with probability `level`.

    Holm 1979 in terms of intervals: start with 1 - (1 - level) / count for all; each conclusion that these
    allow lowers the count by one, until nothing is added. The conclusions at the level found are those of
    Holm's step-down procedure.

    Args:
        level: for the family.
        count: questions in it.
        decided: the number of questions that intervals of a level decide; not more at a higher level.

    Returns:
        The level for each.
    """
    found = -1
    while True:
        each = 1 - (1 - level) / max(1, count - max(found, 0))
        now = decided(each)
        if now <= found:
            return each
        found = now
