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
    check_memory,
    find_methods,
    find_tests,
    load_policy,
    plan_audit,
    read_roar,
)
from veridical.checks import nearest_names
from veridical.cli.audit_manifold import Decoder, Latents, Manifold, find_manifold
from veridical.cli.audit_work import (
    ExecutorName,
    MemoryGib,
    PlanOnly,
    RayAddress,
    Workers,
    find_executor,
    print_plan,
)
from veridical.cli.errors import names, one_line_errors
from veridical.cli.images import (
    Choice,
    Explained,
    Limit,
    MaxBroken,
    Place,
    check_target,
    data_facts,
    find_target,
)
from veridical.cli.options import (
    Device,
    Json,
    Material,
    Methods,
    Model,
    Network,
    Normalization,
    Weights,
    bounds_of,
    find_explainers,
    load_material,
)
from veridical.data import MAX_BROKEN
from veridical.records import Run
from veridical.report import render
from veridical.values import Explainer

Tests = Annotated[str | None, typer.Option("--tests", help="Names, separated by commas; default: all.")]
Preset = Annotated[str, typer.Option("--preset", help="quick, standard or thorough.")]
Out = Annotated[Path, typer.Option("--out", help="The run directory; an earlier run is resumed.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Retrained = Annotated[
    Path | None,
    typer.Option("--roar", help="For the test roar: the folder of veridical roar, or vd.roar."),
]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A policy file; default: the package's.")]

MARKS = {"believable": "green", "not believable": "red", "not decided": "yellow"}


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    model: Model = "demo",
    weights: Weights = None,
    preprocessing: Normalization = None,
    images: Place = None,
    limit: Limit = None,
    max_broken: MaxBroken = MAX_BROKEN,
    target: Explained = "predicted",
    methods: Methods = None,
    tests: Tests = None,
    preset: Preset = "quick",
    out: Out = Path("veridical-run"),
    device: Device = "cpu",
    seed: Seed = 0,
    executor: ExecutorName = "local",
    ray_address: RayAddress = None,
    workers: Workers = None,
    memory_gib: MemoryGib = None,
    policy: PolicyFile = None,
    manifold: Manifold = None,
    decoder: Decoder = None,
    latents: Latents = None,
    roar: Retrained = None,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Test explanation methods on a model and photographs, and write a run directory with a report."""
    resume = f"interrupted; finished work is kept in {out}: run the same command again to go on"
    with one_line_errors(resume):
        check_target(target)
        explainers = find_explainers(methods)
        _check(preset, out, explainers, as_json and not plan)
        check_memory(memory_gib)
        doer = find_executor(executor, ray_address, workers)
        find_tests(names(tests))
        rules, surface = load_policy(policy), find_manifold(manifold, decoder, latents)
        if roar is not None:
            read_roar(roar)  # refused before the model is loaded
        choice = Choice(limit, seed, max_broken, most=PRESETS[preset].images)
        network = Network(model, weights, preprocessing, device)
        material = load_material(network, images, choice, later=True)
        options: dict[str, Any] = {
            "out": out, "preset": preset, "seed": seed, "methods": explainers, "tests": names(tests),
            "policy": rules, "manifold": surface, "roar": roar,
            "target": find_target(target, material.labels), "max_images": limit, "memory_gib": memory_gib,
            **_facts(material, choice),
        }  # fmt: skip
        if plan:
            print_plan(plan_audit(material.loaded.module, material.inputs, **options), as_json)
            return
        with _progress() as told:
            report = audit(
                material.loaded.module, material.inputs, progress=told, executor=doer, render=render,
                command=["veridical", *sys.argv[1:]], **options,
            )  # fmt: skip
        _print_verdicts(report)
        typer.echo(str((out / "report.html").resolve()))


def _check(preset: str, out: Path, methods: list[str | Explainer] | None, json_alone: bool) -> None:
    """Refuse what would fail later, before the model is loaded."""
    if json_alone:
        raise ValueError("expected --json only with --plan, got it alone; run.json has the results of a run")
    if preset not in PRESETS:
        raise ValueError(f"expected a preset, got {preset!r}; {nearest_names(preset, PRESETS)}")
    check_directory(out)
    find_methods(methods, PRESETS[preset])


def _facts(material: Material, choice: Choice) -> dict[str, Any]:
    """What the record and the pictures of a run need to know of model and images."""
    loaded, labels = material.loaded, material.labels
    return {
        "truth": None if labels is None else (labels.names, labels.numbers),
        "data_info": data_facts(material.photographs, choice, labels),
        "names": material.photographs.names,
        "display": loaded.preprocessing.denormalize,
        "labels": loaded.label,
        "bounds": bounds_of(loaded),
        "model_info": {
            "name": loaded.name, "source": loaded.source, "sha256": loaded.sha256,
            "parameters": loaded.parameters, "preprocessing": loaded.preprocessing.as_dict(),
            "output": loaded.output,
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
