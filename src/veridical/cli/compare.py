"""`veridical compare`: what got better or worse between runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from veridical.cli.errors import one_line_errors
from veridical.records import finite_or_null, write_bytes
from veridical.report import comparison_page
from veridical.verdicts import Change, Comparison, compare_runs, load_policy, read_stored

Runs = Annotated[list[Path], typer.Argument(help="Run directories; the first is `before`.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A policy file; default: the package's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in the place of the table.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page into this file.")]
Fail = Annotated[bool, typer.Option("--fail-on-worse", help="Exit with 1 where a required test got worse.")]


def command(
    runs: Runs,
    policy: PolicyFile = None,
    json_output: AsJson = False,
    html: Html = None,
    fail_on_worse: Fail = False,
) -> None:
    """Say per method and test what got better or worse beyond noise, from stored results."""
    with one_line_errors():
        rules = load_policy(policy)
        found = compare_runs(read_stored(runs), rules)
        content = [one.as_dict() for one in found]
        if html is not None:
            write_bytes(html, comparison_page(content, runs, html.parent).encode())
        text = json.dumps(finite_or_null(content), indent=1) if json_output else table(found)
        typer.echo(text)
    if fail_on_worse and any(one.worse for one in found):
        raise typer.Exit(1)


def table(found: Sequence[Comparison]) -> str:
    """A block for every comparison: its notes, one line a method and test, and the verdicts that changed."""
    return "\n\n".join("\n".join(_block(one)) for one in found)


def _block(one: Comparison) -> list[str]:
    lines = [f"{one.before} -> {one.after}", *one.notes]
    rows = [_row(change) for change in one.changes]
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(5)]
    for row in rows:
        cells = (f"{text:<{wide}}" for text, wide in zip(row, [*widths, 0], strict=True))
        lines.append("  ".join(cells).rstrip())
    for method, (before, after) in one.verdicts.items():
        if before != after:
            lines.append(f"verdict on {method}: {before} -> {after}")
    return lines


def _row(change: Change) -> tuple[str, ...]:
    pairs = f"{change.n} {'pairs' if change.paired else 'images, not paired'}"
    test = change.test if change.required else f"{change.test} (advisory)"
    return (
        change.direction.upper() if change.direction == "worse" else change.direction,
        change.method,
        test,
        f"{change.before:.4g} -> {change.after:.4g}",
        f"{change.difference:+.3g} [{change.low:.3g}, {change.high:.3g}]",
        f"{pairs}; {change.note}" if change.note else pairs,
    )
