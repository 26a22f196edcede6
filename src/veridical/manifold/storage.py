"""Tangent spaces on disk: chunks of safetensors in half or single precision, with the error that this makes.

A folder holds `tangents.json` and `chunk-00000.safetensors`, `chunk-00001.safetensors`, ... Each file is
written whole or not at all, and a store that was interrupted is continued where it stopped.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from veridical.checks import check_choice
from veridical.manifold.alignment import orthonormal_parts
from veridical.manifold.decoding import Decoder, Derivative, check_latents
from veridical.manifold.tangent import (
    Progress,
    TangentSettings,
    TangentSpaces,
    check_prior,
    tangent_chunks,
)
from veridical.records import RecordError, explain_invalid, read_json, write_arrays, write_json

Precision = Literal["float16", "float32", "float64"]

PRECISIONS: dict[str, torch.dtype] = {
    "float16": torch.float16, "float32": torch.float32, "float64": torch.float64,
}  # fmt: skip

MANIFEST = "tangents.json"


class Manifest(BaseModel):
    """The content of `tangents.json`: what the chunks hold, and from what they were made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    count: int = Field(ge=1)
    shape: tuple[int, int, int, int]
    precision: Precision
    chunk: int = Field(ge=1)
    latents: str
    derivative: Derivative
    dtype: str
    tolerance: float


