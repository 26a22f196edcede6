"""What of a run a page shows: a large run is sampled, and a picture that is shown twice is stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from veridical.records import Run
from veridical.report.pictures import Size, size_of

PHOTOGRAPHS = 100
MAPS = 264
STEP_MAPS = 96
PAIRS = 16
MOST_STEPS, MOST_PAIRS = 12, 4


@dataclass(frozen=True)
class Tile:
    """One small picture with what is written beneath it; the first line is its title.

    Attributes:
        source: the picture as a data URI, or "" where it is one of the stock.
        alt: for readers who do not see it.
        lines: beneath it.
        key: of the stock.
        size: of a picture of the stock, in pixels.
        link: where its title leads to on the page, without #.
    """

    source: str
    alt: str
    lines: tuple[str, ...]
    key: str = ""
    size: Size = (0, 0)
    link: str = ""


class Stock:
    """The pictures that a page shows in several places, as data URIs by their keys."""

    def __init__(self) -> None:
        """Start empty."""
        self._sources: dict[str, str] = {}
        self._sizes: dict[str, Size] = {}

    def put(self, key: str, source: str) -> None:
        """Store a picture."""
        self._sources[key], self._sizes[key] = source, size_of(source)

    def tile(self, key: str, alt: str, lines: tuple[str, ...], link: str = "") -> Tile | None:
        """A tile with the picture of that key; None where it is not stored."""
        return Tile("", alt, lines, key, self._sizes[key], link) if key in self._sources else None

    @property
    def pictures(self) -> list[tuple[str, str, Size]]:
        """Key, source and size of every picture."""
        return [(key, source, self._sizes[key]) for key, source in self._sources.items()]


@dataclass(frozen=True)
class Shown:
    """What a page shows.

    Attributes:
        listed: places of the photographs that are listed with their values.
        mapped: places of those of them whose maps are shown.
        steps: steps of the randomization with a map, at most.
        pairs: manipulated photographs of each method, at most.
        stock: the pictures.
    """

    listed: tuple[int, ...]
    mapped: tuple[int, ...]
    steps: int
    pairs: int
    stock: Stock = field(default_factory=Stock)


def shown_of(run: Run) -> Shown:
    """Choose what to show, evenly spaced and with the first, so that the page stays below 15 MB.

    A map of 160 x 160 pixels takes up to 24 kB (noise; a smooth one a tenth of it), a photograph up to 22 kB.
    """
    methods = max(1, len(run.methods))
    listed = spaced(len(run.images), PHOTOGRAPHS)
    mapped = tuple(listed[place] for place in spaced(len(listed), max(1, MAPS // (2 * methods))))
    steps = min(MOST_STEPS, max(2, STEP_MAPS // methods))
    return Shown(listed, mapped, steps, min(MOST_PAIRS, max(1, PAIRS // methods)))


def spaced(count: int, most: int) -> tuple[int, ...]:
    """At most `most` of the places 0 to count - 1, evenly spaced, with both ends (with the first, of one)."""
    if count <= most:
        return tuple(range(count))
    return tuple(int(place) for place in np.linspace(0, count - 1, most).round())


def chosen(everything: Sequence[str], most: int) -> dict[int, str]:
    """At most `most` entries by their places."""
    return {place: everything[place] for place in spaced(len(everything), most)}
