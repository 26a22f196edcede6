"""From scores to verdicts: a confidence bound against a threshold, never a point estimate alone.

A required test fails a method where the whole interval lies on the failing side of the threshold, and passes
it where the whole interval lies on the other side. In between nothing is decided, and the verdict says what
would decide it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from veridical.auditing.policy import Policy, TestPolicy
from veridical.records import Evidence, Run, Score, SkippedRecord, Verdict

FAILURES = {
    "random-logit": "its map for another class is nearly the same map",
    "cascading-randomization": "its map hardly changes when the layer nearest to the output is made random",
    "pixel-flipping": "the pixels that it calls relevant matter no more than random ones",
    "cosine-convergence": "on the way down the relevance forgets what it started from",
    "manipulation": "its map can be made to show something else",
}


@dataclass(frozen=True)
class _Judged:
    """The outcome of one test for one method: evidence, or why there is none."""

    test: str
    rule: TestPolicy
    evidence: Evidence | None
    absent: str = ""
    applies: bool = True

    @property
    def passed(self) -> bool | None:
        return None if self.evidence is None else self.evidence.passed


def judge(run: Run, scores: Sequence[Score], policy: Policy) -> dict[str, Verdict]:
    """The verdict on every method of a run.

    Args:
        run: the run; its tests, skipped tests and settings are used, its stored verdicts are not.
        scores: the rows of `scores.parquet`, in stored order.
        policy: thresholds.

    Returns:
        One verdict a method, in the order of `run.methods`.
    """
    return {method: _judge_method(method, run, scores, policy) for method in run.methods}


def _judge_method(method: str, run: Run, scores: Sequence[Score], policy: Policy) -> Verdict:
    judged = [_judge_test(method, test, run, scores, rule) for test, rule in policy.tests.items()]
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


def _judge_test(method: str, test: str, run: Run, scores: Sequence[Score], rule: TestPolicy) -> _Judged:
    skipped = _skipped(method, test, run)
    if skipped is not None:
        return _Judged(test, rule, None, skipped.reason, skipped.applies)
    row = _row(method, test, run, scores, rule)
    if row is None:
        reason = "it was not run" if test not in run.tests else f"no {rule.statistic} at layer {rule.layer!r}"
        return _Judged(test, rule, None, reason)
    passed, note = _decide(row, rule)
    needed = "below" if rule.fails == "above" else "above"
    evidence = Evidence(
        test=test, statistic=row.statistic, value=row.value, ci_low=row.ci_low, ci_high=row.ci_high, n=row.n,
        threshold=rule.threshold, direction=needed, passed=passed, source=rule.source, note=note,
    )  # fmt: skip
    return _Judged(test, rule, evidence)


def _decide(row: Score, rule: TestPolicy) -> tuple[bool | None, str]:
    where = [f"at layer {row.layer}"] if row.layer else []
    if not rule.required:
        where.append("advisory, not part of the verdict")
    if row.n < rule.minimum_images:
        return None, "; ".join([*where, f"needs {rule.minimum_images} images, has {row.n}"])
    if math.isnan(row.value) or math.isnan(row.ci_low) or math.isnan(row.ci_high):
        return None, "; ".join([*where, "not measured"])
    where.append(f"an interval from {row.n} images covers the median with at most {_coverage(row.n):.1%}")
    above = rule.fails == "above"
    fails = row.ci_low >= rule.threshold if above else row.ci_high <= rule.threshold
    passes = row.ci_high < rule.threshold if above else row.ci_low > rule.threshold
    if not fails and not passes:
        return None, "; ".join([*where, "the interval contains the threshold"])
    return passes, "; ".join(where)


def _coverage(n: int) -> float:
    """The largest coverage that an interval for the median within n observations can have: 1 - 2 / 2^n."""
    return max(0.0, 1.0 - 2.0 ** (1 - n))


def _row(method: str, test: str, run: Run, scores: Sequence[Score], rule: TestPolicy) -> Score | None:
    rows = [
        score
        for score in scores
        if (score.method, score.test, score.statistic, score.image) == (method, test, rule.statistic, "")
    ]
    if rule.layer in ("first", "last"):
        layered = [row for row in rows if row.layer]
        return (layered[0] if rule.layer == "first" else layered[-1]) if layered else None
    layer = rule.layer
    if layer == "first-convolution" and test in run.tests:
        layer = str(run.tests[test].settings.get("first_convolution", ""))
    return next((row for row in rows if row.layer == layer), None)


def _skipped(method: str, test: str, run: Run) -> SkippedRecord | None:
    return next((item for item in run.skipped if (item.method, item.test) == (method, test)), None)


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
        return f"{item.test} has {found.n} of the {item.rule.minimum_images} images that it needs"
    if math.isnan(found.value) or math.isnan(found.ci_low):
        return f"{item.test} could not be measured (flat maps); other images may decide it"
    interval = f"[{_number(found.ci_low)}, {_number(found.ci_high)}]"
    inside = f"{interval} contains {found.threshold:g}"
    return f"{item.test} is too close to call: {inside}; more images would decide it"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
