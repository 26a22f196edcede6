"""From decoded images to arrays of one size."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from veridical.data.images import Picture

MODES = {1: "L", 3: "RGB"}


def as_pixels(image: Picture, side: int | None, channels: int) -> tuple[Tensor, bool]:
    """Uint8 (channels, height, width), and whether the image had another size than `side`.

    Args:
        image: a Pillow image; one with other channels than a key of `MODES` is refused.
        side: height and width, which the scaled image fills; None keeps the size.
        channels: a key of `MODES`.

    Raises:
        ValueError: the image is neither gray nor RGB.
    """
    if isinstance(image, Tensor):
        raise ValueError(f"expected gray or RGB images, got {len(image)} channels; choose some of them")
    changed = side is not None and image.size != (side, side)
    if side is not None and changed:
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    values = np.array(image.convert(MODES[channels]), dtype=np.uint8)
    pixels = torch.from_numpy(values.reshape(*values.shape[:2], channels))
    return pixels.permute(2, 0, 1).contiguous(), changed
