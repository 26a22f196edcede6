"""What the scripts behind the pages of docs share: tables, pictures, images, and cells that are kept."""

import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from networks_real import photograph  # type: ignore[import-not-found]
from veridical.records import write_bytes

Cell = dict[str, Tensor]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(figure: Any, path: Path) -> None:
    """Write a PNG of at most 128 colors, the same bytes for the same picture, and close the figure."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    few = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    write_bytes(path, small.getvalue())


def kept(path: Path, make: Callable[[], Cell]) -> Cell:
    """What the file holds, or what `make` gives, which is then kept in it."""
    if not path.exists():
        write_bytes(path, save({name: value.contiguous() for name, value in make().items()}))
        print(f"finished {path.stem}", file=sys.stderr, flush=True)
    return load_file(path)


def cifar_images(folder: Path, archive: str, count: int) -> Tensor:
    """That many images, evenly over the classes and the archive (N, 3, 32, 32)."""
    with zipfile.ZipFile(folder / "cifar10" / archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        return torch.cat([photograph(io.BytesIO(file.read(name)), 32) for name in chosen])
