"""What a paper claims, what was measured, and whether the one follows from the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from veridical.metrics import Interval, bootstrap_interval, share_interval
from veridical.metrics.intervals import Statistic

Verdict = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True)
class Expected:
    """The numbers that a claim allows.

    Args:
        low: the least.
        high: the greatest.
        strict: whether the ends themselves are not allowed: "greater than" in the place of "at least".
    """

    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: if nothing lies between the ends.
        """
        if not self.low <= self.high:
            raise ValueError(f"expected low <= high, got {self.low} and {self.high}; swap or mend them")

    def allows(self, value: float) -> bool:
        """Whether a number is allowed; False for NaN."""
        if self.strict:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def excludes(self, low: float, high: float) -> bool:
        """Whether no number from `low` to `high` is allowed."""
        if self.strict:
            return high <= self.low or low >= self.high
        return high < self.low or low > self.high

    def __str__(self) -> str:
        """In words: "at least 0.99"."""
        least, most = ("above", "below") if self.strict else ("at least", "at most")
        if math.isinf(self.high):
            return f"{least} {self.low:.3g}"
        if math.isinf(self.low):
            return f"{most} {self.high:.3g}"
        return f"{self.low:.3g} to {self.high:.3g}"


ABOVE_0 = Expected(low=0.0, strict=True)
"""For an order: the difference of two things is positive."""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper beside what was measured.

    Args:
        statement: the claim, in words.
        source: where the paper makes it.
        paper: the paper's own figure or words; what is our reading of them is said.
        statistic: what the number is.
        expected: the numbers that the claim allows.
        measured: ours.
        low: lower end of its interval.
        high: upper end.
        n: the independent things behind it.
        unit: what they are: "images", "networks", ...
        level: probability that the interval covers; None where the claim is about every case: `low` and
            `high` are then the smallest and the largest of all cases, of which one can refute it.
    """

    statement: str
    source: str
    paper: str
    statistic: str
    expected: Expected
    measured: float
    low: float
    high: float
    n: int
    unit: str
    level: float | None

    @property
    def verdict(self) -> Verdict:
        """By the interval, not by the point: "holds" where all of it is allowed by the claim.

        "does not hold" where nothing of it is, or where one case refutes a claim about every case; else, or
        where too little was measured (see `least_cases`), "not decided".
        """
        if self.n == 0 or any(map(math.isnan, (self.measured, self.low, self.high))):
            return "not decided"
        inside = self.expected.allows(self.low) and self.expected.allows(self.high)
        if self.level is None:
            return "holds" if inside else "does not hold"
        if self.n < least_cases(self.level):
            return "not decided"
        if inside:
            return "holds"
        return "does not hold" if self.expected.excludes(self.low, self.high) else "not decided"

    @property
    def note(self) -> str:
        """Why nothing could be decided, where it is for want of cases; else ""."""
        if self.level is None or self.n >= least_cases(self.level):
            return ""
        needed = least_cases(self.level)
        return f"{self.level:.0%} intervals need {needed} {self.unit} to decide anything, here are {self.n}"

    def record(self) -> dict[str, Any]:
        """All of it for result.json."""
        return {**asdict(self), "verdict": self.verdict, "note": self.note}


def least_cases(level: float) -> int:
    """The fewest independent cases whose whole range covers their median with this probability.

    The median of a continuous distribution is outside of the range of n draws with probability 2^(1 - n); no
    bootstrap interval of the median is wider than that range. 5 for 90 %, 6 for 95 %, 8 for 99 %.
    """
    return math.ceil(1 - math.log2(1 - level))


@dataclass(frozen=True)
class Stated:
    """A claim that nothing was measured for yet; its methods measure.

    Args:
        statement: see `Claim`, as for all.
        source: of it.
        paper: the paper's words.
        expected: the numbers that it allows.
        unit: what is counted.
    """

    statement: str
    source: str
    paper: str
    expected: Expected
    unit: str = "images"

    def by(
        self, values: ArrayLike, statistic: str, level: float, kind: Statistic = "median", seed: int = 0
    ) -> Claim:
        """By the median (or mean) of one value a case, with its bootstrap interval; NaN is left out."""
        one = bootstrap_interval(_finite(values), kind, level=level, seed=seed)
        return self._claim(one, statistic, level)

    def by_share(self, values: ArrayLike, statistic: str, level: float) -> Claim:
        """By the share of cases, given as 0 and 1 (NaN is left out), with Wilson's interval."""
        return self._claim(share_interval(_finite(values), level=level), statistic, level)

    def by_every(self, values: ArrayLike, statistic: str) -> Claim:
        """By all cases: `measured` is the worst of them. A NaN leaves it undecided."""
        found = np.asarray(values, dtype=np.float64).reshape(-1)
        if not found.size:
            return self._claim(Interval(math.nan, math.nan, math.nan, 0), statistic, None)
        low, high = float(found.min()), float(found.max())
        worst = high if math.isfinite(self.expected.high) else low
        return self._claim(Interval(worst, low, high, int(found.size)), statistic, None)

    def by_interval(self, interval: Interval, statistic: str, level: float) -> Claim:
        """By an interval that is there already."""
        return self._claim(interval, statistic, level)

    def _claim(self, found: Interval, statistic: str, level: float | None) -> Claim:
        return Claim(
            self.statement, self.source, self.paper, statistic, self.expected,
            found.estimate, found.low, found.high, found.n, self.unit, level,
        )  # fmt: skip


def count_verdicts(claims: Sequence[Claim]) -> Mapping[Verdict, int]:
    """How many claims have each verdict."""
    names: tuple[Verdict, ...] = ("holds", "does not hold", "not decided")
    return {name: sum(claim.verdict == name for claim in claims) for name in names}


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    """As float64 (N,), with NaN for what is infinite: it was not measured."""
    found = np.asarray(values, dtype=np.float64).reshape(-1)
    return np.where(np.isfinite(found), found, np.nan)
