"""`veridical manifold`: models of the surface that images lie on, and data sets on such a surface."""

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from veridical.cli.errors import USAGE, one_line_errors
from veridical.cli.images import PLACES, Choice, Limit, MaxBroken
from veridical.cli.manifold_images import read_images
from veridical.cli.options import Device, find_device
from veridical.data import MAX_BROKEN, LabeledImages
from veridical.manifold import (
    FitMoment,
    FitRecipe,
    FitSettings,
    FittedManifold,
    fit_manifold,
    fit_recipe,
    fit_recipes,
    load_manifold,
    save_manifold,
)
from veridical.manifold.fitting_store import on_cpu
from veridical.training import DivergedError

CHECKPOINT = "checkpoint.safetensors"
SHOWN = 12

app = typer.Typer(
    help="Fit the surface on which images lie, and draw images on it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ImagesPath = Annotated[str, typer.Option("--images", help=f"{PLACES}.")]
Out = Annotated[Path, typer.Option("--out", help="The directory to write to; unfinished work goes on.")]
Side = Annotated[int | None, typer.Option("--side", help="Height and width, instead of the recipe's.")]


@app.command("fit")
def fit(  # noqa: PLR0913 - the options of a command line are its parameters
    images: ImagesPath,
    recipe: Annotated[str, typer.Option("--recipe", help="`veridical manifold recipes` lists them.")],
    out: Out = Path("veridical-manifold"),
    epochs: Annotated[int | None, typer.Option("--epochs", help="Instead of the recipe's.")] = None,
    latents: Annotated[int | None, typer.Option("--latents", help="k, instead of the recipe's.")] = None,
    side: Side = None,
    limit: Limit = None,
    max_broken: MaxBroken = MAX_BROKEN,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    device: Device = "cpu",
) -> None:
    """Fit a model of the manifold of images by a recipe, and say how good it is.

    The same command on an unfinished directory goes on after its last whole epoch.
    """
    with one_line_errors(f"interrupted; the same command goes on from {out / CHECKPOINT}"):
        found = fit_recipe(recipe)
        settings = _settings(found, epochs, latents, seed)
        place = find_device(device)
        check_place(out)
        torch.set_flush_denormal(True)
        wanted = found.side if side is None else side
        if wanted is not None:
            settings.model(found.channels, wanted, wanted)  # refuses what cannot be, before images are read
        choice = Choice(limit, settings.seed, max_broken)
        source = read_images(images, wanted, found.channels, choice=choice, labeled=False)
        began = perf_counter()
        fitted = on_cpu(_fitted(source, settings, out, place))
        save_manifold(out, fitted, _about(recipe, found, source, perf_counter() - began))
        _tell(fitted, out)
        if fitted.diverged:
            typer.echo(f"error: {fitted.outcome}; {out} holds them", err=True)
            raise typer.Exit(USAGE)


@app.command("info")
def info(
    folder: Annotated[Path, typer.Argument(help="Of `veridical manifold fit`.", show_default=False)],
) -> None:
    """Show how good a fitted manifold is, and which latents say nothing."""
    with one_line_errors():
        _tell(load_manifold(folder), folder)


@app.command("recipes")
def recipes() -> None:
    """List the recipes, with what each is made for."""
    for name, one in fit_recipes().items():
        size = "own size" if one.side is None else f"{one.side} x {one.side}"
        kind = "gray" if one.channels == 1 else "color"
        typer.echo(f"{name}: {one.settings.architecture}, {one.settings.loss}, {kind}, {size}; {one.source}")


def check_place(out: Path) -> None:
    """Refuse a directory that cannot be written to, before any work.

    Raises:
        ValueError: if it, or one above it, is a file.
    """
    place = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not place.is_dir():
        raise ValueError(f"expected a directory to write to, got the file {place}; choose another --out")


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr; the function takes what is done, all, and words."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("preparing", total=None)

        def told(done: int, total: int, words: str) -> None:
            bars.update(bar, total=total, completed=done, description=words)

        yield told


def _settings(recipe: FitRecipe, epochs: int | None, latents: int | None, seed: int | None) -> FitSettings:
    given = {"epochs": epochs, "latents": latents, "seed": seed}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(recipe.settings, **changes)


def _fitted(source: LabeledImages, settings: FitSettings, out: Path, place: torch.device) -> FittedManifold:
    with progress_bar() as bar:

        def told(moment: FitMoment) -> None:
            words = f"epoch {moment.epoch + 1}/{moment.epochs}, loss {moment.loss:.4g}"
            done = moment.epoch * moment.steps + moment.step
            bar(done, moment.epochs * moment.steps, f"{words}, held out {moment.held_out:.4g}")

        try:
            return fit_manifold(source.images, settings, told, checkpoint=out / CHECKPOINT, device=place)
        except DivergedError as error:
            raise RuntimeError(f"{error}; no epoch ended") from error


def _about(recipe: str, found: FitRecipe, source: LabeledImages, seconds: float) -> dict[str, Any]:
    """What `manifold.json` says of a fit beyond its settings."""
    return {
        "recipe": {"name": recipe, "source": found.source},
        "images": {
            "name": Path(source.source).name,
            "sha256": source.sha256,
            "n": len(source),
            "resized": source.resized,
            "skipped": [list(one) for one in source.skipped],
        },
        "times": {"created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 1)},
        "environment": {
            "veridical": version("veridical"),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        },
    }


def _tell(fitted: FittedManifold, out: Path) -> None:
    """The quality report."""
    quality, shape = fitted.quality, fitted.shape
    own, reference = quality.error(), quality.reference_error()
    typer.echo(f"{shape.architecture} with k = {shape.k} of d = {shape.dimension}, {fitted.settings.loss}")
    typer.echo(
        f"reconstruction: root mean squared error {own.estimate:.4f} (99% interval {own.low:.4f} to "
        f"{own.high:.4f}) on {own.n} held-out images; the mean image: {reference.estimate:.4f}"
    )
    if quality.kl:
        listed = ", ".join(f"{index}: {value:.3f}" for index, value in enumerate(quality.kl[:SHOWN]))
        more = f", and {len(quality.kl) - SHOWN} more" if len(quality.kl) > SHOWN else ""
        typer.echo(f"divergence from the prior by latent, in nats: {listed}{more}")
    typer.echo(f"collapsed latents: {_named(quality.collapsed)}")
    typer.echo(f"weights of epoch {fitted.best} of {len(fitted.history)}: {fitted.outcome}")
    typer.echo(f"use it: veridical.manifold.load_manifold({str(out)!r}).decoder")


def _named(collapsed: list[int]) -> str:
    if not collapsed:
        return "none"
    more = f", and {len(collapsed) - SHOWN} more" if len(collapsed) > SHOWN else ""
    return ", ".join(str(one) for one in collapsed[:SHOWN]) + more
