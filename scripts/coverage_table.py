"""Run every method on every network that users have, and write docs/networks.md.

`make table` runs it in the environment of the developers. Random weights, small images, one thread: it takes
some minutes and needs no data.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from tests import conftest  # noqa: E402, F401  (makes torchvision importable beside a CPU build of torch)

from networks_users import SUBJECTS, Subject  # type: ignore[import-not-found]  # noqa: E402
from veridical.attributions import Patterns, fit_patterns, method, methods  # noqa: E402
from veridical.rules import UnsupportedOperation  # noqa: E402

PAGE = ROOT / "docs" / "networks.md"
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "integrated-gradients": {"steps": 5},
    "smoothgrad": {"samples": 3},
}
"""Fewer steps and samples than the defaults: whether they work does not depend on how many there are."""
PATTERNED = ("patternnet", "pattern-attribution")
FITTED_ON = 16
NOT_FINITE = "relevance that is not finite"
OVERFLOW = "overflows in single precision on these random weights; finite and not zero in double precision"
ACROSS = 6

INTRODUCTION = """\
# Methods and networks

Every method on every network: does it run, and is its relevance finite, of the shape of the images and not
zero? `make table` writes this page: random weights (EfficientNet-Lite0's are trained), single precision,
two random images a network, the default options of each method except for {options}.
The pattern methods use patterns fitted on {fitted} random images. A number leads to the reason below.
A method that has no meaning on a network says so before it propagates anything.

{working} of {cells} cells work: {share:.1%}.

That a method runs does not say that its map is faithful; that is what the audit measures. What LRP does at
products, attention and normalization is its option `gates`: [methods.md](methods.md) says which rule stands
where, [engine.md](engine.md) how fused attention is written out into the operations that have rules.
"""


class Cell(NamedTuple):
    """What happened to one method on one network.

    Attributes:
        works: whether its relevance is finite, not zero and of the right shape.
        reason: why it does not.
    """

    works: bool
    reason: str = ""


def measure(subject: Subject, names: Iterable[str]) -> dict[str, Cell]:
    """Run methods on one network in single precision; in double precision again where that overflows.

    Args:
        subject: the network.
        names: of the methods.

    Returns:
        One cell a method, in the order of the names.
    """
    cells = run(subject, names, torch.float32)
    again = [name for name, cell in cells.items() if cell.reason == NOT_FINITE]
    for name, cell in run(subject, again, torch.float64).items() if again else ():
        cells[name] = Cell(False, OVERFLOW if cell.works else cell.reason)
    return cells


def run(subject: Subject, names: Iterable[str], dtype: torch.dtype) -> dict[str, Cell]:
    """Run methods on one network.

    Args:
        subject: the network.
        names: of the methods.
        dtype: of the weights and images.

    Returns:
        One cell a method, in the order of the names.
    """
    model, images = subject.module().to(dtype), subject.images().to(dtype)
    fitted: Patterns | None = None
    cells = {}
    for name in names:
        options: dict[str, Any] = dict(OPTIONS.get(name, {}))
        try:
            if name in PATTERNED:
                fitted = fitted or fit_patterns(model, [subject.images(FITTED_ON, seed=2).to(dtype)])
                options["patterns"] = fitted
            cells[name] = judge(method(name, **options)(model, images), images)
        except UnsupportedOperation as error:
            cells[name] = Cell(False, f"refused: {str(error).split('; ')[0]}")
        except ValueError as error:
            cells[name] = Cell(False, str(error).split("; ")[0])
    return cells


def judge(relevance: torch.Tensor, images: torch.Tensor) -> Cell:
    """Whether a relevance is one.

    Args:
        relevance: as a method returned it.
        images: what it explains.

    Returns:
        The cell.
    """
    if relevance.shape != images.shape:
        return Cell(False, f"relevance of shape {tuple(relevance.shape)}")
    if not bool(relevance.isfinite().all()):
        return Cell(False, NOT_FINITE)
    if not bool(relevance.flatten(1).abs().amax(1).gt(0).all()):
        return Cell(False, "relevance of zeros")
    return Cell(True)


def table(results: Mapping[str, Mapping[str, Cell]], notes: list[str]) -> str:
    """Markdown tables of methods against networks.

    Args:
        results: network to method to cell.
        notes: the reasons so far; new ones are appended.

    Returns:
        One table for each few networks.
    """
    blocks, columns = [], list(results)
    for first in range(0, len(columns), ACROSS):
        part = columns[first : first + ACROSS]
        rows = [["method", *part], ["---"] * (1 + len(part))]
        rows += [[name, *(mark(results[one][name], notes) for one in part)] for name in results[part[0]]]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(blocks)


def mark(cell: Cell, notes: list[str]) -> str:
    """What the table shows: "yes", or the number of the reason.

    Args:
        cell: of the table.
        notes: the reasons so far; a new one is appended.

    Returns:
        The text.
    """
    if cell.works:
        return "yes"
    if cell.reason not in notes:
        notes.append(cell.reason)
    return f"({notes.index(cell.reason) + 1})"


def page(results: Mapping[str, Mapping[str, Cell]]) -> str:
    """The whole page.

    Args:
        results: network to method to cell.

    Returns:
        Markdown.
    """
    cells = [cell for row in results.values() for cell in row.values()]
    working = sum(cell.works for cell in cells)
    notes: list[str] = []
    body = table(results, notes)
    options = " and ".join(
        f"{name} ({', '.join(f'{value} {key}' for key, value in values.items())})"
        for name, values in OPTIONS.items()
    )
    head = INTRODUCTION.format(
        options=options, fitted=FITTED_ON, working=working, cells=len(cells),
        share=working / len(cells),
    )  # fmt: skip
    reasons = "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    sections = [head, body, f"## Reasons\n\n{reasons}" if notes else "", f"## Networks\n\n{networks()}"]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def networks() -> str:
    """Where the networks come from, with versions.

    Returns:
        A Markdown table.
    """
    rows = ["| network | from | images |", "| --- | --- | --- |"]
    for name, subject in SUBJECTS.items():
        own = subject.package == "checkpoint"
        source = "the architecture of published weights" if own else _versioned(subject.package)
        rows.append(f"| {name} | {source} | {subject.channels} x {subject.size} x {subject.size} |")
    return f"With {_versioned('torch')}.\n\n" + "\n".join(rows)


def _versioned(package: str) -> str:
    return f"{package} {version(package).split('+')[0]}"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="measure these only, and print instead of writing")
    chosen = parser.parse_args().networks
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = {}
    for name in chosen or SUBJECTS:
        started = time.perf_counter()
        results[name] = measure(SUBJECTS[name], methods())
        seconds = time.perf_counter() - started
        bad = {one: cell.reason for one, cell in results[name].items() if not cell.works}
        works = f"{len(results[name]) - len(bad)} of {len(results[name])} work"
        sys.stderr.write(f"{name}: {works}, {seconds:.0f} s {bad or ''}\n")
    text = page(results)
    if chosen:
        sys.stdout.write(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