@dataclass(frozen=True, eq=False)
class StoredTangents:
    """Tangent spaces in a folder, read when they are asked for.

    `store[i]` is the basis (k, C, H, W) of one image, `store[a:b]` that of several (n, k, C, H, W), in the
    stored precision. Everything that is small is read at once and kept.

    Attributes:
        folder: where they are.
        manifest: what `tangents.json` says.
    """

    folder: Path
    manifest: Manifest

    def __len__(self) -> int:
        """N."""
        return self.manifest.count

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(N, k, C, H, W)."""
        return (self.manifest.count, *self.manifest.shape)

    def __getitem__(self, at: int | slice) -> Tensor:
        """Bases of the given images, from no more files than they lie in.

        Raises:
            IndexError: if there is no such image.
            ValueError: if a slice has a step other than 1.
            RecordError: if a file is missing or damaged.
        """
        if isinstance(at, slice):
            begin, end, step = at.indices(len(self))
            if step != 1:
                raise ValueError(f"expected a slice without a step, got {at}; index the tensor that it gives")
            return self._between(begin, max(begin, end))
        index = at + len(self) if at < 0 else at
        if not 0 <= index < len(self):
            raise IndexError(f"expected an image in 0..{len(self) - 1}, got {at}; the store has {len(self)}")
        return self._between(index, index + 1)[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Bases of one chunk (n, k, C, H, W) after the other."""
        size = self.manifest.chunk
        return (self[begin : begin + size] for begin in range(0, len(self), size))

    @cached_property
    def rank(self) -> Tensor:
        """LongTensor (N,)."""
        return self._small("rank")

    @cached_property
    def singular_values(self) -> Tensor:
        """float64 (N, k)."""
        return self._small("singular_values")

    @cached_property
    def latent_norms(self) -> Tensor:
        """float64 (N, k)."""
        return self._small("latent_norms")

    @cached_property
    def images(self) -> Tensor:
        """The decoded images (N, C, H, W), float32."""
        return self._small("images")

    @cached_property
    def angles(self) -> Tensor:
        """float64 (N,), the largest principal angle in radians between the exact space and the stored one."""
        return self._small("angle")

    @property
    def largest_angle(self) -> float:
        """The measured error of the storage: the largest of `angles`.

        The fraction of any map changes by no more than the sine of it.
        """
        return float(self.angles.max())

    def _between(self, begin: int, end: int) -> Tensor:
        size, parts = self.manifest.chunk, []
        while begin < end:
            number = begin // size
            stop = min(end, (number + 1) * size)
            parts.append(self._read(number, "basis", slice(begin - number * size, stop - number * size)))
            begin = stop
        empty = torch.empty(0, *self.manifest.shape, dtype=PRECISIONS[self.manifest.precision])
        return torch.cat(parts) if parts else empty

    def _small(self, name: str) -> Tensor:
        numbers = range(-(-len(self) // self.manifest.chunk))
        return torch.cat([self._read(number, name, slice(None)) for number in numbers])

    def _read(self, number: int, name: str, at: slice) -> Tensor:
        path = chunk_path(self.folder, number)
        try:
            with safe_open(str(path), framework="pt") as file:
                found: Tensor = file.get_slice(name)[at]
        except (OSError, SafetensorError) as error:
            raise RecordError(
                f"expected tangent spaces in {path}, got {error}; store them again, what is whole is kept"
            ) from error
        return found


def store_tangents(
    folder: str | Path,
    decoder: Decoder,
    z: Tensor,
    *,
    precision: Precision = "float16",
    chunk: int = 256,
    progress: Progress | None = None,
    **settings: Any,
) -> StoredTangents:
    """Compute tangent spaces and store them, a chunk at a time; an interrupted store is continued.

    Args:
        folder: of the store; made where there is none. One that was made from the same latents with the same
            choices keeps its finished chunks.
        decoder: see `tangent_spaces`.
        z: latents (N, ...).
        precision: of the stored bases; ranks and singular values are always stored in full.
        chunk: images in one file.
        progress: called with images done and images in all.
        settings: fields of `TangentSettings`.

    Returns:
        The store, complete.

    Raises:
        TypeError: see `tangent_spaces`.
        ValueError: see `tangent_spaces`; and if the folder holds other tangent spaces.
        RecordError: if `tangents.json` in the folder is damaged.
    """
    check_choice("precision", precision, PRECISIONS)
    check_latents(z)
    if chunk < 1:
        raise ValueError(f"expected at least one image a chunk, got {chunk}; 256 is usual")
    chosen, place = TangentSettings(**settings), Path(folder)
    check_prior(decoder, z, chosen)
    chosen = replace(chosen, prior="none")
    first = next(tangent_chunks(decoder, z[:1], chosen))
    manifest = Manifest(
        count=len(z),
        shape=_shape(first.basis),
        precision=precision,
        chunk=chunk,
        latents=_digest(z),
        derivative=first.derivative,
        dtype=str(first.dtype).removeprefix("torch."),
        tolerance=chosen.tolerance_for(first.dtype),
    )
    _claim(place, manifest, first.images)
    for number, begin in enumerate(range(0, len(z), chunk)):
        part = z[begin : begin + chunk]
        if not chunk_path(place, number).is_file():
            _write(place, number, tangent_chunks(decoder, part, chosen), PRECISIONS[precision])
        if progress is not None:
            progress(begin + len(part), len(z))
    return StoredTangents(place, manifest)


def open_tangents(folder: str | Path) -> StoredTangents:
    """A stored set of tangent spaces; nothing large is read yet.

    Raises:
        RecordError: if the folder has none, they are damaged, or the store was not finished.
    """
    place = Path(folder)
    manifest = _manifest(place)
    for number in range(-(-manifest.count // manifest.chunk)):
        if not chunk_path(place, number).is_file():
            raise RecordError(
                f"expected {chunk_path(place, number)}, got no such file: the store is not finished; call "
                "store_tangents again with the same arguments"
            )
    return StoredTangents(place, manifest)


def chunk_path(folder: Path, number: int) -> Path:
    """The file of a chunk."""
    return folder / f"chunk-{number:05d}.safetensors"


def principal_angles(exact: Tensor, stored: Tensor) -> Tensor:
    """The largest principal angle between the spaces of two bases of each image, in radians.

    Its sine is the largest distance of a unit vector of one space from the other; computed from the distance
    itself, so that small angles are exact.

    Args:
        exact: (N, k, C, H, W), orthonormal rows or rows of 0.
        stored: the same spaces, rounded.

    Returns:
        float64 (N,).

    Raises:
        ValueError: if rows are not orthonormal, but for rounding.
    """
    found = []
    for at, rows in orthonormal_parts(stored):
        reference = exact[at].flatten(2).to(rows)
        apart = rows - (rows @ reference.mT) @ reference
        squares = torch.linalg.eigvalsh(apart @ apart.mT)[:, -1]
        found.append(squares.clamp(0, 1).sqrt().asin())
    return torch.cat(found)


def _write(folder: Path, number: int, parts: Iterable[TangentSpaces], dtype: torch.dtype) -> None:
    """One chunk with the error of its rounding; the exact bases of a part are let go before the next."""
    rounded = [_rounded(part, dtype) for part in parts]
    arrays = {name: torch.cat([one[name] for one in rounded]).cpu().numpy() for name in rounded[0]}
    write_arrays(chunk_path(folder, number), arrays)


def _rounded(part: TangentSpaces, dtype: torch.dtype) -> dict[str, Tensor]:
    basis = part.basis.to(dtype)
    return {
        "basis": basis,
        "rank": part.rank,
        "singular_values": part.singular_values,
        "latent_norms": part.latent_norms,
        "images": part.images.float(),
        "angle": principal_angles(part.basis, basis),
    }


def _claim(folder: Path, manifest: Manifest, image: Tensor) -> None:
    """Start a store, or check that the one that is there was made from the same things."""
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, manifest.model_dump())
        return
    found = _manifest(folder)
    for name, value in manifest.model_dump().items():
        if getattr(found, name) != value:
            raise ValueError(
                f"expected a folder of the same tangent spaces, got {folder} with {name} = "
                f"{getattr(found, name)} instead of {value}; choose another folder"
            )
    if chunk_path(folder, 0).is_file():
        before = StoredTangents(folder, manifest)._read(0, "images", slice(0, 1))
        if not np.allclose(before.numpy(), image.float().cpu().numpy(), rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"expected the decoder that began {folder}, got one whose first image is another; choose "
                "another folder"
            )


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise RecordError(
            f"expected stored tangent spaces in {folder}, got no {MANIFEST}; see store_tangents"
        )
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        raise RecordError(
            f"{explain_invalid(path, error)}; restore the file or use another folder"
        ) from error


def _shape(basis: Tensor) -> tuple[int, int, int, int]:
    _, directions, channels, height, width = basis.shape
    return directions, channels, height, width


def _digest(z: Tensor) -> str:
    content = z.detach().cpu().contiguous().double().numpy().tobytes()
    return hashlib.sha256(f"{tuple(z.shape)}".encode() + content).hexdigest()
