"""Images that are stored as arrays, with labels or without: `.npz`, and the format of MNIST's files.

Both formats can only be read whole; no image is converted before it is asked for.
"""

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from veridical.data.images import Picture, digest
from veridical.data.source import ImageSource

PARTS = ("train", "val", "test")
Arrays = tuple[NDArray[Any], NDArray[Any] | None]
"""Images, and labels where there are any."""

NPZ_NAMES: dict[str | None, tuple[str, str]] = {
    None: ("images", "labels"),
    "train": ("train_images", "train_labels"),
    "val": ("val_images", "val_labels"),
    "test": ("test_images", "test_labels"),
}
IDX_FILES: dict[str, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MAX_BYTES = 4_000_000_000
MAX_CLASSES = 100_000
MAX_CHANNELS = 64
DAMAGED = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile)


def is_array_source(source: Path) -> bool:
    """Whether it is an `.npz` file, or a folder with files of MNIST's format."""
    if source.is_dir():
        return any(_idx_file(source, images) for images, _ in IDX_FILES.values())
    return source.suffix.lower() == ".npz"


def array_parts(source: Path) -> tuple[str, ...]:
    """Which of `"train"`, `"val"` and `"test"` the source has.

    Raises:
        ValueError: an `.npz` file is damaged.
    """
    if source.is_dir():
        return tuple(part for part, (images, _) in IDX_FILES.items() if _idx_file(source, images))
    found = _npz_names(source)
    return tuple(part for part, (images, _) in NPZ_NAMES.items() if part is not None and images in found)


def array_source(source: Path, part: str | None) -> ImageSource:
    """The images of a part; their labels, where there are any, are the names of the classes.

    Raises:
        ValueError: there is no such part, a file is damaged, or the arrays are no images, or no labels.
    """
    images, labels = _checked(source, part)
    digits = len(str(len(images) - 1))
    names = tuple(f"{part or 'image'}-{index:0{digits}d}" for index in range(len(images)))
    if labels is None:
        return ImageSource(str(source), names, ArrayReader(images), one_size=True)
    # EMNIST's letters are numbered from 1.
    first = int(labels.min())
    classes = tuple(str(index) for index in range(first, int(labels.max()) + 1))
    return ImageSource(str(source), names, ArrayReader(images), labels - first, classes, one_size=True)


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Reads the images of an array, uint8 (N, H, W, C)."""

    images: NDArray[Any]

    def __call__(self, index: int) -> tuple[Picture, str]:
        """See `Read`; Pillow knows gray and RGB, other images are tensors."""
        pixels = np.ascontiguousarray(self.images[index])
        found = digest(pixels.tobytes())
        if pixels.shape[2] in (1, 3):
            return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), found
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, found


def _checked(source: Path, part: str | None) -> tuple[NDArray[Any], Tensor | None]:
    """Images uint8 (N, H, W, C) and, where there are any, labels LongTensor (N,)."""
    images, labels = _idx(source, part) if source.is_dir() else _npz(source, part)
    if images.ndim == 3:
        images = images[..., None]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or not 0 < images.shape[3] <= MAX_CHANNELS
        or not images.size
    ):
        raise ValueError(
            f"expected images as uint8 (N, H, W) or (N, H, W, C), C at most {MAX_CHANNELS}, in {source}, got "
            f"{images.dtype} {images.shape}; store them so"
        )
    return images, None if labels is None else _checked_labels(source, labels, len(images))


def _checked_labels(source: Path, labels: NDArray[Any], count: int) -> Tensor:
    labels = labels.reshape(-1) if labels.shape == (count, 1) else labels
    kind = labels.dtype.kind in "ui" and labels.shape == (count,)
    if not kind or int(labels.min()) < 0 or int(labels.max()) >= MAX_CLASSES:
        raise ValueError(
            f"expected {count} labels of 0 or more and less than {MAX_CLASSES} in {source}, got "
            f"{labels.dtype} {labels.shape}; store one whole number for each image"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _no_part(source: Path, part: str | None) -> ValueError:
    found = ", ".join(array_parts(source)) or "none"
    return ValueError(
        f"expected a part {part or 'without a name'} in {source}, got {found}; name one of them"
    )


def _npz_names(source: Path) -> set[str]:
    try:
        with np.load(source, allow_pickle=False) as file:
            return set(file.files)
    except DAMAGED as error:
        raise ValueError(f"expected a whole .npz file, got {source} ({error}); save it again") from error


def _npz(source: Path, part: str | None) -> Arrays:
    names = NPZ_NAMES.get(part)
    found = _npz_names(source)
    if names is None or names[0] not in found:
        raise _no_part(source, part)
    _check_bytes(source, names[0])
    try:
        with np.load(source, allow_pickle=False) as file:
            return file[names[0]], file[names[1]] if names[1] in found else None
    except DAMAGED as error:
        raise ValueError(f"expected arrays of numbers in {source}, got {error}; save them again") from error


def _check_bytes(source: Path, name: str) -> None:
    """Refuse an array that would not fit into memory; a small archive may hold a large one."""
    with zipfile.ZipFile(source) as archive:
        size = archive.getinfo(f"{name}.npy").file_size
    if size > MAX_BYTES:
        raise ValueError(
            f"expected at most {MAX_BYTES} bytes in {name} of {source}, got {size}; store the images as files"
        )


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((one for one in (folder / f"{name}.gz", folder / name) if one.is_file()), None)


def _idx(folder: Path, part: str | None) -> Arrays:
    if part is None or part not in array_parts(folder):
        raise _no_part(folder, part)
    images, labels = IDX_FILES[part]
    return _read_idx(folder, images), _read_idx(folder, labels) if _idx_file(folder, labels) else None


def _read_idx(folder: Path, name: str) -> NDArray[Any]:
    """One array of MNIST's format: 0, 0, 8 for bytes, the number of axes, their lengths, the bytes."""
    path = _idx_file(folder, name)
    if path is None:
        raise ValueError(f"expected {name} in {folder}, got no such file; copy it there")
    try:
        opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
        with opened as file:
            content = file.read(MAX_BYTES + 1)
    except DAMAGED as error:
        raise ValueError(
            f"expected a whole file {path}, got a damaged one ({error}); copy it again"
        ) from error
    axes = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    lengths = tuple(int(one) for one in np.frombuffer(content[4 : 4 + 4 * axes], dtype=">u4"))
    body = content[4 + 4 * axes :]
    if not axes or len(lengths) != axes or len(body) != int(np.prod(lengths)):
        raise ValueError(
            f"expected bytes in MNIST's format, got {path} of {len(content)} bytes; copy it again"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(lengths).copy()
