"""`veridical reproduce`: a figure or table of a paper, computed again, with its claims checked."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from veridical.checks import nearest_names
from veridical.cli.audit_manifold import Decoder, Latents, Manifold, find_manifold
from veridical.cli.errors import one_line_errors
from veridical.cli.images import Choice, Limit, MaxBroken, Place
from veridical.cli.listing import show
from veridical.cli.options import (
    Device,
    Json,
    Material,
    Model,
    Network,
    Normalization,
    Weights,
    bounds_of,
    load_material,
)
from veridical.data import MAX_BROKEN
from veridical.records import finite_or_null
from veridical.reproduce import (
    CATALOG,
    Claim,
    Entry,
    Given,
    Moment,
    Reproduced,
    Subject,
    Surface,
    check_place,
    find_entry,
    reproduce,
)
from veridical.reproduce.given import PRESETS

LIST = "list"
MOST = {"quick": 8, "full": 100}
"""Images where no --limit says more or fewer."""
MARKS = {"holds": "green", "does not hold": "red", "not decided": "yellow"}

Names = Annotated[
    list[str] | None, typer.Argument(help="Figures and tables; list (or nothing) shows what there is.")
]
Out = Annotated[Path, typer.Option("--out", help="The directory to write to; unfinished work goes on.")]
Preset = Annotated[str, typer.Option("--preset", help="quick (90 % intervals) or full (99 %).")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    names: Names = None,
    model: Model = "demo",
    weights: Weights = None,
    preprocessing: Normalization = None,
    images: Place = None,
    limit: Limit = None,
    max_broken: MaxBroken = MAX_BROKEN,
    manifold: Manifold = None,
    decoder: Decoder = None,
    latents: Latents = None,
    preset: Preset = "quick",
    out: Out = Path("veridical-reproduce"),
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compute figures or tables of the papers, and check the papers' claims.

    Exit code 0 where every claim holds, 1 where one does not or is not decided, 2 on a usage error.
    """
    if not names or names == [LIST]:
        _list(as_json)
        return
    resume = f"interrupted; finished work is kept in {out}: run the same command again to go on"
    with one_line_errors(resume):
        entries = [find_entry(name) for name in dict.fromkeys(names)]
        if preset not in PRESETS:
            raise ValueError(f"expected a preset, got {preset!r}; {nearest_names(preset, PRESETS)}")
        surface = find_manifold(manifold, decoder, latents)
        needed = any(entry.needs_network for entry in entries)
        for entry in entries:
            check_place(out / entry.name)
            entry.check(network=needed, manifold=surface is not None)
        choice = Choice(limit, seed, max_broken, most=MOST[preset])
        network = Network(model, weights, preprocessing, device)
        given = Given(
            preset=cast(Literal["quick", "full"], preset),
            seed=seed,
            network=_subject(load_material(network, images, choice)) if needed else None,
            manifold=None if surface is None else Surface(surface, str(manifold or (decoder, latents))),
        )
        torch.set_flush_denormal(True)
        found = [_one(entry, given, out, as_json) for entry in entries]
        if as_json:
            typer.echo(json.dumps(finite_or_null([_record(one) for one in found]), indent=1))
    if not all(one.all_hold for one in found):
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    """What there is, one a line."""
    if as_json:
        typer.echo(json.dumps([entry.record() for entry in CATALOG.values()], indent=1))
        return
    show({name: entry.description for name, entry in CATALOG.items()}, as_json=False)


def _subject(material: Material) -> Subject:
    """The network and its images as the figures take them."""
    low, high = bounds_of(material.loaded)
    numbers = None if material.labels is None else material.labels.numbers
    return Subject(
        model=material.loaded.module,
        inputs=material.all_inputs(),
        bounds=(tuple(low), tuple(high)),
        facts=_facts(material),
        names=material.photographs.names,
        targets=None if numbers is None else torch.tensor(numbers),
    )


def _facts(material: Material) -> dict[str, Any]:
    """What the numbers depend on of model and images."""
    loaded, photographs = material.loaded, material.photographs
    return {
        "model": {
            "name": loaded.name, "source": loaded.source, "sha256": loaded.sha256,
            "preprocessing": loaded.preprocessing.as_dict(),
        },
        "images": dict(zip(photographs.names, photographs.sha256, strict=True)),
    }  # fmt: skip


def _one(entry: Entry, given: Given, out: Path, quiet: bool) -> Reproduced:
    with _progress(entry) as told:
        found = reproduce(entry, given, out, progress=told, command=["veridical", *sys.argv[1:]])
    if not quiet:
        _tell(found)
    return found


@contextmanager
def _progress(entry: Entry) -> Iterator[Callable[[Moment], None]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task(entry.name, total=None)

        def told(moment: Moment) -> None:
            words = f"{moment.name}: {moment.words}"
            bars.update(bar, total=moment.total, completed=moment.done, description=escape(words))

        yield told


def _tell(found: Reproduced) -> None:
    """The table of claims, what a reader has to know, and where the rest is."""
    entry, console = found.entry, Console()
    head = ("claim", "the paper", "here", "verdict")
    table = Table(*head, title=f"{entry.paper}, {entry.part}", box=SIMPLE_HEAD, pad_edge=False)
    for claim in found.claims:
        table.add_row(
            escape(claim.statement),
            escape(f"{claim.paper}: {claim.expected}"),
            escape(ours(claim)),
            f"[{MARKS[claim.verdict]}]{claim.verdict}[/]",
            end_section=True,
        )
    console.print(table)
    for note in dict.fromkeys((*found.notes, *_notes(found.claims))):
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in found.counts.items()), markup=False)
    typer.echo(str((found.folder / "figure.png").resolve()))


def ours(claim: Claim) -> str:
    """What was measured, with its interval, or with the range over all cases."""
    ends = f"{claim.low:.3g} to {claim.high:.3g}"
    how = "all cases" if claim.level is None else f"{claim.level:.0%}"
    number = f"{claim.measured:.3g} ({how}: {ends})" if claim.n > 1 else f"{claim.measured:.3g}"
    return f"{claim.statistic}: {number}, n = {claim.n} {claim.unit}"


def _notes(claims: Sequence[Claim]) -> list[str]:
    return [claim.note for claim in claims if claim.note]


def _record(found: Reproduced) -> dict[str, Any]:
    return {
        "name": found.entry.name,
        "verdicts": found.counts,
        "claims": [claim.record() for claim in found.claims],
        "notes": list(found.notes),
        "folder": str(found.folder.resolve()),
    }
