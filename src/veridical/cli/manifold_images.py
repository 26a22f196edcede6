"""Images for a manifold: labeled ones of every kind, and a folder of images without labels."""

from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from veridical.data import LabeledImages, Part, load_folder, load_labeled, parts_of

SHOWN = 5
UNLABELED = "all"


def read_images(path: Path, side: int | None, channels: int, part: Part | None = None) -> LabeledImages:
    """The images of a path, brought to a size; what could not be used is named on stderr.

    Args:
        path: a folder of images, a folder or .zip with one folder a class, an .npz, or MNIST's files.
        side: height and width; None keeps the size, which must be the same for all.
        channels: 1 or 3.
        part: of a source that has parts; None for the part "train".

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: nothing there can be used, or sizes differ.
    """
    if path.is_dir() and _is_flat(path):
        found = _unlabeled(path, side, channels)
    else:
        parts = parts_of(path)
        chosen = part or "train"
        if parts and chosen not in parts:
            raise ValueError(
                f"expected a part {chosen!r} in {path}, got {', '.join(parts)}; name one of them"
            )
        # Arrays have one size: they are scaled as the published code does it, without cutting.
        keeps = bool(parts) or path.suffix.lower() == ".npz"
        own = None if keeps else side
        found = load_labeled(path, part=chosen if parts else None, side=own, channels=channels)
    for name, reason in found.skipped[:SHOWN]:
        typer.echo(f"skipped {name}: {reason}", err=True)
    if len(found.skipped) > SHOWN:
        typer.echo(f"skipped {len(found.skipped) - SHOWN} more", err=True)
    images = found.images if side is None else bilinear(found.images, side)
    changed = found.resized or (len(images) if images.shape != found.images.shape else 0)
    if changed:
        typer.echo(f"brought {changed} images to {side} x {side} pixels", err=True)
    return LabeledImages(images, found.labels, found.classes, found.source, found.skipped, changed)


def bilinear(images: Tensor, side: int, batch: int = 1024) -> Tensor:
    """Images uint8 (N, C, side, side), bilinear, with averaging where they become smaller."""
    if images.shape[-2:] == (side, side):
        return images
    scaled = [
        F.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=True).round().byte()
        for part in images.split(batch)
    ]
    return torch.cat(scaled)


def _is_flat(folder: Path) -> bool:
    """Whether a folder holds images itself, and no folders of classes or files of MNIST's format."""
    entries = [one for one in folder.iterdir() if not one.name.startswith(".")]
    return not any(one.is_dir() for one in entries) and not parts_of(folder)


def _unlabeled(folder: Path, side: int | None, channels: int) -> LabeledImages:
    found = load_folder(folder)
    sizes = sorted(set(found.sizes))
    if side is None and len(sizes) > 1:
        raise ValueError(
            f"expected images of one size, got {len(sizes)} sizes ({_words(sizes[0])}, {_words(sizes[1])}); "
            "give --side"
        )
    pixels = [_pixels(image, side, channels) for image in found.images]
    labels = torch.zeros(len(pixels), dtype=torch.long)
    changed = sum(side is not None and size != (side, side) for size in found.sizes)
    return LabeledImages(torch.stack(pixels), labels, (UNLABELED,), str(folder), found.skipped, changed)


def _pixels(image: Image.Image, side: int | None, channels: int) -> Tensor:
    """Uint8 (C, H, W); an image of another size fills the square, and what sticks out is cut off."""
    if side is not None and image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    values = np.array(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return torch.from_numpy(values.reshape(*values.shape[:2], channels)).permute(2, 0, 1)


def _words(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
