"""`veridical train`: a network trained by a published recipe on one's own images."""

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from torch import nn

from veridical.cli.errors import one_line_errors
from veridical.cli.images import LABELED_FORMS, Choice, Limit, MaxBroken, tell_skipped
from veridical.cli.options import Device, find_device
from veridical.cli.train_adversary import (
    AdversaryOptions,
    Attack,
    Attacked,
    BudgetOf,
    Epsilon,
    Norm,
    Steps,
    robust_record,
    tell_robust,
)
from veridical.data import MAX_BROKEN, ImageSource, LabeledImages, open_labeled, parts_of
from veridical.models import find_importable, state_digest
from veridical.records import write_arrays, write_json
from veridical.training import (
    LEVEL,
    Accuracy,
    DivergedError,
    Snapshots,
    Training,
    TrainingMoment,
    TrainingProgress,
    TrainingRecipe,
    TrainingSettings,
    accuracy,
    log_steps,
    train_classifier,
    training_recipe,
)

WEIGHTS, CHECKPOINT, RESULT = "weights.safetensors", "checkpoint.safetensors", "training.json"
HELD_OUT = 0.1

Recipe = Annotated[str, typer.Option("--recipe", help="A training recipe; a wrong name lists all.")]
Labeled = Annotated[
    str,
    typer.Option("--images", help=f"Labeled images: {LABELED_FORMS}."),
]
Tests = Annotated[
    str | None,
    typer.Option("--test", help="Images for the accuracy; default: the test part, or a tenth of the images."),
]
Out = Annotated[Path, typer.Option("--out", help="The directory to write to; an unfinished run goes on.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Instead of the recipe's.")]
Network = Annotated[
    str | None,
    typer.Option("--network", help="package.module:callable (called with the seed) instead of the recipe's."),
]
Keep = Annotated[
    int, typer.Option("--keep", help="Keep the network at so many steps, log-spaced, in steps/.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the weights, the draws and the order of the images.")]


@dataclass(frozen=True)
class Chosen:
    """The images to train on and those to measure on, and how the latter were chosen."""

    train: LabeledImages
    test: LabeledImages
    how: str


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    images: Labeled,
    recipe: Recipe = "sixt2020-cifar10",
    test: Tests = None,
    max_broken: MaxBroken = MAX_BROKEN,
    out: Out = Path("veridical-training"),
    epochs: Epochs = None,
    limit: Limit = None,
    seed: Seed = 0,
    own_network: Network = None,
    adversary: Norm = None,
    epsilon: Epsilon = None,
    adversary_steps: Steps = None,
    adversary_budget: BudgetOf = None,
    attack: Attack = "pgd",
    attacked: Attacked = 500,
    keep: Keep = 0,
    device: Device = "cpu",
) -> None:
    """Train a network by a recipe, and measure its accuracy on images that it has not seen.

    The same command on an unfinished directory goes on after its last whole epoch.
    """
    with one_line_errors(f"interrupted; the same command goes on from {out / CHECKPOINT}"):
        found = _recipe(recipe, own_network)
        options = AdversaryOptions(adversary, epsilon, adversary_steps, adversary_budget, attack, attacked)
        settings = options.settings(found.with_settings(epochs=epochs, seed=seed))
        robustness = options.robustness(settings)
        place = find_device(device)
        check_place(out)
        # Rectified gradients are full of denormal numbers, which slow CPU kernels several times.
        torch.set_flush_denormal(True)
        chosen = _images(found, images, test, Choice(limit, seed, max_broken))
        network = find_importable(found.network)(seed).to(place)
        began = perf_counter()
        training = _train(network, chosen.train, settings, out, keep)
        measured = accuracy(network, chosen.test.images, chosen.test.labels)
        _write(out, network)
        record = _record(recipe, found, chosen, training, measured)
        record["times"] |= {"seconds": round(perf_counter() - began, 1), "resumed_after": training.resumed}
        record["model"] = {"weights": WEIGHTS, "sha256": state_digest(network)}
        robust = None if robustness is None else options.measured(network, chosen.test, robustness)
        record["robust_accuracy"] = None if robust is None else robust_record(robust)
        write_json(out / RESULT, record)
        _tell(found, measured, out)
        if robust is not None:
            tell_robust(robust)


def _recipe(name: str, network: str | None) -> TrainingRecipe:
    """The recipe of that name, for another network where one is given."""
    found = training_recipe(name)
    if network is None:
        return found
    changed = {"network": network, "published_accuracy": None, "source": f"{found.source}; another network"}
    return TrainingRecipe.model_validate({**dict(found), **changed})


def check_place(out: Path) -> None:
    """Refuse a directory that cannot be written to, before any work."""
    place = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not place.is_dir():
        raise ValueError(f"expected a directory to write to, got the file {place}; choose another --out")


