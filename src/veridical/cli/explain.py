"""`veridical explain`: the maps of some methods, without any test."""

import re
from collections.abc import Iterable
from io import BytesIO
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from veridical.auditing import PRESETS, find_methods
from veridical.checks import check_relevance
from veridical.cli.errors import one_line_errors
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
    Material,
    Methods,
    Model,
    Network,
    Normalization,
    Weights,
    find_explainers,
    load_material,
)
from veridical.data import MAX_BROKEN
from veridical.records import write_arrays, write_bytes

Out = Annotated[Path, typer.Option("--out", help="The directory to write to.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the images that --limit draws.")]


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    model: Model = "demo",
    weights: Weights = None,
    preprocessing: Normalization = None,
    images: Place = None,
    limit: Limit = None,
    seed: Seed = 0,
    max_broken: MaxBroken = MAX_BROKEN,
    methods: Methods = None,
    out: Out = Path("veridical-maps"),
    target: Explained = "predicted",
    device: Device = "cpu",
) -> None:
    """Write the map of every image by every method, as safetensors and as PNG."""
    with one_line_errors():
        check_target(target)
        explainers = find_methods(find_explainers(methods), PRESETS["standard"])
        choice = Choice(limit, seed, max_broken)
        material = load_material(Network(model, weights, preprocessing, device), images, choice)
        inputs = material.all_inputs()
        wanted = find_target(target, material.labels)
        targets = wanted.split(1) if isinstance(wanted, Tensor) else [wanted] * len(inputs)
        facts = _facts(material, choice)
        pictures: list[str] = facts["pictures"]
        for name, explainer in explainers.items():
            relevance = np.concatenate(
                [
                    _explained(explainer(material.loaded.module, one, target_of_one), one, name)
                    for one, target_of_one in zip(inputs.split(1), targets, strict=True)
                ]
            )
            write_arrays(out / f"{name}.safetensors", {"relevance": relevance}, facts)
            for picture, values in zip(pictures, relevance.sum(1), strict=True):
                _write_picture(out / name / picture, values)
            typer.echo(str(out / f"{name}.safetensors"))


def _facts(material: Material, choice: Choice) -> dict[str, Any]:
    """What is stored with the maps: names, labels where there are some, and where the images come from."""
    names, labels = material.photographs.names, material.labels
    return {
        "images": list(names),
        "pictures": picture_names(names),
        "data": data_facts(material.photographs, choice, labels),
        "truth": None if labels is None else {"names": labels.names, "numbers": labels.numbers},
    }


def picture_names(images: Iterable[str]) -> list[str]:
    """A file name for each map: that of its image with the suffix .png, and a number where that is taken.

    Names that differ in nothing but case count as the same, since some disks cannot tell them apart.
    """
    taken: set[str] = set()
    names = []
    for image in images:
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", str(PurePath(image).with_suffix("")))
        choices = chain([stem], (f"{stem}-{number}" for number in count(2)))
        free = next(choice for choice in choices if choice.lower() not in taken)
        taken.add(free.lower())
        names.append(f"{free}.png")
    return names


def _explained(relevance: object, image: Tensor, name: str) -> NDArray[np.float32]:
    array: NDArray[np.float32] = check_relevance(relevance, image, name).detach().cpu().float().numpy()
    return array


def _write_picture(path: Path, values: NDArray[np.float32]) -> None:
    """A signed map in a diverging colormap centered on 0, a non-negative one in a sequential one."""
    limit = float(np.percentile(np.abs(values), 99.5)) or float(np.abs(values).max()) or 1.0
    signed = bool(values.min() < 0)
    scaled = (values / limit + 1) / 2 if signed else values / limit
    colors = colormaps["RdBu_r" if signed else "magma"](np.clip(scaled, 0, 1), bytes=True)
    content = BytesIO()
    Image.fromarray(colors[..., :3]).save(content, format="PNG")
    write_bytes(path, content.getvalue())
