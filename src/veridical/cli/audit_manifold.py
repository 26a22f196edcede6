"""The options of `veridical audit` that name a manifold of the images."""

import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from veridical.auditing import ManifoldLike, open_manifold
from veridical.cli.manifold_generate import PUBLISHED, published
from veridical.models import find_importable
from veridical.records import read_arrays

Manifold = Annotated[
    str | None,
    typer.Option(
        "--manifold",
        help="For the test tangent-space: a directory of `veridical manifold fit`, a file of beta-TCVAE "
        "weights, or published.",
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option("--decoder", help="Instead of it: package.module:callable, latents to images in [0, 1]."),
]
Latents = Annotated[
    str | None,
    typer.Option(
        "--latents",
        help="For the decoder: package.module:callable, images in [0, 1] to latents, or a file .npz or "
        ".safetensors with `latents`, a row for each image.",
    ),
]

NAME = "latents"


def find_manifold(manifold: str | None, decoder: str | None, latents: str | None) -> ManifoldLike | None:
    """What the options stand for; None where none is given.

    Raises:
        ValueError: the options do not fit each other, or a file holds something else.
        TypeError: what is imported cannot be called.
        OSError: a file does not exist.
    """
    if manifold is not None and (decoder or latents):
        raise ValueError("expected --manifold, or --decoder with --latents, got both; choose one")
    if (decoder is None) != (latents is None):
        missing = "--latents" if latents is None else "--decoder"
        raise ValueError(f"expected --decoder and --latents together, got no {missing}; give it too")
    if manifold is not None:
        path = published() if manifold == PUBLISHED else Path(manifold)
        open_manifold(path)
        return path
    if decoder is None or latents is None:
        return None
    return _callable(decoder), _latents(latents)


def _callable(spec: str) -> Any:
    if ":" not in spec:
        raise ValueError(f"expected package.module:callable, got {spec!r}; name the function after a colon")
    found = find_importable(spec)
    if not callable(found):
        raise TypeError(f"expected {spec} to be callable, got {type(found).__name__}; name a function")
    return found


def _latents(spec: str) -> Any:
    """A function, or the latents of a file."""
    path = Path(spec)
    if path.suffix not in (".npz", ".safetensors"):
        return _callable(spec)
    if not path.is_file():
        raise FileNotFoundError(f"expected latents in {path}, got no such file; check the path")
    if path.suffix == ".safetensors":
        return _tensor(dict(read_arrays(path)[0]), path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected arrays in {path}, got another content ({error}); save again") from error
    return _tensor(arrays, path)


def _tensor(arrays: dict[str, Any], path: Path) -> Tensor:
    names = list(arrays)
    if NAME not in arrays and len(names) != 1:
        raise ValueError(f"expected an array {NAME!r} in {path}, got {', '.join(names)}; rename it")
    return torch.from_numpy(np.ascontiguousarray(arrays[NAME if NAME in arrays else names[0]]))
