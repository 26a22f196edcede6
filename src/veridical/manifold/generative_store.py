"""Data sets whose manifold is known, on disk: chunks of safetensors that are whole or not there.

A folder holds `dataset.json` and `part-00000.safetensors`, `part-00001.safetensors`, ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from veridical.checks import check_choice
from veridical.manifold.tangent import Progress
from veridical.records import RecordError, explain_invalid, read_json, write_arrays, write_json

MANIFEST = "dataset.json"
Precision = Literal["float16", "float32"]
Column = Literal["latents", "images", "labels", "probabilities", "position"]
Rows = dict[str, Tensor]
COLUMNS = ("latents", "images", "labels", "probabilities", "position")


class DataSetManifest(BaseModel):
    """The content of `dataset.json`.

    Attributes:
        approach: "generative" (drawn from the prior) or "reconstructive" (reconstructions of real images).
        parts: name and size of each part, in the order of the rows.
        latent: shape of one latent.
        shape: (C, H, W) of one image.
        classes: how many there are.
        side: to which decoded images are resized; None where they are not.
        precision: of the stored images; all else is stored in full.
        seed: of the draws.
        chunk: rows in one file.
        about: where the rows come from, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    approach: Literal["generative", "reconstructive"]
    parts: tuple[tuple[str, int], ...] = Field(min_length=1)
    latent: tuple[int, ...]
    shape: tuple[int, int, int]
    classes: int = Field(ge=1)
    side: int | None
    precision: Precision
    seed: int
    chunk: int = Field(ge=1)
    about: str

    @property
    def count(self) -> int:
        """Rows of all parts."""
        return sum(size for _, size in self.parts)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images with latents and labels in a folder, read when they are asked for.

    Attributes:
        folder: where they are.
        manifest: what `dataset.json` says.
    """

    folder: Path
    manifest: DataSetManifest

    def __len__(self) -> int:
        """Rows of all parts."""
        return self.manifest.count

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(name for name, _ in self.manifest.parts)

    def rows(self, part: str | None = None) -> slice:
        """The rows of a part; all for None.

        Raises:
            ValueError: if there is no such part.
        """
        if part is None:
            return slice(0, len(self))
        check_choice("part", part, self.parts)
        ends = list(accumulate(size for _, size in self.manifest.parts))
        place = self.parts.index(part)
        return slice(ends[place] - self.manifest.parts[place][1], ends[place])

    def load(self, column: Column, part: str | None = None, *, limit: int | None = None) -> Tensor:
        """One column of a part, read from no more files than it lies in.

        Args:
            column: "latents" (N, ...), "images" (N, C, H, W), "labels" (N,), of a generative set also
                "probabilities" (N, classes), the soft labels; "position" (N,) counts the draws, or the
                images, that were looked at.
            part: its name; None for all rows.
            limit: no more than the first of them.

        Raises:
            ValueError: if there is no such column or part, or the limit is below 1.
            RecordError: if a file is missing or damaged.
        """
        known = [one for one in COLUMNS if one != "probabilities" or self.manifest.approach == "generative"]
        check_choice("column", column, known)
        rows = self.rows(part)
        begin, end = rows.start, rows.stop if limit is None else min(rows.stop, rows.start + limit)
        size = self.manifest.chunk
        first, last = begin // size, (end - 1) // size
        found: Tensor | None = None
        for number in range(first, last + 1):
            start, stop = max(begin, number * size), min(end, (number + 1) * size)
            some = read_rows(self.folder, number, column, start - number * size, stop - number * size)
            if first == last:
                return some
            # One file at a time goes to its place: twice the whole would not fit where the whole just does.
            found = some.new_empty(end - begin, *some.shape[1:]) if found is None else found
            found[start - begin : stop - begin] = some
        if found is None:
            raise ValueError(f"expected a limit of at least one image, got {limit}; leave it out for all")
        return found

    @property
    def acceptance(self) -> float:
        """The share of draws that were accepted; 1 for a reconstructive set."""
        last = read_rows(self.folder, (len(self) - 1) // self.manifest.chunk, "position", -1, None)
        return len(self) / int(last)

    def class_counts(self, part: str | None = None) -> list[int]:
        """How many images each class has."""
        counts: list[int] = self.load("labels", part).bincount(minlength=self.manifest.classes).tolist()
        return counts


def open_data_set(folder: str | Path) -> DataSet:
    """A finished data set.

    Raises:
        RecordError: if it is not there, damaged or not finished.
    """
    place = Path(folder)
    manifest = _manifest(place)
    for number in range(-(-manifest.count // manifest.chunk)):
        if not part_path(place, number).is_file():
            raise RecordError(
                f"expected {part_path(place, number)}, got no such file: the data set is not finished; the "
                "same command goes on"
            )
    return DataSet(place, manifest)


def part_path(folder: Path, number: int) -> Path:
    """The file of a chunk of rows."""
    return folder / f"part-{number:05d}.safetensors"


def read_rows(folder: Path, number: int, column: str, begin: int | None, end: int | None) -> Tensor:
    """Rows of one column of one file.

    Raises:
        RecordError: if the file is missing or damaged.
    """
    path = part_path(folder, number)
    try:
        with safe_open(str(path), framework="pt") as file:
            found: Tensor = file.get_slice(column)[begin:end]
    except (OSError, SafetensorError) as error:
        raise RecordError(
            f"expected rows of a data set in {path}, got {error}; delete and redo it"
        ) from error
    return found


def store_rows(
    folder: Path,
    manifest: DataSetManifest,
    blocks: Callable[[int], Iterator[Rows]],
    progress: Progress | None,
) -> DataSet:
    """Write rows, a chunk at a time; a folder that was begun by the same call is continued.

    Args:
        folder: made where there is none.
        manifest: of the set.
        blocks: gives rows after that position, in blocks of any size; each has all columns.
        progress: called with rows done and rows in all.

    Raises:
        ValueError: if the folder holds another data set.
    """
    _claim(folder, manifest)
    total = -(-manifest.count // manifest.chunk)
    number = next((one for one in range(total) if not part_path(folder, one).is_file()), total)
    if number:
        _check_first(folder, next(blocks(0)))
    if number < total:
        before = int(read_rows(folder, number - 1, "position", -1, None)) if number else 0
        _fill(folder, manifest, blocks(before), number, progress)
    return DataSet(folder, manifest)


def _fill(
    folder: Path, manifest: DataSetManifest, blocks: Iterator[Rows], number: int, progress: Progress | None
) -> None:
    waiting: list[Rows] = []
    done = number * manifest.chunk
    while done < manifest.count:
        wanted = min(manifest.chunk, manifest.count - done)
        while sum(len(rows["labels"]) for rows in waiting) < wanted:
            waiting.append(next(blocks))
            if progress is not None:
                ready = sum(len(rows["labels"]) for rows in waiting)
                progress(min(manifest.count, done + ready), manifest.count)
        joined = {name: torch.cat([rows[name] for rows in waiting]) for name in waiting[0]}
        _write(folder, number, {name: value[:wanted] for name, value in joined.items()}, manifest.precision)
        waiting = [{name: value[wanted:] for name, value in joined.items()}]
        done, number = done + wanted, number + 1


def _write(folder: Path, number: int, rows: Rows, precision: Precision) -> None:
    kept = {**rows, "images": rows["images"].to(getattr(torch, precision))}
    write_arrays(part_path(folder, number), {name: value.numpy() for name, value in kept.items()})


def _claim(folder: Path, manifest: DataSetManifest) -> None:
    """Start a data set, or check that the one that is there is the same."""
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        return
    found: Any = _manifest(folder)
    for name in type(manifest).model_fields:
        if getattr(found, name) != getattr(manifest, name):
            raise ValueError(
                f"expected a folder of the same data set, got {folder} with {name} = {getattr(found, name)} "
                f"instead of {getattr(manifest, name)}; choose another folder"
            )


def _check_first(folder: Path, rows: Rows) -> None:
    """Check that the decoder, and the labeling network, are those that began the folder."""
    count = min(len(rows["labels"]), len(read_rows(folder, 0, "labels", 0, None)))
    for name in rows:
        stored = read_rows(folder, 0, name, 0, count).double().numpy()
        if not np.allclose(stored, rows[name][:count].double().numpy(), rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"expected the decoder, images and labels that began {folder}, got others: the first {name} "
                "differ; choose another folder"
            )


def _manifest(folder: Path) -> DataSetManifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise RecordError(f"expected a data set in {folder}, got no {MANIFEST}; see generate_data_set")
    try:
        return DataSetManifest.model_validate(read_json(path))
    except ValidationError as error:
        raise RecordError(
            f"{explain_invalid(path, error)}; restore the file or use another folder"
        ) from error
