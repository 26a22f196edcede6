"""The result of an audit, and how it is laid out on the disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.auditing.plan import Task
from veridical.auditing.pooling import Outcome
from veridical.auditing.store import check_directory
from veridical.records import (
    MAPS_FOLDER,
    Arrays,
    Run,
    Score,
    Verdict,
    read_arrays,
    write_arrays,
    write_run,
    write_scores,
)

FOLDERS = {"manipulation": "manipulation/"}
"""The subfolder of `maps/` for the arrays of a test."""

MapFile = tuple[Arrays, Mapping[str, Any]]
"""The arrays of a file of maps and its metadata."""


class StoredMaps(Mapping[str, MapFile]):
    """Files of maps that are written as they come and read when they are asked for: one is in memory.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        """No file yet."""
        self.directory = directory
        self._names: dict[str, None] = {}

    def put(self, name: str, content: MapFile) -> None:
        """Write a file."""
        write_arrays(self._path(name), *content)
        self._names[name] = None

    def __getitem__(self, name: str) -> MapFile:
        """Read a file."""
        if name not in self._names:
            raise KeyError(name)
        return read_arrays(self._path(name))

    def __iter__(self) -> Iterator[str]:
        """The names in the order of writing."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self._names)

    def _path(self, name: str) -> Path:
        return self.directory / MAPS_FOLDER / f"{name}.safetensors"


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What an audit found.

    Attributes:
        run: the content of `run.json`.
        scores: the rows of `scores.parquet`.
        maps: for each file below `maps/`, without suffix, its arrays and its metadata.
        directory: where the audit was stored; None where it was not.
    """

    run: Run
    scores: tuple[Score, ...]
    maps: Mapping[str, MapFile] = field(repr=False, default_factory=dict)
    directory: Path | None = None

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on every method."""
        return self.run.verdicts

    def save(self, directory: str | Path, render: Callable[[Path], Path] | None = None) -> Path:
        """Write the run directory: `run.json`, `scores.parquet`, `maps/`, and with `render` the page.

        Args:
            directory: a new or empty directory, or one that holds a run.
            render: makes `report.html` from a run directory, as `veridical.report.render` does.

        Returns:
            The page, or the directory where none is made.

        Raises:
            ValueError: the directory holds something else.
            OSError: it cannot be written.
        """
        folder = Path(directory)
        check_directory(folder)
        if not (isinstance(self.maps, StoredMaps) and self.maps.directory == folder):
            for name, (arrays, metadata) in self.maps.items():
                write_arrays(folder / MAPS_FOLDER / f"{name}.safetensors", arrays, metadata)
        write_scores(folder, self.scores)
        write_run(folder, self.run)
        return folder if render is None else render(folder)


def merge_maps(outcomes: Mapping[Task, Outcome]) -> dict[str, MapFile]:
    """The arrays of all tasks by file; of arrays with one name, the first is kept."""
    merged: dict[str, tuple[Arrays, dict[str, Any]]] = {}
    for task, outcome in outcomes.items():
        if outcome.arrays:
            arrays, metadata = merged.setdefault(FOLDERS.get(task.test, "") + task.method, ({}, {}))
            arrays.update({name: value for name, value in outcome.arrays.items() if name not in arrays})
            metadata.update(outcome.metadata)
    return dict(merged)
