"""Image files: which count as such, and a function that reads them one by one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from veridical.data.images import MAX_PIXELS, Picture, decode, digest, read_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

Read = Callable[[int], tuple[Picture, str]]
"""From a place in a source to the decoded image and the digest of what was decoded.

It raises ValueError or OSError with the reason where the image cannot be used. The readers are values that
can be pickled, so that other processes can read as well.
"""


def not_an_image(name: str) -> str:
    """Why a name cannot be that of an image file; "" where it can."""
    suffix = PurePosixPath(name).suffix
    known = suffix.lower() in SUFFIXES
    return "" if known else f"suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}"


def visible(folder: Path) -> list[tuple[str, bool]]:
    """What is directly inside a folder, by name, and whether it is a folder; without hidden files."""
    with os.scandir(folder) as entries:
        return sorted((one.name, one.is_dir()) for one in entries if not one.name.startswith("."))


@dataclass(frozen=True)
class FileReader:
    """Reads the files of these names below a folder."""

    folder: Path
    names: Sequence[str]
    max_pixels: int = MAX_PIXELS

    def __call__(self, index: int) -> tuple[Image.Image, str]:
        """See `Read`."""
        name = self.names[index]
        return decoded(read_file(self.folder / name), name, self.max_pixels)


def decoded(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, str]:
    """The image and the digest of a file's bytes.

    Raises:
        ValueError: see `decode`.
    """
    return decode(content, name, max_pixels), digest(content)


def by_name(names: set[str]) -> tuple[str, ...]:
    """Names of classes in the order of the alphabet; whole numbers by their value."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def labels_of(owners: Sequence[str], classes: Sequence[str]) -> Tensor:
    """LongTensor of the places of names in `classes`."""
    places = {name: place for place, name in enumerate(classes)}
    return torch.tensor([places[owner] for owner in owners], dtype=torch.long)
