"""Labeled images that are stored as arrays: `.npz`, and the format of MNIST's files."""

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Part = Literal["train", "test"]
Arrays = tuple[NDArray[Any], NDArray[Any]]

NPZ_NAMES: dict[Part | None, tuple[str, str]] = {
    None: ("images", "labels"),
    "train": ("train_images", "train_labels"),
    "test": ("test_images", "test_labels"),
}
IDX_FILES: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MAX_BYTES = 4_000_000_000
DAMAGED = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile)


def is_array_source(source: Path) -> bool:
    """Whether it is an `.npz` file, or a folder with files of MNIST's format."""
    if source.is_dir():
        return any(_idx_file(source, images) for images, _ in IDX_FILES.values())
    return source.suffix.lower() == ".npz"


def array_parts(source: Path) -> tuple[Part, ...]:
    """Which of `"train"` and `"test"` the source has.

    Raises:
        ValueError: an `.npz` file is damaged.
    """
    if source.is_dir():
        return tuple(
            part for part, files in IDX_FILES.items() if all(_idx_file(source, one) for one in files)
        )
    found = _npz_names(source)
    return tuple(part for part, names in NPZ_NAMES.items() if part is not None and found.issuperset(names))


def read_part(source: Path, part: Part | None) -> tuple[NDArray[Any], Tensor]:
    """Images uint8 (N, H, W, C) and labels LongTensor (N,).

    Raises:
        ValueError: there is no such part, a file is damaged, or the arrays are no labeled images.
    """
    images, labels = _idx(source, part) if source.is_dir() else _npz(source, part)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError(
            f"expected images as uint8 (N, H, W) or (N, H, W, 3) in {source}, got {images.dtype} "
            f"{images.shape}; store them so"
        )
    labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
    if labels.dtype.kind not in "ui" or labels.shape != (len(images),) or int(labels.min()) < 0:
        raise ValueError(
            f"expected {len(images)} labels of 0 or more in {source}, got {labels.dtype} {labels.shape}; "
            "store one whole number for each image"
        )
    return images, torch.from_numpy(labels.astype(np.int64))


def _no_part(source: Path, part: Part | None) -> ValueError:
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


def _npz(source: Path, part: Part | None) -> Arrays:
    names = NPZ_NAMES[part]
    if not _npz_names(source).issuperset(names):
        raise _no_part(source, part)
    try:
        with np.load(source, allow_pickle=False) as file:
            return file[names[0]], file[names[1]]
    except DAMAGED as error:
        raise ValueError(f"expected arrays of numbers in {source}, got {error}; save them again") from error


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((one for one in (folder / f"{name}.gz", folder / name) if one.is_file()), None)


def _idx(folder: Path, part: Part | None) -> Arrays:
    if part is None or part not in array_parts(folder):
        raise _no_part(folder, part)
    images, labels = (_read_idx(folder, name) for name in IDX_FILES[part])
    return images, labels


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
