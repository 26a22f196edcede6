"""The upper part of the page: the answer, the table of results, the tests in words, what was tested."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from veridical.records import Evidence, ImageRecord, Run
from veridical.report import words

FEW = 20


@dataclass(frozen=True)
class Badge:
    """A mark that is told by its word and its sign, and only then by its color."""

    kind: str
    sign: str
    word: str


@dataclass(frozen=True)
class Finding:
    """One statistic against its threshold, in words; `raw` is the value, `link` the anchor of its test."""

    test: str
    link: str
    badge: Badge
    statistic: str
    value: str
    raw: float
    interval: str
    n: int
    limit: str
    source: str
    note: str
    advisory: bool


@dataclass(frozen=True)
class Cell:
    """One test of one method: its findings, or why there are none."""

    findings: tuple[Finding, ...] = ()
    skipped: str = ""

    @property
    def sort(self) -> str:
        """The first value, for sorting; "" where there is none."""
        first = self.findings[0].raw if self.findings else math.nan
        return "" if math.isnan(first) else f"{first:.12g}"


@dataclass(frozen=True)
class Row:
    """One method in the table of results."""

    name: str
    anchor: str
    badge: Badge
    reason: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """The methods that share a verdict."""

    badge: Badge
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Threshold:
    """What a statistic must be, and who says so."""

    statistic: str
    limit: str
    source: str


@dataclass(frozen=True)
class TestView:
    """One test in plain words, with its thresholds and settings; `docs` is a web address or ""."""

    __test__ = False  # not a test case for pytest

    name: str
    anchor: str
    text: words.TestText
    thresholds: tuple[Threshold, ...]
    advisory: bool
    settings: str
    docs: str


@dataclass(frozen=True)
class Overview:
    """Everything above the sections of the single methods."""

    headline: str
    summary: str
    cautions: tuple[str, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...]
    images: tuple[ImageRecord, ...]
    tests: tuple[TestView, ...]
    skipped: tuple[tuple[str, str, str], ...]


def overview(run: Run) -> Overview:
    """Put the stored description of a run into words."""
    rows = tuple(_row(run, name) for name in run.methods)
    groups = tuple(
        Group(Badge(*mark), tuple(row for row in rows if row.badge.word == verdict))
        for verdict, mark in words.VERDICTS.items()
    )
    return Overview(
        headline=_headline(groups),
        summary=_summary(run),
        cautions=tuple(_cautions(run)),
        groups=groups,
        rows=tuple(row for group in groups for row in group.rows),
        facts=tuple(_facts(run)),
        images=tuple(run.images),
        tests=tuple(_test(run, name) for name in tests_in_order(run)),
        skipped=tuple(
            (entry.method or "every method", words.explain_test(entry.test).title, entry.reason)
            for entry in run.skipped
        ),
    )


def anchor(name: str) -> str:
    """Return an identifier for links to a method."""
    return "method-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def test_anchor(name: str) -> str:
    """Return the identifier of the words about a test."""
    return "test-" + anchor(name).removeprefix("method-")


def docs_home() -> str:
    """Return the address of the documentation that the package's metadata names; "" for none."""
    try:
        entries = metadata("veridical").get_all("Project-URL") or []
    except PackageNotFoundError:
        entries = []
    named = dict(entry.split(", ", 1) for entry in entries if ", " in entry)
    return str(named.get("Documentation", "")).rstrip("/")


def finding(run: Run, evidence: Evidence) -> Finding:
    """Put one piece of evidence into words."""
    return Finding(
        test=words.explain_test(evidence.test).title,
        link=test_anchor(evidence.test),
        badge=Badge(*words.PASSED[evidence.passed]),
        statistic=words.statistic(evidence.statistic),
        value=words.number(evidence.value),
        raw=evidence.value,
        interval=words.interval(evidence.ci_low, evidence.ci_high),
        n=evidence.n,
        limit=words.limit(evidence.direction, evidence.threshold),
        source=evidence.source,
        note=evidence.note,
        advisory=is_advisory(run, evidence.test),
    )


def tests_in_order(run: Run) -> list[str]:
    """Return the tests as they are shown: those that decide first, else as they were run."""
    return sorted(run.tests, key=lambda test: is_advisory(run, test))


