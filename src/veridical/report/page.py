"""Putting the page together and writing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from veridical.records import REPORT_FILE, write_bytes
from veridical.report import pictures
from veridical.report.overview import overview
from veridical.report.reader import RunData, read_data
from veridical.report.sections import Tile, photo_alt, section, shown_images

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Provenance:
    """What is needed to check or repeat the run."""

    command: str
    settings: str
    policy: str


def render(run_dir: str | Path) -> Path:
    """Write `report.html` of a run directory, from its stored files only, and return its path.

    The page is one self-contained file: pictures and styles are inside, nothing is requested, and it works
    without JavaScript. The same files give the same bytes. The file is replaced only when the new one is
    whole.

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
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    view = overview(data.run)
    return environment.get_template("report.html.j2").render(
        run=data.run,
        view=view,
        gallery=_gallery(data),
        sections=[section(data, row.name) for row in view.rows],
        provenance=_provenance(data),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        clip=f"{pictures.CLIP:g}",
    )


def _gallery(data: RunData) -> list[Tile]:
    photos = shown_images(data)
    return [
        Tile(pictures.photo(photo), photo_alt(image), (image.label or f"class {image.target}", image.name))
        for image, photo in zip(data.run.images, photos, strict=False)
    ]


def _provenance(data: RunData) -> Provenance:
    run = data.run
    dump = {"settings": run.settings, "preprocessing": run.model.preprocessing}
    return Provenance(
        command=" ".join(run.command),
        settings=json.dumps(dump, indent=2, ensure_ascii=False, default=str),
        policy=json.dumps(run.policy, indent=2, ensure_ascii=False, default=str),
    )
