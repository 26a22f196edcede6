"""`veridical manifold generate` and `reconstruct`: images whose manifold is known."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from veridical.cli.errors import one_line_errors
from veridical.cli.manifold import ImagesPath, Out, Side, app, check_place, progress_bar
from veridical.cli.manifold_images import read_images
from veridical.cli.options import Device, find_device
from veridical.data import LabeledImages, parts_of
from veridical.manifold import (
    TCVAE,
    Bordt2023Labeller,
    DataSet,
    DataSetRecipe,
    DataSetSettings,
    ManifoldModel,
    data_set_recipe,
    fit_recipe,
    generate_data_set,
    labeller_settings,
    load_manifold,
    load_tcvae,
    reconstruct_data_set,
    reconstructions,
    store_data_tangents,
)
from veridical.models import find_importable, load_weights
from veridical.records import write_arrays, write_json
from veridical.training import TrainingMoment, accuracy, train_classifier

PUBLISHED = "published"
LABELLER, LABELLER_FACTS = "labeller.safetensors", "labeller.json"
CHECKPOINT = "labeller-checkpoint.safetensors"
HELD_OUT = 0.1

Manifold = Annotated[
    str,
    typer.Option(
        "--manifold",
        help="A directory of `veridical manifold fit`, a file of beta-TCVAE weights, or published: "
        "models/mnist_btcvae.pt in the folder that VERIDICAL_DATA names.",
    ),
]
Tangents = Annotated[
    str | None, typer.Option("--tangents", help="Store the tangent spaces of this part too, or of all.")
]
MemoryGib = Annotated[float, typer.Option("--memory-gib", help="What the computation of --tangents may use.")]
Parts = Annotated[
    str | None, typer.Option("--parts", help="Instead of the recipe's: train=60000,test=10000.")
]


@dataclass(frozen=True)
class Surface:
    """A model, and the images that it is made for; a side of None is that of the images."""

    model: ManifoldModel
    latents: int
    channels: int
    side: int | None


@app.command("generate")
def generate(  # noqa: PLR0913 - the options of a command line are its parameters
    manifold: Manifold,
    out: Out,
    recipe: Annotated[str, typer.Option("--recipe", help="mnist32, mnist256 or emnist128.")] = "mnist32",
    labeller: Annotated[
        str | None,
        typer.Option("--labeller", help="package.module:callable, called with a seed; default: the paper's."),
    ] = None,
    labeller_weights: Annotated[
        Path | None, typer.Option("--labeller-weights", help="Of the labeller; else it is trained.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Labeled images on whose reconstructions it is trained.")
    ] = None,
    labeller_epochs: Annotated[int | None, typer.Option("--labeller-epochs", help="Instead of 5.")] = None,
    parts: Parts = None,
    tangents: Tangents = None,
    memory_gib: MemoryGib = 0.25,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws and of the labeller.")] = 0,
    device: Device = "cpu",
) -> None:
    """Draw a data set from a manifold's prior, labeled by a network that is sure of its label.

    The same command on an unfinished directory goes on where it stopped.
    """
    with one_line_errors(f"interrupted; the same command goes on in {out}"):
        found = data_set_recipe(recipe)
        settings = _settings(found, parts, seed)
        _check_tangents(tangents, settings)
        max_bytes = _bytes(memory_gib)
        if labeller_weights is None and images is None:
            raise ValueError(
                "expected --labeller-weights, or --images to train a labeller on, got neither; give one"
            )
        surface, place = _surface(manifold), find_device(device)
        _tell_other_manifold(recipe, found, surface)
        if not isinstance(surface.model, TCVAE):
            raise ValueError(
                "expected a manifold with a prior to draw from, got an autoencoder; `veridical manifold "
                "reconstruct` makes data sets of it"
            )
        check_place(out)
        torch.set_flush_denormal(True)
        network = _labeller(labeller, surface, found, seed).to(place)
        surface.model.to(place)
        if labeller_weights is not None:
            load_weights(network, labeller_weights)
        elif images is not None:
            _train_labeller(network, surface, images, (labeller_epochs, seed), out)
        with progress_bar() as bar:
            data = generate_data_set(
                out, surface.model.decoder, network, surface.latents, settings, _told(bar, "images")
            )
        _finish(data, surface, tangents, max_bytes)


@app.command("reconstruct")
def reconstruct(  # noqa: PLR0913 - the options of a command line are its parameters
    manifold: Manifold,
    images: ImagesPath,
    out: Out,
    side: Side = None,
    tangents: Tangents = None,
    memory_gib: MemoryGib = 0.25,
    device: Device = "cpu",
) -> None:
    """Make a data set of real images' reconstructions, with the labels of the images.

    Parts of the source (train, test) become parts of the set. The same command on an unfinished directory
    goes on where it stopped.
    """
    with one_line_errors(f"interrupted; the same command goes on in {out}"):
        surface, place = _surface(manifold), find_device(device)
        check_place(out)
        max_bytes = _bytes(memory_gib)
        torch.set_flush_denormal(True)
        parts = parts_of(images)
        wanted = surface.side if side is None else side
        found = [read_images(images, wanted, surface.channels, part) for part in parts or (None,)]
        _check_alike(found)
        settings = DataSetSettings(
            parts=tuple((part, len(one)) for part, one in zip(parts or ("all",), found, strict=True))
        )
        _check_tangents(tangents, settings)
        surface.model.to(place)
        with progress_bar() as bar:
            data = reconstruct_data_set(
                out,
                surface.model,
                torch.cat([one.images for one in found]),
                torch.cat([one.labels for one in found]),
                settings,
                _told(bar, "images"),
            )
        _finish(data, surface, tangents, max_bytes)


def _settings(recipe: DataSetRecipe, parts: str | None, seed: int) -> DataSetSettings:
    settings = replace(recipe.settings, seed=seed)
    if parts is None:
        return settings
    found = []
    for one in parts.split(","):
        name, _, count = (piece.strip() for piece in one.partition("="))
        if not name or not count.isdigit():
            raise ValueError(f"expected parts as train=60000,test=10000, got {parts!r}; write them so")
        found.append((name, int(count)))
    return replace(settings, parts=tuple(found))


def _check_tangents(part: str | None, settings: DataSetSettings) -> None:
    known = [name for name, _ in settings.parts] + ["all"]
    if part is not None and part not in known:
        raise ValueError(f"expected --tangents of one of {', '.join(known)}, got {part!r}; choose one")


def _bytes(memory_gib: float) -> int:
    if not (memory_gib > 0 and math.isfinite(memory_gib)):
        raise ValueError(f"expected --memory-gib above 0, got {memory_gib:g}; 0.25 is usual")
    return max(1, int(memory_gib * 2**30))


def _surface(spec: str) -> Surface:
    if spec != PUBLISHED and Path(spec).is_dir():
        fitted = load_manifold(spec)
        shape = fitted.shape
        side = shape.height if shape.height == shape.width else None
        return Surface(fitted.model, shape.k, shape.channels, side)
    model = load_tcvae(published() if spec == PUBLISHED else spec)
    channels = int(model.encoder.get_parameter("conv1.weight").shape[1])
    return Surface(model, model.decoder.lin1.in_features, channels, model.encoder.side)


def published() -> Path:
    """The file of the published beta-TCVAE.

    Raises:
        ValueError: the variable that names its folder is not set.
    """
    folder = os.environ.get("VERIDICAL_DATA")
    if folder is None:
        raise ValueError(
            "expected the folder of the published weights in VERIDICAL_DATA, got none; set it, or give "
            "--manifold the file itself"
        )
    return Path(folder) / "models" / "mnist_btcvae.pt"


def _labeller(spec: str | None, surface: Surface, recipe: DataSetRecipe, seed: int) -> nn.Module:
    if spec is None:
        return Bordt2023Labeller(seed, surface.channels, recipe.classes)
    found = find_importable(spec)
    if not callable(found):
        raise TypeError(
            f"expected {spec} to be a function of a seed, got {type(found).__name__}; name another"
        )
    network = found(seed)
    if not isinstance(network, nn.Module):
        raise TypeError(f"expected {spec} to return a module, got {type(network).__name__}; name another")
    return network


def _train_labeller(
    network: nn.Module, surface: Surface, images: str, choice: tuple[int | None, int], out: Path
) -> None:
    """Train it on reconstructions, measure it on others, and store it."""
    epochs, seed = choice
    settings = replace(labeller_settings(), seed=seed)
    settings = settings if epochs is None else replace(settings, epochs=epochs)
    train, held = _split(images, surface, seed)
    _check_alike([train, held])
    if len(train.classes) < 2:
        raise ValueError(
            f"expected images of at least two classes in {images}, got {', '.join(train.classes)}; a "
            "labeller is trained on labeled images"
        )
    if len(train) % settings.batch == 1:
        # Batch normalization cannot take a last batch of one image.
        train = train.subset(len(train) - 1, seed)
    with progress_bar() as bar:

        def told(moment: TrainingMoment) -> None:
            done = moment.epoch * moment.steps + moment.step
            bar(done, moment.epochs * moment.steps, f"labeller: epoch {moment.epoch + 1}/{moment.epochs}")

        shown = reconstructions(surface.model, train.images)
        train_classifier(network, shown, train.labels, settings, checkpoint=out / CHECKPOINT, progress=told)
    measured = accuracy(network, reconstructions(surface.model, held.images), held.labels)
    write_arrays(out / LABELLER, {name: value.cpu().numpy() for name, value in network.state_dict().items()})
    write_json(
        out / LABELLER_FACTS,
        {"correct": measured.correct, "n": measured.n, "epochs": settings.epochs, "images": train.sha256},
    )
    typer.echo(f"labeller: {measured.share:.2%} of {measured.n} reconstructions that it was not trained on")


def _split(images: str, surface: Surface, seed: int) -> tuple[LabeledImages, LabeledImages]:
    train = read_images(images, surface.side, surface.channels)
    if "test" in parts_of(images):
        return train, read_images(images, surface.side, surface.channels, "test")
    return train.split(HELD_OUT, seed)


def _check_alike(parts: list[LabeledImages]) -> None:
    """Labels are numbers: they mean the same in all parts only where these have the same classes."""
    first = parts[0].classes
    for other in (one.classes for one in parts if one.classes != first):
        raise ValueError(
            f"expected parts of the same classes, got {', '.join(first)} and {', '.join(other)}; label all "
            "parts alike"
        )


def _tell_other_manifold(name: str, recipe: DataSetRecipe, surface: Surface) -> None:
    """Say where the manifold has another form than the one that the recipe is made for."""
    usual = fit_recipe(recipe.fit)
    forms = [
        f"k = {latents} for {channels} x {side} x {side} images"
        for latents, channels, side in (
            (usual.settings.latents, usual.channels, usual.side),
            (surface.latents, surface.channels, surface.side),
        )
    ]
    if forms[0] != forms[1]:
        typer.echo(
            f"note: {name} is drawn from {recipe.fit} ({forms[0]}), this manifold has {forms[1]}", err=True
        )


def _told(bar: Callable[[int, int, str], None], words: str) -> Callable[[int, int], None]:
    return lambda done, total: bar(done, total, words)


def _finish(data: DataSet, surface: Surface, tangents: str | None, max_bytes: int) -> None:
    """Store tangent spaces where they are asked for, and say what there is."""
    manifest = data.manifest
    if tangents is not None:
        part = None if tangents == "all" and "all" not in data.parts else tangents
        with progress_bar() as bar:
            told = _told(bar, "tangent spaces")
            stored = store_data_tangents(
                data, surface.model.decoder, part, progress=told, max_bytes=max_bytes
            )
        typer.echo(
            f"tangent spaces: {len(stored)} in {stored.folder}, rank {int(stored.rank.min())} to "
            f"{int(stored.rank.max())}, off by at most {stored.largest_angle:.1e} radians"
        )
    sizes = ", ".join(f"{name} {count}" for name, count in manifest.parts)
    typer.echo(f"{manifest.approach} data set of {len(data)} images {manifest.shape}: {sizes}")
    if manifest.approach == "generative":
        typer.echo(f"accepted {data.acceptance:.1%} of all draws")
    shares = ", ".join(f"{count / len(data):.3f}" for count in data.class_counts())
    typer.echo(f"shares of the classes: {shares}")
    typer.echo(f"use it: veridical.manifold.open_data_set({str(data.folder)!r}).load('images')")
