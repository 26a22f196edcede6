"""What `veridical attack` leaves in its directory."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from veridical.auditing import Forgery, Patterns
from veridical.records import RecordError, is_temporary, read_json, write_arrays, write_bytes, write_json
from veridical.report import AttackPictures, attack_pictures

RESULT = "result.json"
PATTERNS = "patterns.safetensors"
FILES: Mapping[str, str] = {
    "images.safetensors": "lossless: the clean and the manipulated image as the network takes them, float32",
    "maps.safetensors": "the maps of the clean image, of the target and of the manipulated image, float32",
    "manipulated-16bit.png": "the manipulated image rounded to 16 bits a channel (`stored`, png-16)",
    "manipulated.png": "the manipulated image rounded to 8 bits a channel, to look at (`stored`, png-8)",
    "clean.png": "the clean image with 8 bits a channel",
    "map-original.png": "the map of the clean image in the colors of the figure",
    "map-target.png": "the target map in the colors of the figure",
    "map-manipulated.png": "the map of the manipulated image in the colors of the figure",
    "figure.png": "the images, their difference and the maps",
    RESULT: "all figures",
}

FITTED: Mapping[str, str] = {PATTERNS: "the patterns that were fitted, for --patterns; left by later attacks"}
"""What `--fit-patterns` adds."""


def check_place(out: Path) -> None:
    """Refuse a directory that cannot be written to, or that holds something else than an attack.

    Raises:
        ValueError: the directory is a file, is below one, is read-only, or holds other files.
    """
    place = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"expected a directory to write to, got {place}; choose another --out")
    if not out.exists():
        return
    known = {**FILES, **FITTED}
    others = sorted(one.name for one in out.iterdir() if one.name not in known and not is_temporary(one))
    if others:
        raise ValueError(
            f"expected an empty directory or an earlier attack, got {out} with {others[0]}; choose another"
        )
    if any(out.iterdir()) and not _is_attack(out / RESULT):
        raise ValueError(f"expected an earlier attack in {out}, got no {RESULT} of one; choose another --out")


def _is_attack(file: Path) -> bool:
    try:
        return "finished" in read_json(file)
    except (RecordError, TypeError):
        return False


def write_attack(
    out: Path, found: Forgery, record: dict[str, Any], shown: AttackPictures, fitted: Patterns | None = None
) -> None:
    """Write all files, each of them whole; `finished` in result.json becomes true after the others.

    Ctrl-C is ignored meanwhile: there is either an earlier attack in the directory, or this one.

    Raises:
        OSError: the disk is full, say; result.json then says that the directory holds no result.
    """
    pictures = {**found.pictures(), **attack_pictures(shown)}
    record = {
        **record,
        "figure": {"difference_factor": shown.factor, "map_limit": shown.limit},
        "files": {**FILES, **({} if fitted is None else FITTED)},
    }
    with _uninterrupted():
        _write(out, found, record, pictures)
        if fitted is not None:
            fitted.save(out / PATTERNS)
        write_json(out / RESULT, record)


def _write(out: Path, found: Forgery, record: dict[str, Any], pictures: Mapping[str, bytes]) -> None:
    write_json(out / RESULT, {"format": record["format"], "finished": False})
    images = {"clean": found.clean, "manipulated": found.attack.inputs}
    for name, tensors in (("images", images), ("maps", found.maps())):
        arrays = {key: one.detach().cpu().float().numpy() for key, one in tensors.items()}
        write_arrays(out / f"{name}.safetensors", arrays)
    for name, content in pictures.items():
        write_bytes(out / name, content)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
