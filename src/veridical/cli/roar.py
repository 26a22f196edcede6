"""`veridical roar`: networks trained again without the pixels that explanation methods call relevant."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table
from torch import Tensor, nn

from veridical.auditing import PRESETS, Roar, RoarData, RoarSettings, find_methods, roar
from veridical.checks import check_logits, nearest_names
from veridical.cli.errors import names, one_line_errors
from veridical.cli.images import SHOWN, Choice, Limit, MaxBroken, labels_of, tell_skipped
from veridical.cli.options import (
    Device,
    Network,
    Normalization,
    PhotographInputs,
    Weights,
    find_device,
    find_explainers,
)
from veridical.cli.train import Labeled, Tests, check_place, labeled_parts
from veridical.data import MAX_BROKEN, ImageSource
from veridical.models import LoadedModel, find_importable, state_digest
from veridical.training import FromScratch, TrainingSettings, training_recipe

EXPERIMENT, CELLS = "roar.json", "cells"
FOREIGN = ("torchvision", "timm", "hf")
"""What may stand before the colon of a model and is no module with a function in it."""

EPOCHS = 10
BATCH = 16
"""Images explained at once, which bounds the memory of networks for large images."""

Explained = Annotated[str, typer.Option("--model", help="The explained network: see veridical models.")]
Methods = Annotated[
    str, typer.Option("--methods", help="Names or package.module:callable, separated by commas.")
]
Preset = Annotated[
    str, typer.Option("--preset", help="Of the audit that is to read the folder: sets samples of methods.")
]
Out = Annotated[Path, typer.Option("--out", help="The folder to write to; an unfinished one goes on.")]
Own = Annotated[
    str | None,
    typer.Option("--network", help="package.module:callable that makes a new network; default: --model."),
]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Train as a recipe of veridical train does; default: Adam.")
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", help=f"Of each training; default: {EPOCHS}, or the recipe's.")
]
Batch = Annotated[int | None, typer.Option("--batch", help="Images a training step; default: 32.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate; default: 0.001 down to 0.")]
Shares = Annotated[str, typer.Option("--shares", help="Of the pixels that are removed.")]
Repetitions = Annotated[int, typer.Option("--repetitions", help="Networks trained for each share.")]
Order = Annotated[str, typer.Option("--order", help="Relevant pixels that are removed: most, least or both.")]
TestLimit = Annotated[int | None, typer.Option("--test-limit", help="As --limit, of the test images.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the draws, the random pixels and the trainings.")]


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    model: Explained,
    images: Labeled,
    methods: Methods,
    weights: Weights = None,
    preprocessing: Normalization = None,
    test: Tests = None,
    out: Out = Path("veridical-roar"),
    preset: Preset = "quick",
    network: Own = None,
    recipe: Recipe = None,
    epochs: Epochs = None,
    batch: Batch = None,
    lr: Rate = None,
    shares: Shares = "0.1,0.3,0.5,0.7,0.9",
    repetitions: Repetitions = 5,
    order: Order = "most",
    limit: Limit = None,
    test_limit: TestLimit = None,
    max_broken: MaxBroken = MAX_BROKEN,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Train networks again without the pixels that methods call relevant, and measure their accuracy.

    The same command on an unfinished folder goes on; shares, repetitions and methods may be added.
    """
    with one_line_errors(f"interrupted; finished trainings are kept in {out}: the same command goes on"):
        settings = RoarSettings(_numbers(shares), cast(Any, order), repetitions, batch=BATCH, seed=seed)
        if preset not in PRESETS:
            raise ValueError(f"expected a preset, got {preset!r}; {nearest_names(preset, PRESETS)}")
        explainers = find_methods(find_explainers(methods), PRESETS[preset])
        build = NewNetwork(_spec(model, network), device)
        train = FromScratch(build, _training(recipe, epochs, batch, lr))
        _check_folder(out)
        choices = Choice(limit, seed, max_broken), Choice(test_limit, seed, max_broken)
        loaded = Network(model, weights, preprocessing, device).load()
        data = _data(loaded, labeled_parts(images, test, choices[0])[:2], choices, device)
        build.check(data, seed)
        typer.echo(f"{len(data.images)} images to train on, {len(data.test_images)} to test on", err=True)
        with _progress() as told:
            found = roar(
                loaded.module, data, explainers, train, folder=out, progress=told, **asdict(settings)
            )
        _tell(found)
        typer.echo(f"use it: veridical audit --roar {out.resolve()} --preset {preset} --methods {methods}")


