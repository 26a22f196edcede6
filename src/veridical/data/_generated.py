"""Data sets of `veridical manifold generate` and `reconstruct` as images of 8 bits, read one by one."""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from veridical.data.images import Picture, digest
from veridical.data.source import ImageSource
from veridical.records import RecordError, read_json

MANIFEST = "dataset.json"
WHOLE = "all"
"""The part of a set that has no parts."""


def is_data_set(place: Path) -> bool:
    """Whether it is a folder with such a set; other programs write files of this name too."""
    file = place / MANIFEST
    if not file.is_file():
        return False
    try:
        content = read_json(file)
    except RecordError:
        return False
    return isinstance(content, dict) and {"approach", "parts", "chunk", "classes"} <= set(content)


def data_set_parts(folder: Path) -> tuple[str, ...]:
    """Names of the parts; () for a set without parts."""
    names = tuple(str(name) for name, _ in read_json(folder / MANIFEST)["parts"])
    return () if names == (WHOLE,) else names


def data_set_source(folder: Path, part: str | None) -> ImageSource:
    """The images of a part with their labels; None for all rows.

    Raises:
        ValueError: there is no such part, or a file is missing or damaged.
    """
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    sizes = {str(name): int(count) for name, count in manifest["parts"]}
    if part is not None and part not in sizes:
        raise ValueError(f"expected a part {part!r} in {folder}, got {', '.join(sizes)}; name one of them")
    ends = dict(zip(sizes, accumulate(sizes.values()), strict=True))
    end = sum(sizes.values()) if part is None else ends[part]
    begin = 0 if part is None else end - sizes[part]
    reader = RowReader(folder, begin, int(manifest["chunk"]))
    count = end - begin
    digits = len(str(count - 1))
    names = tuple(f"{part or 'image'}-{index:0{digits}d}" for index in range(count))
    classes = tuple(str(index) for index in range(int(manifest["classes"])))
    return ImageSource(str(folder), names, reader, reader.labels(count), classes, one_size=True)


@dataclass
class RowReader:
    """Reads the images of rows from `begin` on; the last file stays open, and is opened again in a copy."""

    folder: Path
    begin: int
    chunk: int
    opened: tuple[int, Any] | None = None

    def __call__(self, index: int) -> tuple[Picture, str]:
        """See `Read`; values are rounded to 8 bits, other images than gray and RGB are tensors."""
        number, row = divmod(self.begin + index, self.chunk)
        values = self._rows(number, "images", row, row + 1)[0].float().clamp(0, 1)
        pixels = (255 * values).round().byte()
        found = digest(pixels.numpy().tobytes())
        if len(pixels) not in (1, 3):
            return values, found
        shown = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        return Image.fromarray(shown[..., 0] if len(pixels) == 1 else shown), found

    def labels(self, count: int) -> Tensor:
        """LongTensor (count,)."""
        parts, row, end = [], self.begin, self.begin + count
        while row < end:
            number, first = divmod(row, self.chunk)
            stop = min(self.chunk, first + end - row)
            parts.append(self._rows(number, "labels", first, stop))
            row += stop - first
        return torch.cat(parts)

    def _rows(self, number: int, column: str, begin: int, end: int) -> Tensor:
        path = self.folder / f"part-{number:05d}.safetensors"
        try:
            if self.opened is None or self.opened[0] != number:
                self.opened = number, safe_open(str(path), framework="pt")
            found: Tensor = self.opened[1].get_slice(column)[begin:end]
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"expected rows of a data set in {path}, got {error}; the command that made it goes on"
            ) from error
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file."""
        return {"folder": self.folder, "begin": self.begin, "chunk": self.chunk, "opened": None}
