"""From decoded images to arrays of one size."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

MODES = {1: "L", 3: "RGB"}


def as_pixels(image: Image.Image, side: int | None, channels: int) -> tuple[Tensor, bool]:
    """Uint8 (channels, height, width), and whether the image had another size than `side`.

    Args:
        image: a Pillow image.
        side: height and width, which the scaled image fills; None keeps the size.
        channels: a key of `MODES`.
    """
    changed = side is not None and image.size != (side, side)
    if side is not None and changed:
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    values = np.array(image.convert(MODES[channels]), dtype=np.uint8)
    pixels = torch.from_numpy(values.reshape(*values.shape[:2], channels))
    return pixels.permute(2, 0, 1).contiguous(), changed


def pixels_of_arrays(values: NDArray[Any], side: int | None, channels: int) -> tuple[Tensor, int]:
    """Uint8 (N, channels, height, width), and how many images had another size than `side`.

    Args:
        values: uint8 (N, height, width, 1 or 3).
        side: see `as_pixels`.
        channels: see `as_pixels`.
    """
    own = values.shape[3]
    fits = side is None or values.shape[1:3] == (side, side)
    if fits and own <= channels:
        pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(0, 3, 1, 2)
        return pixels.expand(-1, channels, -1, -1).contiguous(), 0
    images = (Image.fromarray(one[..., 0] if own == 1 else one) for one in values)
    found = [as_pixels(image, side, channels)[0] for image in images]
    return torch.stack(found), 0 if fits else len(found)
