"""`veridical explain`: the maps of some methods, without any test."""

import re
from collections.abc import Iterable
from io import BytesIO
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Annotated

import numpy as np
import typer
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from veridical.auditing import PRESETS, find_methods
from veridical.checks import check_relevance
from veridical.cli.errors import one_line_errors
from veridical.cli.options import Device, Folder, Methods, Model, Weights, find_explainers, load_material
from veridical.records import write_arrays, write_bytes

Out = Annotated[Path, typer.Option("--out", help="The directory to write to.")]
Target = Annotated[int | None, typer.Option("--target", help="The explained class; default: predicted.")]


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    model: Model = "demo",
    weights: Weights = None,
    images: Folder = None,
    methods: Methods = None,
    out: Out = Path("veridical-maps"),
    target: Target = None,
    device: Device = "cpu",
) -> None:
    """Write the map of every image by every method, as safetensors and as PNG."""
    with one_line_errors():
        explainers = find_methods(find_explainers(methods), PRESETS["standard"])
        material = load_material(model, weights, images, device)
        pictures = picture_names(material.photographs.names)
        for name, explainer in explainers.items():
            relevance = np.concatenate(
                [
                    _explained(explainer(material.loaded.module, one, target), one, name)
                    for one in material.inputs.split(1)
                ]
            )
            write_arrays(
                out / f"{name}.safetensors",
                {"relevance": relevance},
                {"images": list(material.photographs.names), "pictures": pictures},
            )
            for picture, values in zip(pictures, relevance.sum(1), strict=True):
                _write_picture(out / name / picture, values)
            typer.echo(str(out / f"{name}.safetensors"))


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
