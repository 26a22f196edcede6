"""A run directory as the report needs it: the description, the scores by test, and the maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.records import MAPS_FOLDER, Run, Score, read_arrays, read_run, read_scores

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Maps:
    """The arrays of one file of maps and its metadata."""

    arrays: dict[str, Array]
    metadata: dict[str, Any]

    def get(self, key: str) -> Array | None:
        """Return the array of that name, or None where the run did not store it."""
        return self.arrays.get(key)


@dataclass(frozen=True)
class RunData:
    """Everything that a run stored; arrays are read when they are asked for."""

    path: Path
    run: Run
    scores: tuple[Score, ...]

    def select(self, *, method: str, test: str, statistic: str) -> list[Score]:
        """Return the scores of one method, test and statistic, in the order in which they were stored."""
        return [
            score
            for score in self.scores
            if score.method == method and score.test == test and score.statistic == statistic
        ]

    def maps(self, name: str) -> Maps:
        """Return the arrays of `maps/<name>.safetensors`; without the file, none.

        Raises:
            RecordError: The file is there and cannot be read.
        """
        path = self.path / MAPS_FOLDER / f"{name}.safetensors"
        if not path.is_file():
            return Maps({}, {})
        arrays, metadata = read_arrays(path)
        return Maps({key: _as_float(array) for key, array in arrays.items()}, metadata)


def read_data(directory: Path) -> RunData:
    """Read a run directory.

    Args:
        directory: The folder that an audit wrote.

    Raises:
        RecordError: `run.json` or `scores.parquet` is missing or cannot be understood.
    """
    return RunData(directory, read_run(directory), tuple(read_scores(directory)))


def _as_float(array: NDArray[Any]) -> Array:
    """Return float32; unsigned bytes are display values 0 to 255 and become 0 to 1."""
    if array.dtype == np.uint8:
        return (array / np.float32(255)).astype(np.float32)
    return array.astype(np.float32)
