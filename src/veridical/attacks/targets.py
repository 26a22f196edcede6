"""Maps to aim at: another image's, an array, a text, a region, the uniform map.

Every function returns non-negative float32 or float64 values whose sum over the pixels of a map is 1, as
`manipulate` takes them. The paper aims at another image's map (Dombrowski et al. 2019, section 2) and, in its
figure 1, at a text whose drawing it does not describe.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from veridical.attacks.loss import saliency_map, unmodified_logits
from veridical.checks import check_inputs, evaluation_mode
from veridical.tensors import sum_normalize
from veridical.values import Explainer

Size = tuple[int, int]
"""Height and width of a map in pixels."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, right and bottom outside: four ints are pixels, four floats are fractions."""

SMALLEST_FONT = 7
"""Below this height of a line in pixels letters cannot be told apart."""
LARGEST_TEXT = 1000


def image_target(model: nn.Module, images: Tensor, explainer: Explainer) -> Tensor:
    """The maps of other images: by the method under attack, on the network under attack.

    Args:
        model: the unmodified network; left as it was.
        images: the other images (N, C, H, W), preprocessed as the attacked ones.
        explainer: the method; each image is explained for its own predicted class.

    Returns:
        ``sum_channels |R|`` divided by its sum (N, H, W), without gradient.

    Raises:
        TypeError: where the images are no floating point tensor.
        ValueError: where they are no finite batch, or a map is zero or not finite.
    """
    check_inputs(images)
    with evaluation_mode(model):
        predicted = unmodified_logits(model, images).argmax(1)
        maps = saliency_map(explainer, model, images.detach(), predicted).detach()
    good = maps.isfinite().flatten(1).all(1) & (maps.sum((1, 2)) > 0)
    if not bool(good.all()):
        bad = (~good).nonzero().flatten().tolist()
        raise ValueError(
            f"expected maps with a positive, finite sum, got none for image(s) {bad[:10]}; "
            "take another target image"
        )
    return maps


def array_target(values: Tensor, size: Size) -> Tensor:
    """Any map as a target: resized to the size of the network's input, and scaled to sum 1.

    A map of another size is stretched to the new one, its shape is not kept, by linear interpolation with
    antialiasing (a triangle filter), whose weights are not negative. Signed maps are refused: whether a
    negative value means "none" or "as much" is not for us to guess.

    Args:
        values: (H, W) or (N, H, W), real, not negative.
        size: height and width of the network's input.

    Returns:
        Float (H, W) or (N, H, W) of the new size; float32 unless the values are float64.

    Raises:
        TypeError: where the values are no tensor, or complex.
        ValueError: where shape, size or values do not fit.
    """
    if not isinstance(values, Tensor) or values.is_complex():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"expected a map as a real tensor (H, W), got {found}; use torch.as_tensor(values)")
    if values.dim() not in (2, 3) or values.numel() == 0:
        raise ValueError(
            f"expected a map of shape (H, W) or (N, H, W), got {tuple(values.shape)}; "
            "sum the absolute values of relevance over its channels"
        )
    maps = values.detach().to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    _check_values(maps)
    maps = maps if values.dim() == 3 else maps[None]
    if tuple(maps.shape[1:]) != _checked_size(size):
        # Interpolation of tiny values is exact enough only once they are near 1.
        maps = maps / maps.amax((1, 2), keepdim=True)
        maps = functional.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]
        maps = maps.clamp(min=0)
    maps = _normalized(maps)
    return maps if values.dim() == 3 else maps[0]


def text_target(text: str, size: Size, *, blur: float = 0.0) -> Tensor:
    """A text that fills the map, as in figure 1 of the paper; its own drawing is not described there.

    DejaVu Sans Bold, in the largest size at which the text, wrapped at its spaces and centered, fits into the
    map with a margin of 4 % on each side. The letters have one value, the background 0.

    Args:
        text: at least one visible character; a line break stays one.
        size: height and width of the network's input.
        blur: standard deviation in pixels of a Gaussian blur of the letters; 0 for none.

    Returns:
        Float32 (H, W).

    Raises:
        TypeError: where the text is no text.
        ValueError: where it is blank, too long, does not fit, or has characters that the font lacks, or the
            blur is negative.
    """
    height, width = _checked_size(size)
    _check_text(text)
    if not (math.isfinite(blur) and blur >= 0):
        raise ValueError(f"expected a blur of 0 pixels or more, got {blur}; leave it out for none")
    picture = Image.new("L", (width, height))
    font, lines = _fitted(text, width, height)
    middle = (width / 2, height / 2)
    ImageDraw.Draw(picture).multiline_text(
        middle, lines, fill=255, font=font, anchor="mm", align="center", spacing=_spacing(font)
    )
    if blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    return _normalized(torch.from_numpy(np.array(picture, dtype=np.float32))[None])[0]