@dataclass(frozen=True)
class NewNetwork:
    """Makes networks with initial weights.

    Attributes:
        spec: "package.module:callable". It is called with `seed` where it has a parameter of that name, else
            without arguments; torch's generator is seeded before in any case.
        device: of the networks. Trainings may go on on another one, so it is not part of the text.
    """

    spec: str
    device: str = field(default="cpu", repr=False)

    def __call__(self, seed: int) -> nn.Module:
        """The network of that seed.

        Raises:
            ValueError: the callable does not exist or fails.
            TypeError: it makes no network.
        """
        with torch.random.fork_rng(devices=[]):
            made = self._made(seed)
        network = made[0] if isinstance(made, tuple) and made else made
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"expected {self.spec} to return a torch.nn.Module, got {type(network).__name__}; return one"
            )
        return network.to(self.device)

    def _made(self, seed: int) -> Any:
        # The import may draw random numbers, and only the first one of a process does.
        make = find_importable(self.spec)
        if not callable(make) or isinstance(make, nn.Module):
            raise TypeError(
                f"expected {self.spec} to make networks, got {type(make).__name__}; name a function"
            )
        torch.default_generator.manual_seed(seed)
        try:
            return make(seed=seed) if "seed" in inspect.signature(make).parameters else make()
        except Exception as error:
            raise ValueError(
                f"expected {self.spec} to make a network, got {type(error).__name__}: {error}; it is called "
                "with seed=NUMBER if it takes that, else without arguments"
            ) from error

    def check(self, data: RoarData, seed: int) -> None:
        """Refuse what would fail in a training, or would not start anew.

        Raises:
            ValueError: the weights do not depend on the seed, or the logits do not fit the labels.
        """
        network = self(seed).eval()
        if state_digest(network) == state_digest(self(seed + 1)):
            raise ValueError(
                f"expected other initial weights for another seed from {self.spec}, got the same; leave out "
                "stored weights, and draw new ones from torch's generator or by a parameter `seed`"
            )
        with torch.no_grad():
            classes = check_logits(network(data.images[:1].to(self.device)), 1).shape[1]
        wanted = 1 + int(torch.cat([data.labels, data.test_labels]).max())
        if classes < wanted:
            raise ValueError(
                f"expected at least {wanted} logits from {self.spec}, got {classes}; give each class one"
            )


def _spec(model: str, network: str | None) -> str:
    """The function that makes networks: `--network`, or the one that the explained network comes from."""
    found = model if network is None else network
    kind, colon, name = found.partition(":")
    if not colon or not name or kind in FOREIGN:
        raise ValueError(
            f"expected package.module:callable that makes new networks, got {found!r}; name one by --network"
        )
    return found


def _training(
    recipe: str | None, epochs: int | None, batch: int | None, lr: float | None
) -> TrainingSettings:
    """How each network is trained; the seed is that of its repetition."""
    plain = TrainingSettings(epochs=EPOCHS, schedule="cosine")
    found = plain if recipe is None else training_recipe(recipe).settings
    given: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr}
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in names(text) or ())
    except ValueError:
        raise ValueError(f"expected --shares as numbers with commas, got {text!r}; 0.5,0.9 will do") from None


def _check_folder(out: Path) -> None:
    """Refuse a place that cannot be written to or holds something else, before any work."""
    check_place(out)
    if out.is_dir() and any(out.iterdir()) and not (out / EXPERIMENT).is_file():
        raise ValueError(
            f"expected a new or empty folder or one of this command, got {out} without {EXPERIMENT}; choose "
            "another --out"
        )


def _data(
    loaded: LoadedModel, sources: tuple[ImageSource, ImageSource], choices: tuple[Choice, Choice], device: str
) -> RoarData:
    train, test = (
        _read(loaded, choice.of(source), choice, device)
        for source, choice in zip(sources, choices, strict=True)
    )
    return RoarData(*train, *test)


def _read(loaded: LoadedModel, source: ImageSource, choice: Choice, device: str) -> tuple[Tensor, Tensor]:
    """Images as the network takes them, in memory, and their labels as it numbers them."""
    photographs = source.photographs(choice.max_broken, later=True)
    tell_skipped(photographs.skipped)
    inputs = PhotographInputs(photographs, loaded.preprocessing.apply, torch.device("cpu"))
    labels = labels_of(photographs, loaded, inputs.read(0, 1).to(find_device(device)))
    if labels is None or labels.numbers is None:
        why = "no labels" if labels is None else f"those {labels.matched}"
        raise ValueError(
            f"expected classes that the network has in {source.place}, got {why}; name the classes as the "
            "network does, or by its numbers"
        )
    return inputs.read(0, len(inputs)), torch.tensor(labels.numbers)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("networks trained", total=None)
        yield lambda done, total: bars.update(bar, total=total, completed=done)


def _tell(found: Roar) -> None:
    """The accuracies by share, the margins over random pixels, and what has no network."""
    heads = ("method", *(f"{100 * share:g}%" for share in found.shares), "margin")
    table = Table(*(Column(head, overflow="fold") for head in heads), title="Accuracy without pixels")
    for row in found.table():
        name = row["method"] if row["order"] == "most" else f"{row['method']} (least)"
        cells = [_shown(row, f"{share:g}", "") for share in found.shares]
        table.add_row(name, *cells, "" if row["method"] == "random" else _shown(row, "margin", "+"))
    console = Console()
    console.print(table)
    console.print(
        f"{found.n} test images; the most frequent class is {found.chance:.1%} of them. Second lines: half "
        "of Student's 95 % interval over the trainings. Margin: above 0 the method beats random pixels.",
        markup=False, highlight=False,
    )  # fmt: skip
    for cell, reason in found.failures[:SHOWN]:
        typer.echo(f"no network for {cell}: {reason}", err=True)
    if len(found.failures) > SHOWN:
        typer.echo(f"no network for {len(found.failures) - SHOWN} more; see {CELLS}", err=True)


def _shown(row: dict[str, Any], name: str, sign: str) -> str:
    """A mean, and below it half the width of its interval where it has one."""
    mean, high = row[name], row[f"{name} high"]
    if math.isnan(mean):
        return "none"
    return f"{mean:{sign}.3f}" + ("" if math.isnan(high) else f"\n±{high - mean:.3f}")
