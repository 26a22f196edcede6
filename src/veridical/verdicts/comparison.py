"""Two runs side by side: what got better or worse beyond noise, image by image where they agree."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from veridical.records import Run, Score, read_run, read_scores
from veridical.verdicts.evidence import Measured, ScoreTable
from veridical.verdicts.intervals import (
    Ends,
    difference_interval,
    holm_level,
    least_images,
    median_interval,
)
from veridical.verdicts.policy import TRAININGS, Policy, TestPolicy
from veridical.verdicts.verdict import judge

Direction = Literal["better", "worse", "unchanged", "not decided"]

COUNTS = ("images", "pairs")
"""Settings of a test that two runs may have differently: how much was measured, not how."""


@dataclass(frozen=True)
class StoredRun:
    """A run as it was read, under the name by which it is told apart."""

    name: str
    run: Run
    scores: Sequence[Score]


@dataclass(frozen=True)
class Change:
    """One statistic of one method in two runs.

    Attributes:
        method: name.
        test: name.
        statistic: what the policy judges.
        required: whether the policy requires the test.
        before: its median over the compared images, in the first run.
        after: in the other run.
        difference: with pairs the median of the differences (after minus before), else that of the medians.
        low: lower end of the interval of the difference; -infinity where there are too few images.
        high: upper end.
        level: of that interval.
        n: pairs, or images of the run that has fewer.
        paired: whether the same images were compared one by one.
        direction: "better" or "worse" where the whole interval lies on that side of 0.
        note: why it is not decided.
    """

    method: str
    test: str
    statistic: str
    required: bool
    before: float
    after: float
    difference: float
    low: float
    high: float
    level: float
    n: int
    paired: bool
    direction: Direction
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Attributes:
        before: name of the first run.
        after: name of the other.
        changes: one a method and test.
        verdicts: by method, the verdicts in both runs.
        notes: what differs between the runs, and what could not be compared.
    """

    before: str
    after: str
    changes: tuple[Change, ...]
    verdicts: Mapping[str, tuple[str, str]]
    notes: tuple[str, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        """The required tests in which a method got worse."""
        return tuple(one for one in self.changes if one.required and one.direction == "worse")

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Question:
    """One method and test with the values of both runs: pairs where `paired`."""

    method: str
    test: str
    rule: TestPolicy
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    paired: bool
    note: str = ""

    @property
    def n(self) -> int:
        return min(self.before.size, self.after.size)

    @property
    def asked(self) -> bool:
        """Whether it counts as a question: with no values, nothing is asked."""
        return self.n > 0 and not self.note

    @property
    def difference(self) -> float:
        if not self.n:
            return math.nan
        if self.paired:
            return float(np.median(self.after - self.before))
        return float(np.median(self.after) - np.median(self.before))

    def interval(self, level: float) -> Ends:
        if self.paired:
            return median_interval(self.after - self.before, level, "exact")
        return difference_interval(self.before, self.after, level)

    def direction(self, level: float) -> Direction:
        if not self.asked:
            return "not decided"
        low, high = self.interval(level)
        if low > 0 or high < 0:
            return "worse" if (low > 0) == (self.rule.fails == "above") else "better"
        return "not decided" if not (math.isfinite(low) and math.isfinite(high)) else "unchanged"


def read_stored(directories: Sequence[Path]) -> list[StoredRun]:
    """Read finished runs.

    Raises:
        RecordError: a file is missing or broken.
        ValueError: there are fewer than two, or one is not finished.
    """
    if len(directories) < 2:
        raise ValueError(f"expected two runs or more, got {len(directories)}; name their directories")
    found = []
    for directory in directories:
        run = read_run(directory)
        if not run.finished:
            raise ValueError(
                f"expected a finished run, got {directory}; run the same `veridical audit` again"
            )
        found.append(StoredRun(str(directory), run, read_scores(directory)))
    return found


def compare_runs(runs: Sequence[StoredRun], policy: Policy) -> list[Comparison]:
    """Compare every later run with the first.

    Per method and test of the policy: the difference of the judged statistic, with an exact interval. Of
    images with the same digest in both runs the differences are taken one by one; where no digest agrees, the
    two medians are compared (see `difference_interval`). All required tests together are one family whose
    conclusions are all right with the probability `policy.level` (Holm); the advisory tests are another.

    Args:
        runs: two or more.
        policy: which tests, statistics and layers, and which side is the worse.

    Raises:
        ValueError: the runs have no method or test in common, or a test was run with other settings.
    """
    first, *others = runs
    asked = [(other, _questions(first, other, policy)) for other in others]
    levels = {
        required: _level([one for _, some in asked for one in some if one.rule.required == required], policy)
        for required in (True, False)
    }
    judged = {id(one): judge(one.run, one.scores, policy) for one in runs}
    found = []
    for other, questions in asked:
        changes = tuple(_change(one, levels[one.rule.required]) for one in questions)
        methods = dict.fromkeys(one.method for one in questions)
        before, after = judged[id(first)], judged[id(other)]
        verdicts = {name: (before[name].verdict, after[name].verdict) for name in methods}
        found.append(Comparison(first.name, other.name, changes, verdicts, _notes(first, other)))
    return found


def _level(questions: Sequence[_Question], policy: Policy) -> float:
    asked = [one for one in questions if one.asked]
    if policy.comparisons == "none" or not asked:
        return policy.level

    def decided(level: float) -> int:
        return sum(one.direction(level) in ("better", "worse") for one in asked)

    return holm_level(policy.level, len(asked), decided)


def _questions(first: StoredRun, other: StoredRun, policy: Policy) -> list[_Question]:
    tests = {name: rule for name, rule in policy.tests.items() if name in first.run.tests}
    tests = {name: rule for name, rule in tests.items() if name in other.run.tests}
    wanted = policy.methods or list(first.run.methods)
    methods = [name for name in wanted if name in first.run.methods and name in other.run.methods]
    if not tests or not methods:
        kind = "test" if methods else "method"
        raise ValueError(
            f"expected runs with a {kind} in common, got none in {first.name} and {other.name} that the "
            f"policy lists; audit both with the same --{kind}s"
        )
    for test in tests:
        if test not in TRAININGS:  # their settings tell the networks apart, and they have no values by image
            _check_settings(test, first, other)
    tables = [ScoreTable(one.run, one.scores) for one in (first, other)]
    found = []
    for method in methods:
        for test, rule in tests.items():
            sides = [one.find(method, test, rule) for one in tables]
            if sides[0] is not None and sides[1] is not None:
                pairs = _values(first.run, other.run, (sides[0], sides[1]))
                found.append(_Question(method, test, rule, *pairs, note=_unfit(sides[0], sides[1])))
    return found


def _check_settings(test: str, first: StoredRun, other: StoredRun) -> None:
    one, two = _settings(first.run, test), _settings(other.run, test)
    for name in sorted({*one, *two} - set(COUNTS)):
        if one.get(name) != two.get(name):
            raise ValueError(
                f"expected runs with the same settings of {test}, got {name} = {one.get(name)!r} in "
                f"{first.name} and {two.get(name)!r} in {other.name}; audit both with the same preset and "
                "seed"
            )


def _settings(run: Run, test: str) -> dict[str, Any]:
    """What a test was run with, without the facts about the network that it found."""
    configured = run.settings.get("configuration", {}).get("tests", {}).get(test)
    return dict(run.tests[test].settings if configured is None else configured)


def _unfit(before: Measured, after: Measured) -> str:
    if before.row.statistic.endswith("_share"):
        return "a share is not compared; let the policy judge a median"
    if not before.values or not after.values:
        return "no values by image were stored or measured"
    if not all(math.isfinite(value) for side in (before, after) for value in side.values.values()):
        return "some values are infinite"
    return ""


def _values(
    first: Run, other: Run, sides: tuple[Measured, Measured]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """The values of both runs, pair by pair where images have the same digest."""
    before, after = (_by_digest(run, one) for run, one in zip((first, other), sides, strict=True))
    same = [key for key in before if key in after]
    if same:
        return np.array([before[key] for key in same]), np.array([after[key] for key in same]), True
    return sides[0].array(), sides[1].array(), False


def _by_digest(run: Run, measured: Measured) -> dict[tuple[str, int], float]:
    """The values by the digest of the image, and which of equal images it is."""
    seen: Counter[str] = Counter()
    found = {}
    for image in run.images:
        key = (image.sha256, seen[image.sha256])
        seen[image.sha256] += 1
        if image.name in measured.values:
            found[key] = measured.values[image.name]
    return found


def _change(one: _Question, level: float) -> Change:
    low, high = one.interval(level) if one.asked else Ends(math.nan, math.nan)
    direction, note = one.direction(level), one.note
    if direction == "not decided" and not note:
        least = least_images(level)
        note = f"{one.n} images; no interval of this level has fewer than {least}"
    before, after = (float(np.median(side)) if side.size else math.nan for side in (one.before, one.after))
    return Change(
        one.method, one.test, one.rule.statistic, one.rule.required, before, after, one.difference, low, high,
        level, one.n, one.paired, direction, note,
    )  # fmt: skip


def _notes(first: StoredRun, other: StoredRun) -> tuple[str, ...]:
    one, two = first.run, other.run
    notes = []
    if one.model.sha256 != two.model.sha256:
        notes.append(f"Two networks: {one.model.name} and {two.model.name}.")
    if one.veridical != two.veridical:
        notes.append(f"Two versions of veridical: {one.veridical} and {two.veridical}.")
    shared = {image.sha256 for image in one.images} & {image.sha256 for image in two.images}
    counts = f"{len(one.images)} and {len(two.images)}"
    notes.append(f"Images: {counts}, {len(shared)} the same in both{_same_names(one, two, len(shared))}.")
    if classes := _other_classes(one, two):
        notes.append(f"{classes} of these are explained for another class: predictions or --target differ.")
    for method, record in one.methods.items():
        if method in two.methods and two.methods[method].options != record.options:
            notes.append(f"{method} has other options: {record.options} and {two.methods[method].options}.")
    for name, mine, theirs in ((first.name, one, two), (other.name, two, one)):
        left = {"Methods": _only(mine.methods, theirs.methods), "Tests": _only(mine.tests, theirs.tests)}
        notes += [f"{kind} only in {name}: {', '.join(some)}." for kind, some in left.items() if some]
    return tuple(notes)


def _same_names(one: Run, two: Run, shared: int) -> str:
    names = {image.name for image in one.images} & {image.name for image in two.images}
    if shared or not names:
        return ""
    return f" ({len(names)} have the same name and other pixels: another preprocessing?)"


def _other_classes(one: Run, two: Run) -> int:
    """How many of the shared images are not explained for the same class."""
    targets = {image.sha256: image.target for image in one.images}
    return sum(targets.get(image.sha256, image.target) != image.target for image in two.images)


def _only(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [name for name in mine if name not in theirs]