def labeled_parts(images: str, test: str | None, choice: Choice) -> tuple[ImageSource, ImageSource, str]:
    """The images to train on, those to test on, neither read nor limited yet, and how the latter were chosen.

    Args:
        images: `--images`.
        test: `--test`.
        choice: its seed draws a tenth of the images where nothing names those to test on.

    Raises:
        ValueError, OSError, ImportError: see `open_labeled`; or the classes of both differ.
    """
    choice.check()
    found = _open(images, "train")
    if test is not None:
        held, how = _open(test, "test"), "images of their own"
    elif "test" in parts_of(images):
        held, how = _open(images, "test"), "the test part of the images"
    else:
        found, held = found.split(HELD_OUT, choice.seed)
        how = f"{HELD_OUT:.0%} of the images, drawn by the seed and not trained on"
    if held.classes != found.classes:
        raise ValueError(
            f"expected test images of the classes {', '.join(found.classes)}, got {', '.join(held.classes)}; "
            "name the folders alike"
        )
    return found, held, how


def _images(recipe: TrainingRecipe, images: str, test: str | None, choice: Choice) -> Chosen:
    found, held, how = labeled_parts(images, test, choice)
    chosen = Chosen(_load(recipe, choice.of(found), choice), _load(recipe, held, choice), how)
    seen = [name for part in (chosen.train, chosen.test) for name, count in part.counts.items() if count]
    missing = [name for name in found.classes if name not in seen]
    if missing and choice.limit is None:
        raise ValueError(
            f"expected a usable image of every class in {images}, got none of {missing[0]}; mend its files"
        )
    return chosen


def _open(place: str, wanted: str) -> ImageSource:
    """The wanted part, or all of a source without parts."""
    return open_labeled(place, wanted if wanted in parts_of(place) else None)


def _load(recipe: TrainingRecipe, source: ImageSource, choice: Choice) -> LabeledImages:
    """The images in memory; what could not be used is named on stderr."""
    found = source.arrays(recipe.side, recipe.channels, choice.max_broken)
    tell_skipped(found.skipped, RESULT)
    if found.resized:
        typer.echo(f"brought {found.resized} images to {recipe.side} x {recipe.side} pixels", err=True)
    return found


def _train(
    network: nn.Module, images: LabeledImages, settings: TrainingSettings, out: Path, keep: int
) -> Training:
    try:
        with _progress() as told:
            watched: TrainingProgress = told
            if keep:
                steps = log_steps(settings.total_steps(len(images)), keep)
                watched = Snapshots(out / "steps", network, steps, told)
                watched.keep_first()
            return train_classifier(
                network, images.images, images.labels, settings, checkpoint=out / CHECKPOINT, progress=watched
            )
    except DivergedError as error:
        kept = (
            f"{out / CHECKPOINT} holds the last whole epoch"
            if (out / CHECKPOINT).exists()
            else "no epoch ended"
        )
        raise RuntimeError(f"{error}; {kept}") from error


@contextmanager
def _progress() -> Iterator[Callable[[TrainingMoment], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("preparing", total=None)

        def told(moment: TrainingMoment) -> None:
            words = f"epoch {moment.epoch + 1}/{moment.epochs}, loss {moment.loss:.3f}, {moment.accuracy:.1%}"
            done = moment.epoch * moment.steps + moment.step
            bars.update(bar, total=moment.epochs * moment.steps, completed=done, description=words)

        yield told


def _write(out: Path, network: nn.Module) -> None:
    """The weights as safetensors, which `--weights` takes."""
    arrays = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    write_arrays(out / WEIGHTS, arrays)


def _record(
    name: str, recipe: TrainingRecipe, chosen: Chosen, training: Training, measured: Accuracy
) -> dict[str, Any]:
    """The content of training.json; only `times` differs between two runs of the same training."""
    interval = measured.interval()
    return {
        "format": 1,
        "times": {"created": datetime.now(UTC).isoformat(timespec="seconds")},
        "recipe": {"name": name, **recipe.model_dump(mode="json", exclude={"settings"})},
        "settings": asdict(training.settings),
        "accuracy": {
            "share": measured.share,
            "low": interval.low,
            "high": interval.high,
            "level": LEVEL,
            "correct": measured.correct,
            "n": measured.n,
            "loss": measured.loss,
            "measured_on": chosen.how,
        },
        "epochs": [asdict(one) for one in training.history],
        "images": {"train": _described(chosen.train), "test": _described(chosen.test)},
        "environment": {
            "veridical": version("veridical"),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        },
    }


def _described(images: LabeledImages) -> dict[str, Any]:
    return {
        "name": Path(images.source).name,
        "sha256": images.sha256,
        "n": len(images),
        "classes": images.counts,
        "resized": images.resized,
        "skipped": [list(one) for one in images.skipped],
    }


def _tell(recipe: TrainingRecipe, measured: Accuracy, out: Path) -> None:
    """The accuracy, and how to use the network."""
    interval = measured.interval()
    typer.echo(
        f"accuracy {measured.share:.2%} of {measured.n} images "
        f"({LEVEL:.0%} interval {interval.low:.2%} to {interval.high:.2%})"
    )
    if recipe.published_accuracy is not None:
        typer.echo(f"published: {recipe.published_accuracy:.2%}, with all of the recipe's epochs and images")
    typer.echo(f"use it: --model {recipe.network} --weights {(out / WEIGHTS).resolve()}")
