"""Arrays to small pictures as data URIs: photographs, signed and non-negative maps, colorbars.

Signed maps use a diverging colormap centered on zero with symmetric limits, non-negative maps a sequential
one. A map has few colors, so that it is stored as a palette PNG: its index is the level, the palette the
colormap.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]
Size = tuple[int, int]
TILE = 160
CLIP = 99.5
LEVELS = 65  # odd, so that zero of a signed map has a level of its own
DIVERGING = "RdBu_r"
SEQUENTIAL = "magma"


def is_signed(*maps: Array | None) -> bool:
    """Say whether any of the maps has a negative value."""
    return any(part is not None and part.size > 0 and bool(np.nanmin(part) < 0) for part in maps)


def scale(relevance: Array) -> float:
    """Return the 99.5th percentile of the absolute values; NaN for a map without a finite value.

    A map that is zero nearly everywhere has percentile 0; then its largest absolute value is returned.
    """
    magnitudes = np.abs(relevance[np.isfinite(relevance)])
    if magnitudes.size == 0:
        return float("nan")
    return float(np.percentile(magnitudes, CLIP)) or float(magnitudes.max())


def map_tile(relevance: Array, *, limit: float, signed: bool) -> str:
    """Return a map (H, W) as a palette PNG, from -limit to limit or, where not signed, from 0 to limit."""
    small = _shrink(np.nan_to_num(relevance, nan=0.0, posinf=0.0, neginf=0.0))
    unit = small / limit if limit > 0 else np.zeros_like(small)
    position = (unit + 1) / 2 if signed else unit
    levels = np.rint(np.clip(position, 0, 1) * (LEVELS - 1)).astype(np.uint8)
    return _palette_png(levels, signed=signed)


def colorbar(*, signed: bool) -> str:
    """Return a horizontal colorbar, low values to the left."""
    levels = np.tile(np.arange(LEVELS, dtype=np.uint8), (8, 1)).repeat(4, axis=1)
    return _palette_png(levels, signed=signed)


def photo(image: Array, *, size: int = TILE) -> str:
    """Return an image (C, H, W) with values in [0, 1] as a WebP; one channel is shown gray."""
    channels = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    pixels = np.rint(np.clip(np.nan_to_num(channels), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if max(picture.size) > size:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=84, method=4)
    return _uri(buffer.getvalue(), "image/webp")


def amplification(change: Array) -> float:
    """Return the factor, 1, 2 or 5 times a power of ten, that makes the largest change at most 0.5."""
    largest = float(np.abs(change).max(initial=0.0))
    if not 0 < largest < np.inf:
        return 1.0
    wanted = 0.5 / largest
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(max(step * power for step in (1, 2, 5) if step * power <= wanted))


def amplified(change: Array, factor: float) -> str:
    """Return a change (C, H, W) of an image as a picture: gray where nothing changed."""
    return photo((0.5 + factor * change).astype(np.float32))


def _shrink(relevance: Array) -> Array:
    """Average a map down to at most `TILE` pixels a side (never up)."""
    longest = max(relevance.shape)
    if longest <= TILE:
        return relevance.astype(np.float32)
    height, width = (max(1, round(side * TILE / longest)) for side in relevance.shape)
    picture = Image.fromarray(np.ascontiguousarray(relevance, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=np.float32)


def _palette_png(levels: NDArray[np.uint8], *, signed: bool) -> str:
    colors = colormaps[DIVERGING if signed else SEQUENTIAL](np.linspace(0, 1, LEVELS))[:, :3]
    picture = Image.fromarray(levels).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(np.rint(colors * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return _uri(buffer.getvalue(), "image/png")


def size_of(source: str) -> Size:
    """Width and height, in pixels, of a picture that is a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        return picture.size


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
