"""Images for a manifold: of every form, with or without labels, brought to one size."""

from dataclasses import replace
from pathlib import Path

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from veridical.cli.images import Choice, tell_skipped
from veridical.data import ImageSource, LabeledImages, open_images, parts_of


def read_images(
    place: str | Path,
    side: int | None,
    channels: int,
    part: str | None = None,
    *,
    choice: Choice | None = None,
    labeled: bool = True,
) -> LabeledImages:
    """The images of a place, brought to a size; what could not be used is named on stderr.

    Args:
        place: see `open_images`.
        side: height and width; None keeps the size, which must be the same for all.
        channels: 1 or 3.
        part: of a source that has parts; None for the part "train".
        choice: which of the images; None for all.
        labeled: whether labels matter; without, they may have gaps and only spread the choice.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: nothing there can be used, or sizes differ.
    """
    chosen = choice or Choice()
    chosen.check()
    source = chosen.of(_opened(place, part or "train"))
    if not labeled:
        source = replace(source, labels=None, classes=())
    # Arrays are scaled as the published code does it, without cutting.
    found = source.arrays(None if source.one_size else side, channels, chosen.max_broken)
    tell_skipped(found.skipped)
    images = found.images if side is None else bilinear(found.images, side)
    changed = found.resized or (len(images) if images.shape != found.images.shape else 0)
    if changed:
        typer.echo(f"brought {changed} images to {side} x {side} pixels", err=True)
    return LabeledImages(images, found.labels, found.classes, found.source, found.skipped, changed)


def _opened(place: str | Path, part: str) -> ImageSource:
    parts = parts_of(place)
    if parts and part not in parts:
        raise ValueError(f"expected a part {part!r} in {place}, got {', '.join(parts)}; name one of them")
    return open_images(place, part if parts else None)


def bilinear(images: Tensor, side: int, batch: int = 1024) -> Tensor:
    """Images uint8 (N, C, side, side), bilinear, with averaging where they become smaller."""
    if images.shape[-2:] == (side, side):
        return images
    scaled = [
        F.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=True).round().byte()
        for part in images.split(batch)
    ]
    return torch.cat(scaled)
