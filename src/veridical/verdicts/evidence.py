"""The rows of `scores.parquet` that a policy asks for, as a statistic with an interval of any level."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from veridical.records import Run, Score
from veridical.verdicts.intervals import (
    LEVEL,
    Ends,
    IntervalKind,
    median_interval,
    share_interval,
    student_width,
)
from veridical.verdicts.policy import TRAININGS, TestPolicy


@dataclass(frozen=True)
class Measured:
    """A statistic over images.

    Attributes:
        row: the stored aggregate.
        values: the measured values by image; empty where only the aggregate was stored.
    """

    row: Score
    values: Mapping[str, float]

    def array(self) -> NDArray[np.float64]:
        """The values (n,)."""
        return np.array(list(self.values.values()), dtype=np.float64)

    @property
    def n(self) -> int:
        """The number of measured images."""
        return len(self.values) or self.row.n

    @property
    def over_trainings(self) -> bool:
        """Whether it is a mean over trainings, and its interval Student's."""
        return self.row.test in TRAININGS

    def interval(self, level: float, kind: IntervalKind) -> Ends:
        """The interval of that level.

        A median's and a share's is made anew from the values. Where there are none, the stored interval is
        widened as that of a normal distribution would be; Student's by the ratio of his quantiles, which is
        exactly Student's interval of the other level.
        """
        if not self.values:
            return self._widened(level)
        if self.row.statistic.startswith("median_"):
            return median_interval(self.array(), level, kind)
        return share_interval(self.array(), level)

    def _widened(self, level: float) -> Ends:
        if self.over_trainings:
            factor = student_width(level, self.n) / student_width(LEVEL, self.n)
        else:
            quantile = NormalDist().inv_cdf
            factor = quantile((1 + level) / 2) / quantile((1 + LEVEL) / 2)
        value, low, high = self.row.value, self.row.ci_low, self.row.ci_high
        return Ends(value - (value - low) * factor, value + (high - value) * factor)


class ScoreTable:
    """The scores of a run, found by method and rule.

    Args:
        run: the run; its tests' settings name the first convolution.
        scores: the rows of `scores.parquet`, in stored order.
    """

    def __init__(self, run: Run, scores: Iterable[Score]) -> None:
        """Sort the rows once."""
        self._run = run
        self._rows: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
        self._values: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
        for score in scores:
            if not score.image:
                self._rows[score.method, score.test, score.statistic].append(score)
            elif not math.isnan(score.value):
                where = (score.method, score.test, score.statistic, score.layer)
                self._values[where][score.image] = score.value

    def find(self, method: str, test: str, rule: TestPolicy) -> Measured | None:
        """What the rule judges; None where it was not stored."""
        row = self._row(method, test, rule)
        if row is None:
            return None
        name = rule.statistic
        one = name.removeprefix("median_") if name.startswith("median_") else name.removesuffix("_share")
        values = self._values.get((method, test, one, row.layer), {}) if one != name else {}
        return Measured(row, values)

    def _row(self, method: str, test: str, rule: TestPolicy) -> Score | None:
        rows = self._rows.get((method, test, rule.statistic), [])
        if rule.layer in ("first", "last"):
            layered = [row for row in rows if row.layer]
            return (layered[0] if rule.layer == "first" else layered[-1]) if layered else None
        layer = rule.layer
        if layer == "first-convolution" and test in self._run.tests:
            layer = str(self._run.tests[test].settings.get("first_convolution", ""))
        return next((row for row in rows if row.layer == layer), None)
