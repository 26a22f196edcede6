"""What a gate tells: lines for people, annotations for GitHub, JUnit XML and JSON for other programs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from veridical.records import Evidence, Run, Verdict
from veridical.verdicts import COUNTED, Policy

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Judgement:
    """The verdicts that a gate looks at, with the run and the policy that they come from."""

    run: Run
    policy: Policy
    verdicts: Mapping[str, Verdict]

    def admits(self, method: str) -> bool:
        """Whether the policy lets the verdict on a method pass."""
        return self.verdicts[method].verdict in self.policy.admit

    @property
    def passed(self) -> bool:
        """Whether every listed method is admissible."""
        return all(self.admits(method) for method in self.verdicts)


@dataclass(frozen=True)
class Case:
    """One test of one method: `state` is "passed", "failed" or "skipped"."""

    method: str
    test: str
    state: str
    kind: str = ""
    message: str = ""
    details: str = ""


def table(found: Judgement) -> str:
    """One line a method: whether it is admissible, its verdict and the reason."""
    wide = max(len(method) for method in found.verdicts)
    lines = []
    for method, verdict in found.verdicts.items():
        mark = "ok  " if found.admits(method) else "FAIL"
        lines.append(f"{mark} {method:<{wide}}  {verdict.verdict:<14}  {verdict.reason}")
    admissible = sum(found.admits(method) for method in found.verdicts)
    lines.append(
        f"{admissible} of {len(found.verdicts)} methods admissible by the policy {found.policy.name!r}"
    )
    return "\n".join(lines)


def as_json(found: Judgement) -> dict[str, Any]:
    """The same as plain data, with the evidence."""
    return {
        "passed": found.passed,
        "policy": found.policy.model_dump(),
        "model": {"name": found.run.model.name, "sha256": found.run.model.sha256},
        "methods": {
            method: {"admissible": found.admits(method), **verdict.model_dump()}
            for method, verdict in found.verdicts.items()
        },
    }


def annotations(found: Judgement) -> list[str]:
    """Workflow commands of GitHub Actions.

    An error for every method that is not admissible, a warning for one that is without being believable, and
    for every advisory test that a method fails.
    """
    lines = []
    for method, verdict in found.verdicts.items():
        if not found.admits(method) or verdict.verdict != "believable":
            kind = "warning" if found.admits(method) else "error"
            lines.append(_annotation(kind, f"{method}: {verdict.verdict}", verdict.reason))
        for entry in verdict.evidence:
            if entry.passed is False and not found.policy.tests[entry.test].required:
                title = f"{method}: fails {entry.test} (advisory)"
                lines.append(_annotation("warning", title, describe(entry)))
    return lines


def _annotation(kind: str, title: str, message: str) -> str:
    escaped = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def describe(entry: Evidence) -> str:
    """One piece of evidence in one line."""
    return (
        f"{entry.statistic} {entry.value:.4g} [{entry.ci_low:.4g}, {entry.ci_high:.4g}], {entry.n} "
        f"{COUNTED.get(entry.test, 'images')}, passes {entry.direction} {entry.threshold:g}; {entry.note}"
    )


def cases(found: Judgement) -> Iterator[Case]:
    """A case for every method and test of the policy, and one for the verdict on the method.

    Only a method that is not admissible has failed cases: its verdict, and the required tests that it fails
    or that decide nothing. What is advisory or does not apply is skipped.
    """
    for method, verdict in found.verdicts.items():
        if found.admits(method):
            yield Case(method, "verdict", "passed", details=verdict.reason)
        else:
            yield Case(method, "verdict", "failed", verdict.verdict, verdict.reason)
        evidence = {entry.test: entry for entry in verdict.evidence}
        for test in found.policy.tests:
            yield _case(found, method, test, evidence.get(test))


def _case(found: Judgement, method: str, test: str, entry: Evidence | None) -> Case:
    required = found.policy.tests[test].required
    fails = required and not found.admits(method)
    if entry is None:
        skipped = next((one for one in found.run.skipped if (one.method, one.test) == (method, test)), None)
        reason = skipped.reason if skipped else "it was not run"
        fails = fails and (skipped is None or skipped.applies)
        return Case(method, test, "failed" if fails else "skipped", "no result", reason)
    details = f"{describe(entry)}\n{entry.source}"
    if entry.passed:
        return Case(method, test, "passed", details=details)
    kind = "not passed" if entry.passed is False else "not decided"
    if not required:
        kind = f"advisory, {kind}"
    return Case(method, test, "failed" if fails else "skipped", kind, describe(entry), details)


def junit(found: Judgement) -> bytes:
    """JUnit XML: one suite, with the elements and attributes that the schemas of Ant and Jenkins ask for."""
    everything = list(cases(found))
    states = [case.state for case in everything]
    counts = {"tests": len(states), "failures": states.count("failed"), "errors": 0}
    root = ElementTree.Element("testsuites")
    suite = _child(
        root, "testsuite", name="veridical", package="veridical", id="0", hostname="localhost", time="0",
        timestamp=found.run.created[:19], skipped=str(states.count("skipped")),
        **{name: str(count) for name, count in counts.items()},
    )  # fmt: skip
    properties = _child(suite, "properties")
    for name, value in _properties(found).items():
        _child(properties, "property", name=name, value=value)
    for case in everything:
        element = _child(suite, "testcase", classname=f"veridical.{case.method}", name=case.test, time="0")
        if case.state == "failed":
            _child(element, "failure", type=case.kind, message=case.message).text = _clean(case.details)
        elif case.state == "skipped":
            _child(element, "skipped", message=f"{case.kind}: {case.message}")
    _child(suite, "system-out").text = _clean(table(found))
    _child(suite, "system-err")
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _properties(found: Judgement) -> dict[str, str]:
    return {
        "model": found.run.model.name,
        "model.sha256": found.run.model.sha256,
        "images": str(len(found.run.images)),
        "policy": found.policy.name,
        "level": f"{found.policy.level:g}",
        "comparisons": found.policy.comparisons,
    }


def _child(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {name: _clean(text) for name, text in attributes.items()})


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return NOT_XML.sub("?", text)