def region_target(box: Box, size: Size) -> Tensor:
    """A rectangle with one value, 0 outside of it.

    Args:
        box: left, top, right, bottom; right and bottom lie outside. Four ints are pixels, four floats are
            fractions of width and height, rounded to whole pixels.
        size: height and width of the network's input.

    Returns:
        Float32 (H, W).

    Raises:
        TypeError: where ints and floats are mixed.
        ValueError: where the box is empty or leaves the map.
    """
    height, width = _checked_size(size)
    left, top, right, bottom = _pixels(box, width, height)
    inside = 0 <= left < right <= width and 0 <= top < bottom <= height
    if not inside:
        raise ValueError(
            f"expected a box (left, top, right, bottom) of at least one pixel inside of {width} x {height} "
            f"pixels, got {tuple(box)}; whole numbers are pixels, 0.25 and the like are fractions"
        )
    found = torch.zeros(1, height, width)
    found[:, top:bottom, left:right] = 1.0
    return _normalized(found)[0]


def uniform_target(size: Size) -> Tensor:
    """The map that says nothing: the same value at every pixel, float32 (H, W).

    No map correlates with it: use ``keep="last"`` and read the mean squared error.

    Raises:
        ValueError: where the size is no size.
    """
    return _normalized(torch.ones(1, *_checked_size(size)))[0]


def _checked_size(size: Size) -> Size:
    found = tuple(int(side) for side in size)
    if len(found) != 2 or min(found) < 1:
        raise ValueError(
            f"expected a height and a width of at least 1 pixel, got {size}; use images.shape[2:]"
        )
    return found[0], found[1]


def _check_values(maps: Tensor) -> None:
    if not bool(maps.isfinite().all()):
        raise ValueError("expected a finite map, got NaN or infinity; look at where the map comes from")
    if bool((maps < 0).any()):
        raise ValueError(
            f"expected a map without negative values, got a minimum of {maps.min().item():.3g}; "
            "take the absolute value, or cut at 0"
        )
    if bool((maps.amax((-2, -1)) == 0).any()):
        raise ValueError("expected a map with a positive value, got zeros only; give another map")


def _normalized(maps: Tensor) -> Tensor:
    return sum_normalize(maps.double() / maps.double().amax((1, 2), keepdim=True)).to(maps.dtype)


def _pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """The box in pixels."""
    kinds = {type(edge) for edge in box}
    if len(box) != 4 or kinds not in ({int}, {float}):
        raise TypeError(
            f"expected four ints (pixels) or four floats (fractions) as a box, got {tuple(box)}; "
            "order them left, top, right, bottom"
        )
    if not all(math.isfinite(edge) for edge in box):
        raise ValueError(f"expected finite edges of a box, got {tuple(box)}; 0.0 to 1.0 are inside")
    if kinds == {float}:
        box = tuple(edge * side for edge, side in zip(box, (width, height) * 2, strict=True))  # type: ignore[assignment]
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, right, bottom


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"expected a text, got {type(text).__name__}; give a str")
    if not text.strip():
        raise ValueError(f"expected a text with a visible character, got {text!r}; write a word")
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"expected at most {LARGEST_TEXT} characters, got {len(text)}; shorten the text")
    missing = [letter for letter in text if not letter.isspace() and ord(letter) not in _characters()]
    if missing:
        raise ValueError(
            f"expected characters of DejaVu Sans, got {missing[0]!r}, which it lacks; write it otherwise"
        )


def _fitted(text: str, width: int, height: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """The largest font in which the text fits, and its lines."""
    room = (0.92 * width, 0.92 * height)
    for points in range(height, SMALLEST_FONT - 1, -1):
        font = _font(points)
        lines = "\n".join(_wrapped(part, font, room[0]) for part in text.strip().splitlines())
        canvas = ImageDraw.Draw(Image.new("L", (1, 1)))
        left, top, right, bottom = canvas.multiline_textbbox((0, 0), lines, font=font, spacing=_spacing(font))
        if right - left <= room[0] and bottom - top <= room[1]:
            return font, lines
    raise ValueError(
        f"expected a text that can be read in {width} x {height} pixels, got {len(text)} characters; "
        "shorten it or take a larger image"
    )


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Words in lines as long as the room allows; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else ""
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _spacing(font: ImageFont.FreeTypeFont) -> float:
    return font.size * 0.1


def _font_file() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"


@cache
def _font(points: int) -> ImageFont.FreeTypeFont:
    # The basic layout is the same everywhere; the other one needs a library that not every Pillow has.
    return ImageFont.truetype(str(_font_file()), points, layout_engine=ImageFont.Layout.BASIC)


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(str(_font_file())).get_charmap())
