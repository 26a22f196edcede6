"""The cells of a remove-and-retrain experiment, in memory and on disk."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from veridical.records import RecordError, read_json, write_json
from veridical.values import FixedTensor

EXPERIMENT = "roar.json"
CELLS = "cells"


@dataclass(frozen=True, order=True)
class Cell:
    """One training: of which method, which end of its maps, which share, which repetition."""

    method: str
    order: str
    share: float
    repetition: int

    @property
    def name(self) -> str:
        """For a file and for messages."""
        safe = "".join(one if one.isalnum() or one in "-_." else "_" for one in self.method or "nothing")
        unique = hashlib.sha256(self.method.encode()).hexdigest()[:8]
        return f"{safe}-{unique}-{self.order}-{self.share:g}-{self.repetition}"


@dataclass(frozen=True)
class Outcome:
    """What a training gave: how many of n test images it got right, or why there is no network."""

    correct: int
    n: int
    failure: str = ""

    @property
    def accuracy(self) -> float:
        """Share of the test images; NaN where there is no network."""
        return math.nan if self.failure else self.correct / self.n


def digest_of(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over shapes, types and values, in their order; the same on every device."""
    return hashlib.sha256("".join(FixedTensor(one).digest for one in tensors).encode()).hexdigest()


def read_cell(path: Path) -> tuple[Cell, Outcome]:
    """A cell and what its training gave.

    Raises:
        ValueError: nobody can read the file, or it is not of the cell that its name says.
    """
    try:
        told = read_json(path)
        cell = Cell(told["method"], told["order"], float(told["share"]), int(told["repetition"]))
        outcome = Outcome(int(told["correct"]), int(told["n"]), str(told["failure"]))
        whole = cell.name == path.stem and 0 <= outcome.correct <= outcome.n and outcome.n > 0
    except (RecordError, AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"expected a training of vd.roar in {path}, got something else; call vd.roar with this folder "
            "again, which does it anew"
        )
    return cell, outcome


@dataclass(frozen=True)
class Store:
    """Outcomes in a folder: one file a cell, and one that says of which experiment they are."""

    folder: Path

    def open(self, identity: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write what the experiment is, or check that it is that of the folder.

        Args:
            identity: what the cells depend on.
            facts: what else a reader needs; folders of earlier versions have none.

        Raises:
            ValueError: the folder holds another experiment or something else.
        """
        path = self.folder / EXPERIMENT
        if path.exists():
            earlier = read_json(path)
            methods = {**earlier.get("methods", {}), **identity["methods"]}
            different = [
                name for name, one in identity.items() if name != "methods" and earlier.get(name) != one
            ]
            different += [name for name, one in earlier.get("methods", {}).items() if methods[name] != one]
            if different:
                raise ValueError(
                    f"expected the experiment of {self.folder}, got another in {', '.join(different)}; "
                    "choose another folder"
                )
            identity = {**identity, "methods": methods}
        write_json(path, {**identity, **facts})

    def read(self, cell: Cell) -> Outcome | None:
        """The outcome of a cell that is done, or None; a file that nobody can read is measured again."""
        path = self._path(cell)
        if not path.exists():
            return None
        try:
            return read_cell(path)[1]
        except ValueError:
            return None

    def write(self, cell: Cell, outcome: Outcome) -> None:
        """Store one outcome; the file is whole or not there."""
        write_json(self._path(cell), {**asdict(cell), **asdict(outcome)})

    def _path(self, cell: Cell) -> Path:
        return self.folder / CELLS / f"{cell.name}.json"
