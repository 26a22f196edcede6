"""Maps and images as the PNG files that participants see."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Map = NDArray[np.float64]
SIDE = 320


def unit(relevance: NDArray[Any]) -> Map:
    """A map (C, H, W) divided by its Euclidean norm, summed over channels: (H, W).

    Raises:
        ValueError: it is 0 everywhere.
    """
    values = np.asarray(relevance, dtype=np.float64)
    largest = float(np.abs(values).max())
    if largest == 0:
        raise ValueError("expected a map with a value other than 0, got one of zeros; leave its image out")
    scaled = values / largest
    summed: Map = (scaled / np.linalg.norm(scaled)).sum(axis=0)
    return summed


def limit(maps: Sequence[Map], share: float) -> float:
    """The quantile of the absolute values of all maps together, at which they are clipped.

    The largest absolute value where that quantile is 0.
    """
    magnitudes = np.concatenate([np.abs(one).ravel() for one in maps])
    return float(np.quantile(magnitudes, share)) or float(magnitudes.max()) or 1.0


def map_png(values: Map, largest: float) -> bytes:
    """A map (H, W) from blue at -largest through white at 0 to red at largest."""
    position = np.clip(values / largest, -1, 1)
    red, blue = 1 + np.minimum(position, 0), 1 - np.maximum(position, 0)
    return _png(np.stack([red, 1 - np.abs(position), blue], axis=-1))


def image_png(image: NDArray[Any]) -> bytes:
    """An image (C, H, W), uint8 or in [0, 1], with one channel as gray."""
    values = image / 255.0 if image.dtype == np.uint8 else np.asarray(image, dtype=np.float64)
    channels = values if values.shape[0] == 3 else values[:1].repeat(3, axis=0)
    return _png(channels.transpose(1, 2, 0))


def noise_map(side: int = 32) -> Map:
    """Normal noise of seed 0, (side, side): a picture without structure."""
    return np.random.default_rng(0).standard_normal((side, side))


def letter_map(side: int = 32) -> Map:
    """The same noise with a large letter A of twice its strength: a picture with structure."""
    stencil = Image.new("L", (side, side))
    draw = ImageDraw.Draw(stencil)
    top, left, right = (side / 2, side / 8), (side / 6, side * 7 / 8), (side * 5 / 6, side * 7 / 8)
    bar = [(side * 0.29, side * 0.6), (side * 0.71, side * 0.6)]
    for line in ([left, top], [top, right], bar):
        draw.line(line, fill=255, width=max(1, side // 10))
    return np.where(np.asarray(stencil) > 0, 3.0, 1.0 * noise_map(side))


def _png(colors: Map) -> bytes:
    """Colors (H, W, 3) in [0, 1] as PNG, each value an equal block of pixels, of `SIDE` pixels or more."""
    pixels = np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    times = max(1, -(-SIDE // max(pixels.shape[:2])))
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(large)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
