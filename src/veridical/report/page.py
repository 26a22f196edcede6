"""Putting the page together and writing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from veridical.records import REPORT_FILE, write_bytes
from veridical.report import pictures
from veridical.report.manifold import manifold_section
from veridical.report.movement import movement_section
from veridical.report.overview import overview
from veridical.report.photographs import photo_alt, photo_key, photographs
from veridical.report.reader import RunData, read_data
from veridical.report.rendering import rendered
from veridical.report.sections import section, shown_images
from veridical.report.shown import Shown, Tile, shown_of


@dataclass(frozen=True)
class Provenance:
    """What is needed to check or repeat the run."""

    command: str
    settings: str
    policy: str


def render(run_dir: str | Path) -> Path:
    """Write `report.html` of a run directory, from its stored files only, and return its path.

    The page is one self-contained file: pictures, styles and the script are inside, nothing is requested, and
    without JavaScript it can be read whole. The same files give the same bytes. The file is replaced only
    when the new one is whole.

    Args:
        run_dir: The folder that an audit wrote.

    Raises:
        RecordError: A file of the run is missing or broken; the message names it and says how to mend it.
        OSError: The page cannot be written.
    """
    directory = Path(run_dir)
    page = _page(read_data(directory))
    path = directory / REPORT_FILE
    write_bytes(path, page.encode())
    return path


def _page(data: RunData) -> str:
    view, shown = overview(data.run), shown_of(data.run)
    gallery = _gallery(data, shown)
    names = [row.name for row in view.rows]
    sections = [section(data, name, shown) for name in names]
    return rendered(
        "report.html.j2",
        run=data.run,
        view=view,
        gallery=gallery,
        sections=sections,
        photographs=photographs(data, names, shown),
        stock=shown.stock.pictures,
        manifold=manifold_section(data),
        movement=movement_section(data),
        provenance=_provenance(data),
        clip=f"{pictures.CLIP:g}",
        tile=pictures.TILE,
    )


def _gallery(data: RunData, shown: Shown) -> list[Tile]:
    """The listed photographs; their pictures go into the stock."""
    stored, found = shown_images(data), []
    for place in shown.listed:
        image = data.run.images[place]
        if place < len(stored):
            shown.stock.put(photo_key(place), pictures.photo(stored[place]))
        lines = (image.label or f"class {image.target}", image.name)
        found.append(shown.stock.tile(photo_key(place), photo_alt(image), lines, photo_key(place)))
    return [tile for tile in found if tile is not None]


def _provenance(data: RunData) -> Provenance:
    run = data.run
    dump = {"settings": run.settings, "preprocessing": run.model.preprocessing}
    return Provenance(
        command=" ".join(run.command),
        settings=json.dumps(dump, indent=2, ensure_ascii=False, default=str),
        policy=json.dumps(run.policy, indent=2, ensure_ascii=False, default=str),
    )
