"""Computes a reproduction piece by piece, keeps each piece, and writes the figure and the numbers."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from veridical.records import RecordError, finite_or_null, write_bytes, write_json
from veridical.reproduce.catalog import Entry
from veridical.reproduce.claims import Claim, Verdict, count_verdicts
from veridical.reproduce.given import Cell, Given, Outcome

RESULT, FIGURE, CELLS = "result.json", "figure.png", "cells"


@dataclass(frozen=True)
class Moment:
    """How far a reproduction is: pieces done (with the share of the present one), all, and its name."""

    name: str
    done: float
    total: int
    words: str


@dataclass(frozen=True)
class Reproduced:
    """A finished reproduction.

    Args:
        entry: which.
        claims: with their verdicts.
        notes: see `veridical.reproduce.given.Outcome`.
        folder: what was written.
    """

    entry: Entry
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]
    folder: Path

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many claims have each verdict."""
        return dict(count_verdicts(self.claims))

    @property
    def all_hold(self) -> bool:
        """Whether every claim holds; not where one is not decided."""
        return self.counts["holds"] == len(self.claims)


def check_place(out: Path) -> None:
    """Refuse a directory that cannot be written to, before any work.

    Raises:
        ValueError: it, or what is above it, is a file or read-only.
    """
    place = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"expected a directory to write to, got {place}; choose another --out")


def reproduce(
    entry: Entry,
    given: Given,
    out: Path,
    *,
    progress: Callable[[Moment], None] | None = None,
    command: Sequence[str] = (),
) -> Reproduced:
    """Compute what is missing of a figure, then draw it and check the paper's claims.

    In the folder NAME below `out`, `cells` keeps every finished piece of work under a digest of all choices:
    the same call goes on after an interruption, and other choices leave these pieces where they are.
    `figure.png` and `result.json` are those of the last call.

    Args:
        entry: of the catalog.
        given: choices, and where it needs them a network and a manifold.
        out: the folder above.
        progress: told before and in every piece.
        command: for the record.

    Raises:
        ValueError: if something that the entry needs is missing, or the folder cannot be written to.
    """
    folder = out / entry.name
    check_place(folder)
    entry.check(network=given.network is not None, manifold=given.manifold is not None)
    began = perf_counter()
    recipe = entry.load()
    settings = recipe.settings(given.preset)
    choices = _choices(entry, given, settings)
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True, default=str).encode()).hexdigest()[:16]
    makes = recipe.cells(given, settings)
    cells: dict[str, Cell] = {}
    for place, (name, make) in enumerate(makes.items()):

        def told(share: float, place: int = place, name: str = name) -> None:
            if progress is not None:
                progress(Moment(entry.name, place + min(share, 1.0), len(makes), name))

        told(0.0)
        cells[name] = _kept(folder / CELLS / digest / f"{name.replace(' ', '-')}.safetensors", make, told)
        told(1.0)
    outcome = recipe.result(given, settings, cells)
    _write(folder, entry, outcome, {
        "choices": choices, "digest": digest, "command": list(command),
        "seconds": round(perf_counter() - began, 1),
    })  # fmt: skip
    return Reproduced(entry, outcome.claims, outcome.notes, folder)


def _kept(path: Path, make: Callable[[Callable[[float], None]], Cell], told: Callable[[float], None]) -> Cell:
    """What the file holds; or, also where it cannot be read, what `make` gives, which is then kept."""
    if path.exists():
        try:
            return Cell.read(path)
        except RecordError:
            path.unlink()
    made = make(told)
    made.write(path)
    return made


def _choices(entry: Entry, given: Given, settings: Any) -> dict[str, Any]:
    """All that the numbers depend on."""
    return {
        "name": entry.name,
        "veridical": version("veridical"),
        "preset": given.preset,
        "seed": given.seed,
        "settings": asdict(settings),
        "subject": dict(given.subject.facts) if entry.needs_network else None,
        "manifold": given.surface.text if entry.needs_manifold else None,
    }


def _write(folder: Path, entry: Entry, outcome: Outcome, provenance: dict[str, Any]) -> None:
    """The figure, then the numbers: result.json is there only when all is."""
    drawn = BytesIO()
    outcome.figure.savefig(drawn, format="png", dpi=110, metadata={"Software": None})
    write_bytes(folder / FIGURE, drawn.getvalue())
    content = {
        "format": 1,
        "name": entry.name,
        "paper": entry.paper,
        "part": entry.part,
        "title": entry.title,
        "claims": [claim.record() for claim in outcome.claims],
        "verdicts": count_verdicts(outcome.claims),
        "notes": list(outcome.notes),
        "numbers": dict(outcome.numbers),
        **provenance,
        "environment": {
            "veridical": version("veridical"),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "matplotlib": version("matplotlib"),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RESULT, finite_or_null(content))
