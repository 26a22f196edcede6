"""What is left of an attack when its image is stored: rounded to 8 or 16 bits, or compressed as JPEG.

The optimization works with floating point inputs; a photograph that is passed on has 8 bits a channel.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from veridical.attacks.loss import saliency_map, unmodified_logits
from veridical.attacks.outcome import (
    ImageChange,
    Manipulation,
    MapSimilarity,
    OutputChange,
    Similarity,
    compare,
    image_change,
    output_change,
)
from veridical.checks import check_choice, evaluation_mode
from veridical.values import Explainer

Limits = tuple[Tensor, Tensor]
"""Lowest and highest valid input, each broadcasting against (N, C, H, W)."""


@dataclass(frozen=True)
class Survival:
    """An attack measured again after its images were stored and read; all on the unmodified network.

    Args:
        format: how they were stored, one of `FORMATS`.
        inputs: the images as read again (N, C, H, W), in the units of the network's input.
        saliency: their maps (N, H, W).
        similarity: of these maps; `before` is that of the clean image, which was not stored.
        image_change: against the clean image, which was not stored.
        output_change: against the clean image, which was not stored.
        control: map of the **clean** image after it was stored in the same way, against its original map:
            what the format does on its own.
    """

    format: str
    inputs: Tensor
    saliency: Tensor
    similarity: MapSimilarity
    image_change: ImageChange
    output_change: OutputChange
    control: Similarity


def stored(images: Tensor, limits: Limits, format: str) -> Tensor:
    """Images as they come back from a file of that format.

    Args:
        images: (N, C, H, W) in the units of the network's input; C is 1 or 3 for JPEG.
        limits: lowest and highest valid value; they become black and white.
        format: one of `FORMATS`.

    Returns:
        The same shape, dtype and device.

    Raises:
        ValueError: where the format is unknown, or JPEG cannot hold that number of channels.
    """
    check_choice("format", format, FORMATS)
    low, high = limits
    unit = ((images.detach() - low) / (high - low)).clamp(0, 1)
    return low + FORMATS[format](unit) * (high - low)


def survival(
    model: nn.Module,
    clean: Tensor,
    attack: Manipulation,
    explainer: Explainer,
    limits: Limits,
    format: str,
) -> Survival:
    """Store the images of an attack, read them again, and measure what `manipulate` measures.

    Each image is explained for the class that the network predicts for it then, as at the end of an attack.

    Args:
        model: the unmodified network; left as it was.
        clean: the images before the attack (N, C, H, W).
        attack: its result.
        explainer: the method that was attacked.
        limits: lowest and highest valid value; they become black and white.
        format: one of `FORMATS`.

    Raises:
        ValueError: see `stored`.
    """
    read, same = stored(attack.inputs, limits, format), stored(clean, limits, format)
    with evaluation_mode(model):
        before, after = unmodified_logits(model, clean), unmodified_logits(model, read)
        found = saliency_map(explainer, model, read, after.argmax(1)).detach()
        again = unmodified_logits(model, same).argmax(1)
        control = saliency_map(explainer, model, same, again).detach()
    return Survival(
        format=format,
        inputs=read,
        saliency=found,
        similarity=MapSimilarity(
            to_target=compare(found, attack.target_map),
            to_original=compare(found, attack.original_saliency),
            before=attack.similarity.before,
        ),
        image_change=image_change(clean, read, limits),
        output_change=output_change(before, after),
        control=compare(control, attack.original_saliency),
    )


def levels(unit: Tensor, bits: int) -> NDArray[np.uint16]:
    """An image (C, H, W) with values in [0, 1] as whole numbers (H, W, C) from 0 to 2^bits - 1, rounded."""
    whole = (unit.detach().cpu().double().clamp(0, 1) * (2**bits - 1)).round()
    found: NDArray[np.uint16] = whole.permute(1, 2, 0).numpy().astype(np.uint16)
    return found


def encode_png(unit: Tensor, bits: int = 8) -> bytes:
    """A PNG file of an image (C, H, W) with values in [0, 1], C = 1 or 3, with 8 or 16 bits a channel.

    Raises:
        ValueError: where the number of channels or of bits is another one.
    """
    _check_channels(unit)
    if bits not in (8, 16):
        raise ValueError(f"expected 8 or 16 bits, got {bits}; PNG has these")
    pixels = levels(unit, bits)
    if bits == 16:
        return _png_of_16_bits(pixels)
    content = io.BytesIO()
    _picture(pixels).save(content, format="PNG")
    return content.getvalue()


def _png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    """Written by hand, since Pillow has no color with 16 bits (PNG specification, sections 5 and 11)."""
    height, width, channels = pixels.shape
    color = 2 if channels == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    # Every row begins with the number of its filter: 0, none.
    rows = [b"\0" + row.astype(">u2").tobytes() for row in pixels]
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _rounded(bits: int) -> Callable[[Tensor], Tensor]:
    def store(unit: Tensor) -> Tensor:
        steps = 2**bits - 1
        return unit.mul(steps).round().div(steps)

    return store


def _jpeg(quality: int) -> Callable[[Tensor], Tensor]:
    def store(unit: Tensor) -> Tensor:
        return torch.stack([_through_jpeg(one, quality) for one in unit])

    return store


def _through_jpeg(unit: Tensor, quality: int) -> Tensor:
    """An image (C, H, W) in [0, 1]; color at half the resolution (4:2:0), as most programs write it."""
    _check_channels(unit)
    content = io.BytesIO()
    _picture(levels(unit, 8)).save(content, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(content) as read:
        pixels = np.array(read, dtype=np.uint8).reshape(*unit.shape[1:], len(unit))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(unit) / 255


def _picture(pixels: NDArray[np.uint16]) -> Image.Image:
    small = pixels.astype(np.uint8)
    return Image.fromarray(small if small.shape[2] == 3 else small[..., 0])


def _check_channels(unit: Tensor) -> None:
    if len(unit) not in (1, 3):
        raise ValueError(
            f"expected an image of 1 or 3 channels for a picture file, got {len(unit)}; keep it as a tensor"
        )


FORMATS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"png-16": _rounded(16), "png-8": _rounded(8), "jpeg-95": _jpeg(95), "jpeg-75": _jpeg(75)}
)
"""How an image with values in [0, 1] comes back: 16 and 8 bits a channel (65535 and 255 steps), JPEG at
quality 95 and 75 in Pillow's scale."""
