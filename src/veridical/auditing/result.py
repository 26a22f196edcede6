"""The result of an audit, and how it is laid out on the disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.auditing.measure import Outcome
from veridical.auditing.plan import Task
from veridical.auditing.store import check_directory
from veridical.records import (
    MAPS_FOLDER,
    Arrays,
    Run,
    Score,
    Verdict,
    write_arrays,
    write_run,
    write_scores,
)

FOLDERS = {"manipulation": "manipulation/"}
"""The subfolder of `maps/` for the arrays of a test."""


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
    maps: Mapping[str, tuple[Arrays, Mapping[str, Any]]] = field(repr=False, default_factory=dict)
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
        for name, (arrays, metadata) in self.maps.items():
            write_arrays(folder / MAPS_FOLDER / f"{name}.safetensors", arrays, metadata)
        write_scores(folder, self.scores)
        write_run(folder, self.run)
        return folder if render is None else render(folder)


def merge_maps(outcomes: Mapping[Task, Outcome]) -> dict[str, tuple[Arrays, dict[str, Any]]]:
    """The arrays of all tasks by file; of arrays with one name, the first is kept."""
    merged: dict[str, tuple[Arrays, dict[str, Any]]] = {}
    for task, outcome in outcomes.items():
        if outcome.arrays:
            arrays, metadata = merged.setdefault(FOLDERS.get(task.test, "") + task.method, ({}, {}))
            arrays.update({name: value for name, value in outcome.arrays.items() if name not in arrays})
            metadata.update(outcome.metadata)
    return merged
