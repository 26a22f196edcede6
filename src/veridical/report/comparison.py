"""The page of a comparison of runs: what changed in figures, and the maps side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.records import REPORT_FILE, Run
from veridical.report import pictures, words
from veridical.report.photographs import photo_alt
from veridical.report.reader import Array, RunData, read_data
from veridical.report.rendering import rendered
from veridical.report.shown import MAPS, Stock, Tile, spaced

SIGNS = {"better": "▲", "worse": "▼", "unchanged": "=", "not decided": "○"}
MOST = 12


@dataclass(frozen=True)
class Sides:
    """One photograph: its picture, and by method the maps of both runs."""

    anchor: str
    title: str
    photo: Tile | None
    methods: tuple[tuple[str, tuple[Tile, ...]], ...]


@dataclass(frozen=True)
class Gallery:
    """The photographs that two runs share; `note` says how many of them are shown."""

    items: tuple[Sides, ...]
    note: str


def comparison_page(
    comparisons: Sequence[Mapping[str, Any]], runs: Sequence[Path] = (), beside: Path | None = None
) -> str:
    """The HTML of a comparison; self-contained, the same for the same content.

    Args:
        comparisons: each as `Comparison.as_dict` gives it.
        runs: the directories of the compared runs, the first one first, for their maps; none for none.
        beside: the folder in which the page will lie, for links to the runs' reports; None for no links.

    Raises:
        RecordError: a file of a run is missing or broken.
    """
    stock = Stock()
    most = max(1, min(MOST, MAPS // max(1, sum(2 * len(one["verdicts"]) for one in comparisons))))
    found = [read_data(one) for one in runs]
    galleries = [
        _gallery((found[0], other), list(one["verdicts"]), stock, (place, most))
        for place, (one, other) in enumerate(zip(comparisons, found[1:], strict=False))
    ]
    return rendered(
        "comparison.html.j2",
        comparisons=comparisons,
        galleries=galleries or [Gallery((), "")] * len(comparisons),
        links=[(str(one), _link(one, beside)) for one in runs],
        stock=stock.pictures,
        number=words.number,
        interval=words.interval,
        statistic=words.statistic,
        title=lambda test: words.explain_test(test).title,
        signs=SIGNS,
        counted=lambda one, direction: sum(row["direction"] == direction for row in one["changes"]),
    )


def _link(run: Path, beside: Path | None) -> str:
    """The address of a run's report from the page; "" where there is none."""
    report = run / REPORT_FILE
    if beside is None or not report.is_file():
        return ""
    return Path(os.path.relpath(report.resolve(), beside.resolve())).as_posix()


def _gallery(
    pair: tuple[RunData, RunData], methods: Sequence[str], stock: Stock, where: tuple[int, int]
) -> Gallery:
    number, most = where
    shared = _shared(pair[0].run, pair[1].run)
    places = [shared[place] for place in spaced(len(shared), most)]
    tiles: dict[tuple[int, str], tuple[Tile, ...]] = {}
    for method in methods:
        drawn = _maps(pair, method, places)
        tiles |= {(row, method): some for row, some in enumerate(drawn) if some}
    photos = pair[0].maps("images").get("images")
    items = []
    for row, (place, _) in enumerate(places):
        image, key = pair[0].run.images[place], f"photo-{number + 1}-{place + 1}"
        if photos is not None and place < len(photos):
            stock.put(key, pictures.photo(photos[place]))
        photo = stock.tile(key, photo_alt(image), ("photograph",))
        rows = tuple((method, tiles[row, method]) for method in methods if (row, method) in tiles)
        items.append(Sides(key, f"{image.name}: {image.label or f'class {image.target}'}", photo, rows))
    present = tuple(item for item in items if item.methods)
    note = f"Shown are {len(present)} of {len(shared)} photographs that both runs have."
    return Gallery(present, note)


def _shared(one: Run, two: Run) -> list[tuple[int, int]]:
    """The places of the photographs with the same digest, or where there are none with the same name."""
    for key in ("sha256", "name"):
        places = {getattr(image, key): place for place, image in reversed(list(enumerate(two.images)))}
        known = [(place, getattr(image, key)) for place, image in enumerate(one.images)]
        found = [(place, places[name]) for place, name in known if name in places]
        if found:
            return found
    return []


def _maps(
    pair: tuple[RunData, RunData], method: str, places: Sequence[tuple[int, int]]
) -> list[tuple[Tile, ...]]:
    """The maps of one method before and after, in the same colors; an empty tuple where one is missing."""
    sides = [data.maps(method).get("original") for data in pair]
    signed = pictures.is_signed(*sides)
    found = []
    for chosen in places:
        tiles = [
            _tile(side[place], signed, f"Map of {method} for {data.run.images[place].name}, {when}", when)
            for side, place, data, when in zip(sides, chosen, pair, ("before", "after"), strict=True)
            if side is not None and place < len(side)
        ]
        found.append(tuple(tiles) if len(tiles) == 2 else ())
    return found


def _tile(relevance: Array, signed: bool, alt: str, when: str) -> Tile:
    own = pictures.scale(relevance)
    source = pictures.map_tile(relevance, limit=own, signed=signed)
    return Tile(source, alt, (when, f"scale {words.number(own)}"))
