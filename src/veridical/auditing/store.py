"""A run directory in the making: finished tasks are stored at once and found again."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veridical.auditing.lock import LOCK
from veridical.auditing.plan import Task
from veridical.auditing.pooling import Outcome, rows_of, scores_of
from veridical.records import (
    RUN_FILE,
    RecordError,
    is_temporary,
    read_arrays,
    read_json,
    read_run,
    write_arrays,
    write_bytes,
)

TASKS = "tasks"


def digest_of(configuration: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, in hexadecimal."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


class Store:
    """The outcomes of finished tasks: on the disk or, without a directory, in memory.

    Args:
        directory: the run directory; None keeps everything in memory.
        configuration: everything that the results depend on.

    Raises:
        ValueError: the directory holds something else, or a run with another configuration.
    """

    def __init__(self, directory: Path | None, configuration: Mapping[str, Any]) -> None:
        """Look at the directory; nothing is written."""
        self.directory = directory
        self.digest = digest_of(configuration)
        self._outcomes: dict[str, Outcome] = {}
        if directory is not None:
            check_directory(directory)
            if (directory / RUN_FILE).exists():
                _check_same(directory, configuration)

    def load(self, task: Task) -> Outcome | None:
        """The stored outcome of a task; None where it is not finished, or the stored one cannot be used."""
        if self.directory is None:
            return self._outcomes.get(task.key)
        return self._read(self.directory / TASKS / task.key, task)

    def save(self, task: Task, outcome: Outcome, seconds: float) -> None:
        """Keep an outcome; on the disk the arrays come first and the JSON file marks the task as finished."""
        if self.directory is None:
            self._outcomes[task.key] = outcome
            return
        stem = self.directory / TASKS / task.key
        if outcome.arrays:
            write_arrays(_with(stem, "safetensors"), outcome.arrays, outcome.metadata)
        content = {
            "digest": self.digest,
            "seconds": round(seconds, 3),
            "rows": rows_of(outcome.scores),
            "arrays": sorted(outcome.arrays),
            "facts": outcome.facts,
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        write_bytes(_with(stem, "json"), (text + "\n").encode())

    def _read(self, stem: Path, task: Task) -> Outcome | None:
        """A damaged or foreign file is as good as none: the task is done again."""
        if not _with(stem, "json").is_file():
            return None
        try:
            content = read_json(_with(stem, "json"))
            if content["digest"] != self.digest:
                return None
            scores = scores_of(content["rows"], task.method, task.test)
            arrays, metadata = read_arrays(_with(stem, "safetensors")) if content["arrays"] else ({}, {})
            return Outcome(scores, arrays, metadata, content["facts"])
        except (RecordError, KeyError, TypeError, ValueError):
            return None


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def check_directory(directory: Path) -> None:
    """Check that a run may be written here: nothing there, an empty directory, or a run.

    Raises:
        ValueError: something else is there.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"expected a directory for the run, got the file {directory}; give another --out")
    if not directory.is_dir() or (directory / RUN_FILE).exists():
        return
    own = (entry for entry in directory.iterdir() if not is_temporary(entry) and entry.name != LOCK)
    found = sorted(entry.name for entry in own)
    if found:
        raise ValueError(
            f"expected a new or empty directory or an earlier run, got {directory}, which holds {found[0]!r} "
            f"and no {RUN_FILE}; give another --out"
        )


def _check_same(directory: Path, configuration: Mapping[str, Any]) -> None:
    stored = read_run(directory).settings.get("configuration")
    if not isinstance(stored, dict):
        raise RecordError(f"{directory / RUN_FILE}: no field 'settings.configuration'; give another --out")
    here = json.loads(json.dumps(configuration))
    differences = [
        f"{name} ({_short(stored.get(name))} there, {_short(here.get(name))} now)"
        for name in sorted({*stored, *here})
        if stored.get(name) != here.get(name)
    ]
    if differences:
        raise ValueError(
            f"expected the configuration of the run in {directory}, got another one: "
            f"{'; '.join(differences)}; give another --out, or the same options to resume"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