def is_advisory(run: Run, test: str) -> bool:
    """Say whether the policy shows the test without letting it decide."""
    rule = run.policy.get("tests", {}).get(test, {})
    return isinstance(rule, dict) and rule.get("required", True) is False


def _row(run: Run, name: str) -> Row:
    record = run.verdicts.get(name)
    verdict = record.verdict if record else "not decided"
    reason = record.reason if record else "The run ended before this method was judged."
    evidence = record.evidence if record else []
    reasons = {entry.test: entry.reason for entry in run.skipped if entry.method == name}
    cells = tuple(
        Cell(tuple(finding(run, entry) for entry in evidence if entry.test == test), reasons.get(test, ""))
        for test in tests_in_order(run)
    )
    return Row(name, anchor(name), Badge(*words.VERDICTS[verdict]), reason, cells)


def _headline(groups: tuple[Group, ...]) -> str:
    good, total = len(groups[0].rows), sum(len(group.rows) for group in groups)
    if total == 1:
        return {
            0: "This explanation method may not be relied on",
            1: "This explanation method may be believed",
        }[good]
    if good == 0:
        return f"None of the {total} explanation methods may be believed"
    if good == total:
        return f"All {total} explanation methods may be believed"
    return f"{good} of {total} explanation methods may be believed"


def _summary(run: Run) -> str:
    return (
        f"{words.counted(len(run.methods), 'method')} for explaining the decisions of {run.model.name} met"
        f" {words.counted(len(run.tests), 'test')} on {words.counted(len(run.images), 'photograph')}."
        " A method may be believed where it passed every test that the policy asks for. That is a necessary"
        " condition, no proof that its maps are right."
    )


def _cautions(run: Run) -> list[str]:
    cautions = []
    if not run.finished:
        cautions.append(
            "This run was not finished. What is missing is marked; start the same audit again to complete it."
        )
    if len(run.images) == 1:
        cautions.append("Only one photograph was tested: nothing says how far the figures may be off.")
    elif len(run.images) < FEW:
        cautions.append(
            f"Only {words.counted(len(run.images), 'photograph')} were tested. The intervals say how far the"
            " figures may be off; more photographs make them narrower."
        )
    return cautions


def _facts(run: Run) -> list[tuple[str, str]]:
    settings, environment = run.settings, run.environment
    facts = [
        ("Network", f"{run.model.name} ({run.model.parameters:,} parameters, {run.model.classes:,} classes)"),
        ("Where it came from", run.model.source),
        ("Photographs", f"{len(run.images)}, listed below"),
        ("Taken from", _taken_from(run)),
        ("Their labels", f"known to the network {run.data.labels}" if run.data.labels else ""),
        ("Preset", _plain(settings.get("preset", ""))),
        ("Seed", _plain(settings.get("seed", ""))),
        ("Device", _plain(settings.get("device", ""))),
        ("Versions", f"veridical {run.veridical}, torch {environment.torch}, Python {environment.python}"),
        ("Machine", f"{environment.platform}, {words.counted(environment.threads, 'thread')}"),
        ("Run on", run.created),
    ]
    return [(name, text) for name, text in facts if text]


def _taken_from(run: Run) -> str:
    data = run.data
    if not data.source:
        return ""
    drawn = f", drawn by seed {data.seed}" if data.limit is not None else ""
    unusable = f"; {words.counted(len(data.skipped), 'file')} could not be used" if data.skipped else ""
    return f"{data.source} ({words.counted(data.available, 'image')}{drawn}{unusable})"


def _test(run: Run, name: str) -> TestView:
    record = run.tests[name]
    thresholds: dict[Threshold, None] = {}
    for verdict in run.verdicts.values():
        for entry in verdict.evidence:
            if entry.test == name and not math.isnan(entry.threshold):
                limit = words.limit(entry.direction, entry.threshold)
                thresholds[Threshold(words.statistic(entry.statistic), limit, entry.source)] = None
    settings = ", ".join(f"{key} = {_plain(value)}" for key, value in sorted(record.settings.items()))
    text = words.explain_test(name, record.description)
    home = docs_home()
    docs = f"{home}/{text.docs}" if home and text.docs else ""
    return TestView(name, test_anchor(name), text, tuple(thresholds), is_advisory(run, name), settings, docs)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value)
    return words.number(value) if isinstance(value, float) else str(value)
