"""The manipulated photographs of one method: pictures, maps on one scale, and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from veridical.report import pictures, words
from veridical.report.reader import Array, Maps, RunData
from veridical.report.shown import Tile

UNIT = "share of the relevance in each pixel"
KEYS = ("original", "target", "manipulated")


@dataclass(frozen=True)
class Colorbar:
    """A colorbar and the numbers at its ends and its middle."""

    source: str
    alt: str
    numbers: tuple[str, ...]
    unit: str


@dataclass(frozen=True)
class Pair:
    """One manipulated photograph: pictures, maps, the scale of the maps, and numbers."""

    title: str
    images: tuple[Tile, ...]
    maps: tuple[Tile, ...]
    colorbar: Colorbar
    numbers: tuple[tuple[str, str], ...]


def manipulated_pairs(data: RunData, name: str, most: int) -> tuple[tuple[Pair, ...], int]:
    """The first `most` manipulated photographs of a method, and the number of those stored.

    Raises:
        RecordError: The file of maps cannot be read.
    """
    maps = data.maps(f"manipulation/{name}")
    stored = maps.get("manipulated_map")
    if stored is None:
        return (), 0
    named = [score.image for score in data.scores if score.method == name and score.test == "manipulation"]
    names = maps.metadata.get("images") or list(dict.fromkeys(image for image in named if image))
    count = min(len(stored), most)
    return tuple(_pair(data, name, maps, (place, names)) for place in range(count)), len(stored)


def _pair(data: RunData, name: str, maps: Maps, where: tuple[int, list[str]]) -> Pair:
    place, names = where
    title = names[place] if place < len(names) else f"pair {place + 1}"
    found = {key: _at(maps.get(f"{key}_map"), place) for key in KEYS}
    present = {key: relevance for key, relevance in found.items() if relevance is not None}
    signed = pictures.is_signed(*present.values())
    limit = float(np.nanmax([pictures.scale(relevance) for relevance in present.values()]))
    drawn = tuple(
        Tile(
            pictures.map_tile(part, limit=limit, signed=signed),
            f"Map of {name}: {key}, {title}",
            (f"{key} map",),
        )
        for key, part in present.items()
    )
    ends = (-limit if signed else 0.0, 0.0 if signed else limit / 2, limit)
    bar = Colorbar(
        pictures.colorbar(signed=signed), "Colorbar of the maps above", tuple(map(words.number, ends)), UNIT
    )
    return Pair(title, _photographs(maps, place, title), drawn, bar, tuple(_numbers(data, name, title)))


def _photographs(maps: Maps, place: int, title: str) -> tuple[Tile, ...]:
    """The three photographs, and the amplified change."""
    targets = maps.metadata.get("target_images", [])
    lines = {"target": (str(targets[place]),)} if place < len(targets) else {}
    images = {key: _at(maps.get(f"{key}_image"), place) for key in KEYS}
    tiles = [
        Tile(pictures.photo(image), f"The {key} photograph of {title}", (key, *lines.get(key, ())))
        for key, image in images.items()
        if image is not None
    ]
    before, after = images["original"], images["manipulated"]
    if before is not None and after is not None and before.shape == after.shape:
        factor = pictures.amplification(after - before)
        line = f"change × {words.number(factor)}"
        alt = f"The change of {title}, amplified {words.number(factor)} times; gray is no change"
        tiles.append(Tile(pictures.amplified(after - before, factor), alt, (line,)))
    return tuple(tiles)


def _at(array: Array | None, place: int) -> Array | None:
    return array[place] if array is not None and place < len(array) else None


def _numbers(data: RunData, name: str, image: str) -> list[tuple[str, str]]:
    rows = [
        row for row in data.scores if row.method == name and row.test == "manipulation" and row.image == image
    ]
    texts = []
    for row in rows:
        text = words.number(row.value)
        if row.statistic == "class_kept" and np.isfinite(row.value):
            text = "yes" if row.value >= 1 else "no"
        texts.append((words.statistic(row.statistic), text))
    return texts
