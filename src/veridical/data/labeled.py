"""Labeled images: a folder or an archive with one folder a class, `.npz`, or files of MNIST's format."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from veridical.data._arrays import Part, array_parts, is_array_source, read_part
from veridical.data._entries import Entry, folder_entries, zip_entries
from veridical.data._pixels import MODES, as_pixels, pixels_of_arrays
from veridical.data.images import decode

SHOWN = 3


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images of one size in memory, and the class of each.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: LongTensor (N,), places in `classes`.
        classes: names of the classes; those of folders in the order of the alphabet.
        source: the path that they came from.
        skipped: (name, reason) of everything that was there and could not be used.
        resized: how many of the images had another size.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    resized: int = 0

    def __len__(self) -> int:
        """How many images could be used."""
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """Digest of images, labels and names of classes, in hexadecimal."""
        found = hashlib.sha256(repr((self.classes, tuple(self.images.shape))).encode())
        for one in (self.images, self.labels):
            found.update(one.contiguous().numpy().data)
        return found.hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """How many images each class has."""
        found = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def subset(self, count: int, seed: int = 0) -> "LabeledImages":
        """`count` of the images, drawn without replacement.

        A larger subset of the same seed holds the smaller one.

        Raises:
            ValueError: if there are not that many, or count < 1.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"expected a subset of 1 to {len(self)} images, got {count}; ask for fewer")
        return self._take(self._order(seed)[:count])

    def split(self, share: float, seed: int = 0) -> tuple["LabeledImages", "LabeledImages"]:
        """Two parts without a common image.

        Args:
            share: of the images that go into the second part, rounded, at least one.
            seed: of the draw.

        Raises:
            ValueError: if the share leaves one of them empty.
        """
        count = max(1, round(share * len(self)))
        if not 0 < share < 1 or count >= len(self):
            raise ValueError(f"expected a share in (0, 1) of {len(self)} images, got {share}; 0.1 is usual")
        order = self._order(seed)
        return self._take(order[count:]), self._take(order[:count])

    def _order(self, seed: int) -> Tensor:
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def _take(self, places: Tensor) -> "LabeledImages":
        places = places.sort().values
        return replace(self, images=self.images[places], labels=self.labels[places])


def parts_of(path: str | Path) -> tuple[Part, ...]:
    """The parts that a source of arrays has, `"train"` before `"test"`; () for a source without parts.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: it is neither a folder, an archive nor arrays.
    """
    source = _existing(path)
    return array_parts(source) if is_array_source(source) else ()


def load_labeled(
    path: str | Path, *, part: Part | None = None, side: int | None = None, channels: int = 3
) -> LabeledImages:
    """Read labeled images, and say what could not be read.

    A source is a folder that holds one folder a class, a zip archive of such a folder, an `.npz` file
    with `images` and `labels` (or `train_images`, `train_labels`, `test_images`, `test_labels`), or a folder
    with the four files of MNIST's format (`train-images-idx3-ubyte`, also with `.gz`).

    Args:
        path: of the source.
        part: `"train"` or `"test"` of a source that has parts; None takes the only part.
        side: height and width; images of another size are scaled so that they fill it, and what sticks
            out is cut off on both sides. None keeps the size, which must be the same for all.
        channels: 3 for RGB, 1 for gray.

    Returns:
        At least one image of every class.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: the source cannot be read, has no such part, a class has no image, or sizes differ.
    """
    if channels not in MODES:
        raise ValueError(f"expected 1 or 3 channels, got {channels}; images are gray or RGB")
    if side is not None and side < 1:
        raise ValueError(f"expected a side of at least one pixel, got {side}; None keeps the size")
    source = _existing(path)
    if is_array_source(source):
        return _from_arrays(source, part, side, channels)
    if part is not None:
        raise ValueError(f"expected a source with parts for {part!r}, got {source}; name the folder of it")
    entries = folder_entries(source) if source.is_dir() else zip_entries(source)
    return _from_entries(source, entries, side, channels)


def _existing(path: str | Path) -> Path:
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"expected labeled images, got {source}; there is nothing of this name")
    if not source.is_dir() and source.suffix.lower() not in (".zip", ".npz"):
        raise ValueError(f"expected a folder, a .zip or an .npz file, got {source}; pack the images so")
    return source


def _from_arrays(source: Path, part: Part | None, side: int | None, channels: int) -> LabeledImages:
    found, labels = read_part(source, part)
    pixels, resized = pixels_of_arrays(found, side, channels)
    classes = tuple(str(index) for index in range(int(labels.max()) + 1))
    result = LabeledImages(pixels, labels, classes, str(source), resized=resized)
    empty = [name for name, count in result.counts.items() if not count]
    if empty:
        raise ValueError(
            f"expected an image of every class 0..{len(classes) - 1} in {source}, got none of "
            f"{', '.join(empty[:SHOWN])}; number the classes without gaps"
        )
    return result


def _from_entries(source: Path, entries: Iterator[Entry], side: int | None, channels: int) -> LabeledImages:
    images: list[Tensor] = []
    owners: list[str] = []
    names: set[str] = set()
    skipped: list[tuple[str, str]] = []
    resized = 0
    for entry in entries:
        if entry.folder:
            names.add(entry.folder)
        try:
            image = decode(entry.read(), entry.name)
        except (ValueError, OSError) as error:
            skipped.append((entry.name, str(error)))
            continue
        pixels, changed = as_pixels(image, side, channels)
        resized += changed
        images.append(pixels)
        owners.append(entry.folder)
    classes = tuple(sorted(names))
    _check_found(source, classes, owners, skipped)
    _check_sizes(images)
    labels = torch.tensor([classes.index(owner) for owner in owners], dtype=torch.long)
    return LabeledImages(torch.stack(images), labels, classes, str(source), tuple(skipped), resized)


def _check_found(
    source: Path, classes: tuple[str, ...], owners: list[str], skipped: list[tuple[str, str]]
) -> None:
    shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN])
    if not owners:
        raise ValueError(
            f"expected a folder of images for each class in {source}, got no usable image "
            f"({shown or 'empty'}); put the images of each class into a folder of its own"
        )
    empty = sorted(set(classes) - set(owners))
    if empty:
        raise ValueError(
            f"expected a usable image of every class in {source}, got none of {', '.join(empty[:SHOWN])} "
            f"({shown}); mend the files or remove the folder"
        )


def _check_sizes(images: list[Tensor]) -> None:
    sizes = np.unique([one.shape[1:] for one in images], axis=0)
    if len(sizes) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sizes[:SHOWN].tolist())
        raise ValueError(f"expected images of one size, got {len(sizes)} sizes ({shown}); give a side")
