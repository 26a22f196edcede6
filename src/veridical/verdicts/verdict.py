"""From scores to verdicts: a confidence bound against a threshold, never a point estimate alone.

A required test fails a method where the whole interval lies on the failing side of the threshold, and passes
it where the whole interval lies on the other side. In between nothing is decided, and the verdict says what
would decide it. The intervals are as wide as the number of methods and tests asks for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from veridical.records import Evidence, Run, Score, SkippedRecord, Verdict
from veridical.verdicts.evidence import Measured, ScoreTable
from veridical.verdicts.intervals import Ends, holm_level, least_for_width, least_images
from veridical.verdicts.policy import COUNTED, Policy, TestPolicy

FAILURES = {
    "random-logit": "its map for another class is nearly the same map",
    "cascading-randomization": "its map hardly changes when the layer nearest to the output is made random",
    "pixel-flipping": "the pixels that it calls relevant matter no more than random ones",
    "cosine-convergence": "on the way down the relevance forgets what it started from",
    "manipulation": "its map can be made to show something else",
    "tangent-space": "its map lies along the manifold of the images no more than a random direction",
    "infidelity": "it predicts no better what removed squares cost the class than its pixels in random order",
    "sensitivity": "its map changes by as much as there is of it when the image hardly changes",
    "curvature": "the network is so curved that the rounding of a photograph turns its map by a right angle",
    "roar": "networks retrained without its most relevant pixels are no worse than without random ones",
}

MOST_IMAGES = 1_000_000
"""Beyond this number, more images are not advised."""


@dataclass(frozen=True)
class _Judged:
    """The outcome of one test for one method: evidence, or why there is none."""

    method: str
    test: str
    rule: TestPolicy
    measured: Measured | None = None
    absent: str = ""
    applies: bool = True
    evidence: Evidence | None = None

    @property
    def passed(self) -> bool | None:
        return None if self.evidence is None else self.evidence.passed

    @property
    def decidable(self) -> bool:
        """Whether it is measured on as many images as the rule asks for."""
        found = self.measured
        return (
            found is not None
            and found.n >= self.rule.minimum_images
            and not math.isnan(found.row.value)
            and not (math.isnan(found.row.ci_low) or math.isnan(found.row.ci_high))
        )


def judge(run: Run, scores: Sequence[Score], policy: Policy) -> dict[str, Verdict]:
    """The verdict on every method of a run.

    The required tests of all methods that the policy lists are one family of conclusions, which are all right
    with the probability `policy.level`; the advisory tests, and the methods that are not listed, are families
    of their own.

    Args:
        run: the run; its tests, skipped tests and settings are used, its stored verdicts are not.
        scores: the rows of `scores.parquet`, in stored order.
        policy: thresholds and statistics.

    Returns:
        One verdict a method, in the order of `run.methods`.
    """
    table = ScoreTable(run, scores)
    looked = [
        _look(method, test, run, table, rule) for method in run.methods for test, rule in policy.tests.items()
    ]
    levels = {family: _level(items, policy) for family, items in _families(looked, policy).items()}
    judged = [_held(item, levels[_family(item, policy)], policy) for item in looked]
    return {method: _verdict([item for item in judged if item.method == method]) for method in run.methods}


def _look(method: str, test: str, run: Run, table: ScoreTable, rule: TestPolicy) -> _Judged:
    skipped = _skipped(method, test, run)
    if skipped is not None:
        return _Judged(method, test, rule, absent=skipped.reason, applies=skipped.applies)
    measured = table.find(method, test, rule)
    if measured is None:
        reason = "it was not run" if test not in run.tests else f"no {rule.statistic} at layer {rule.layer!r}"
        return _Judged(method, test, rule, absent=reason)
    return _Judged(method, test, rule, measured)


def _skipped(method: str, test: str, run: Run) -> SkippedRecord | None:
    return next((item for item in run.skipped if (item.method, item.test) == (method, test)), None)


def _family(item: _Judged, policy: Policy) -> tuple[bool, bool]:
    return item.rule.required, not policy.methods or item.method in policy.methods


def _families(items: Sequence[_Judged], policy: Policy) -> dict[tuple[bool, bool], list[_Judged]]:
    found: dict[tuple[bool, bool], list[_Judged]] = {}
    for item in items:
        found.setdefault(_family(item, policy), []).append(item)
    return found


def _level(items: Sequence[_Judged], policy: Policy) -> float:
    """The level of each interval of a family."""
    asked = [(item.measured, item.rule) for item in items if item.decidable and item.measured is not None]
    if policy.comparisons == "none" or not asked:
        return policy.level

    def decided(level: float) -> int:
        ends = [measured.interval(level, policy.interval) for measured, _ in asked]
        sides = [_side(end, rule) for end, (_, rule) in zip(ends, asked, strict=True)]
        return sum(side is not None for side in sides)

    return holm_level(policy.level, len(asked), decided)


def _side(ends: Ends, rule: TestPolicy) -> bool | None:
    """True where the whole interval passes, False where the whole interval fails, None otherwise."""
    above = rule.fails == "above"
    if ends.low >= rule.threshold if above else ends.high <= rule.threshold:
        return False
    return True if (ends.high < rule.threshold if above else ends.low > rule.threshold) else None


def _held(item: _Judged, level: float, policy: Policy) -> _Judged:
    """The same with its evidence: the interval of that level against the threshold."""
    measured, rule = item.measured, item.rule
    if measured is None:
        return item
    row, ends = measured.row, Ends(measured.row.ci_low, measured.row.ci_high)
    passed = None
    if item.decidable:
        ends = measured.interval(level, policy.interval)
        passed = _side(ends, rule)
    evidence = Evidence(
        test=item.test, statistic=row.statistic, value=row.value, ci_low=ends.low, ci_high=ends.high,
        n=measured.n, threshold=rule.threshold, direction="below" if rule.fails == "above" else "above",
        passed=passed, source=rule.source, level=level, note=_note(item, ends, level, passed),
        needed=_needed(item, ends, level) if passed is None else None,
    )  # fmt: skip
    return replace(item, evidence=evidence)


def _needed(item: _Judged, ends: Ends, level: float) -> int | None:
    """About how many images would decide; None where no number can be told.

    An interval's width goes with 1 / sqrt(n). With w the width from the value to the end beyond the threshold
    and d the distance from the value to the threshold, w sqrt(n / needed) = d gives needed = n (w / d)^2.
    Student's interval of few trainings shrinks faster than that: there the number is searched for.
    """
    measured, rule = item.measured, item.rule
    if measured is None or math.isnan(measured.row.value) or math.isnan(ends.low):
        return None
    least = max(rule.minimum_images, measured.n + 1)
    if not item.decidable:
        return rule.minimum_images
    value = measured.row.value
    width = ends.high - value if value < rule.threshold else value - ends.low
    if math.isinf(width):
        return max(least, least_images(level))
    distance = abs(rule.threshold - value)
    if measured.over_trainings:
        found = least_for_width(level, measured.n, distance / width, MOST_IMAGES)
        return None if found is None else max(least, found)
    needed = measured.n * (width / distance) ** 2 if distance else math.inf
    return max(least, math.ceil(needed)) if needed <= MOST_IMAGES else None


def _note(item: _Judged, ends: Ends, level: float, passed: bool | None) -> str:
    measured, rule = item.measured, item.rule
    if measured is None:
        return ""
    parts = [f"at layer {measured.row.layer}"] if measured.row.layer else []
    if not rule.required:
        parts.append("advisory, not part of the verdict")
    if measured.n < rule.minimum_images:
        return "; ".join([*parts, f"needs {rule.minimum_images} {_counted(item.test)}, has {measured.n}"])
    if not item.decidable:
        return "; ".join([*parts, "not measured"])
    parts.append(f"interval of {_percent(level)}")
    if measured.over_trainings:
        parts.append(f"Student's over {measured.n} trainings")
    else:
        parts += _doubts(item.test, measured, level)
    if passed is None:
        parts.append("contains the threshold")
    return "; ".join(parts)


def _doubts(test: str, measured: Measured, level: float) -> list[str]:
    """What speaks against the level of an interval for a median."""
    found, count = [], measured.n
    if _coverage(count) < level:
        found.append(f"which {count} {_counted(test)} can keep with at most {_percent(_coverage(count))}")
    if not measured.values:
        found.append("widened from the stored one, for want of values by image")
    return found


def _counted(test: str) -> str:
    return COUNTED.get(test, "images")


def _coverage(n: int) -> float:
    """The largest coverage that an interval for the median within n observations can have: 1 - 2 / 2^n."""
    return max(0.0, 1.0 - 2.0 ** (1 - n))


def _percent(level: float) -> str:
    """A level with as many digits as tell it from 100 %."""
    digits = max(0, math.ceil(-math.log10(1 - level)) - 1)
    number = f"{100 * level:.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if digits else number} %"


def _verdict(judged: Sequence[_Judged]) -> Verdict:
    evidence = [item.evidence for item in judged if item.evidence is not None]
    required = [item for item in judged if item.rule.required]
    applied = [item for item in required if item.applies]
    failed = [item for item in applied if item.passed is False]
    if failed:
        reasons = "; ".join(f"{FAILURES[item.test]} ({_figures(item)})" for item in failed)
        return Verdict(verdict="not believable", reason=_sentence(reasons), evidence=evidence)
    undecided = [item for item in applied if item.passed is None]
    if undecided or not applied:
        reasons = "; ".join(_what_is_missing(item) for item in undecided) or "no required test applies to it"
        return Verdict(verdict="not decided", reason=_sentence(reasons), evidence=evidence)
    reasons = "passes " + ", ".join(f"{item.test} ({_figures(item)})" for item in applied)
    absent = [f"{item.test} does not apply: {item.absent}" for item in required if not item.applies]
    return Verdict(verdict="believable", reason=_sentence("; ".join([reasons, *absent])), evidence=evidence)


def _figures(item: _Judged) -> str:
    found = item.evidence
    if found is None:
        return item.absent
    sign = "at or above" if (item.rule.fails == "above") == (found.passed is False) else "below"
    if item.rule.fails == "below":
        sign = "at or below" if found.passed is False else "above"
    interval = f"[{_number(found.ci_low)}, {_number(found.ci_high)}]"
    return f"{found.statistic} {_number(found.value)} {interval}, {sign} {found.threshold:g}"


def _number(value: float) -> str:
    if 0 < 1 - value < 1e-4:
        return f"1 - {1 - value:.0e}"
    return f"{value:.3f}" if abs(value) < 0.99 else f"{value:.5g}"


def _what_is_missing(item: _Judged) -> str:
    found = item.evidence
    if found is None:
        return f"{item.test} gave no result: {item.absent}"
    if found.n < item.rule.minimum_images:
        counted = f"{item.rule.minimum_images} {_counted(item.test)}"
        return f"{item.test} has {found.n} of the {counted} that it needs"
    if not item.decidable:
        return f"{item.test} could not be measured (flat maps); other images may decide it"
    if math.isinf(found.ci_low) or math.isinf(found.ci_high):
        inside = f"{found.n} {_counted(item.test)} cannot have an interval of {_percent(found.level)}"
    else:
        inside = f"[{_number(found.ci_low)}, {_number(found.ci_high)}] contains {found.threshold:g}"
    return f"{item.test} is too close to call: {inside}; {_more(found)}"


def _more(found: Evidence) -> str:
    if found.needed is None:
        return f"the value is so near to the threshold that more {_counted(found.test)} will hardly decide it"
    return f"about {found.needed:,} {_counted(found.test)} would decide it"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
