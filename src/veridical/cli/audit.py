"""`veridical audit`: which explanations of this model may be believed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from veridical.auditing import (
    PRESETS,
    AuditReport,
    Progress,
    audit,
    check_directory,
    find_methods,
    find_tests,
    load_policy,
)
from veridical.checks import nearest_names
from veridical.cli.errors import names, one_line_errors
from veridical.cli.options import (
    Device,
    Folder,
    Material,
    Methods,
    Model,
    Weights,
    find_explainers,
    load_material,
)
from veridical.records import Run
from veridical.report import render
from veridical.values import Explainer

Tests = Annotated[str | None, typer.Option("--tests", help="Names, separated by commas; default: all.")]
Preset = Annotated[str, typer.Option("--preset", help="quick, standard or thorough.")]
Out = Annotated[Path, typer.Option("--out", help="The run directory; an earlier run is resumed.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Executor = Annotated[str, typer.Option("--executor", help="local.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A policy file; default: the package's.")]

MARKS = {"believable": "green", "not believable": "red", "not decided": "yellow"}


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    model: Model = "demo",
    weights: Weights = None,
    images: Folder = None,
    methods: Methods = None,
    tests: Tests = None,
    preset: Preset = "quick",
    out: Out = Path("veridical-run"),
    device: Device = "cpu",
    seed: Seed = 0,
    executor: Executor = "local",
    policy: PolicyFile = None,
) -> None:
    """Test explanation methods on a model and photographs, and write a run directory with a report."""
    resume = f"interrupted; finished work is kept in {out}: run the same command again to go on"
    with one_line_errors(resume):
        explainers = find_explainers(methods)
        _check(executor, preset, out, explainers)
        find_tests(names(tests))
        rules = load_policy(policy)
        material = load_material(model, weights, images, device, limit=PRESETS[preset].images)
        with _progress() as told:
            report = audit(
                material.loaded.module, material.inputs, out=out, preset=preset, seed=seed,
                methods=explainers, tests=names(tests), policy=rules, progress=told,
                command=["veridical", *sys.argv[1:]], render=render, **_facts(material),
            )  # fmt: skip
        _print_verdicts(report)
        typer.echo(str((out / "report.html").resolve()))


def _check(executor: str, preset: str, out: Path, methods: list[str | Explainer] | None) -> None:
    """Refuse what would fail later, before the model is loaded."""
    if executor != "local":
        raise ValueError(f"expected a supported executor (local), got {executor!r}; use --executor local")
    if preset not in PRESETS:
        raise ValueError(f"expected a preset, got {preset!r}; {nearest_names(preset, PRESETS)}")
    check_directory(out)
    find_methods(methods, PRESETS[preset])


def _facts(material: Material) -> dict[str, Any]:
    """What the record and the pictures of a run need to know of model and images."""
    loaded = material.loaded
    return {
        "names": material.photographs.names,
        "display": material.display,
        "labels": loaded.label,
        "bounds": material.bounds(),
        "model_info": {
            "name": loaded.name, "source": loaded.source, "sha256": loaded.sha256,
            "parameters": loaded.parameters, "preprocessing": loaded.preprocessing.as_dict(),
        },
    }  # fmt: skip


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("preparing", total=None)

        def told(event: Progress) -> None:
            what = f"{event.task.method}: {event.task.test}"
            bars.update(bar, total=event.total, completed=int(event.done), description=what)
            if event.state == "failed":
                bars.console.print(f"{what} gave no result; the report says why", markup=False)

        yield told


def _print_verdicts(report: AuditReport) -> None:
    table = Table("method", "verdict", "reason", title=_title(report.run))
    for method, verdict in report.verdicts.items():
        table.add_row(method, f"[{MARKS[verdict.verdict]}]{verdict.verdict}[/]", verdict.reason)
    console = Console()
    console.print(table)
    console.print(f"{len(report.run.images)} images, preset {report.run.settings['preset']}", markup=False)


def _title(run: Run) -> str:
    return f"Which explanations of {run.model.name} may be believed?"
