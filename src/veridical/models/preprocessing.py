"""From a photograph to the tensor that a network takes, and back to what can be shown."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, cut out the center, scale to [0, 1], subtract the mean, divide by the std.

    The sizes are rounded as torchvision's `ImageClassification` transform rounds them, so that the two give
    the same tensor. `mean` and `std` refer to values in [0, 1]; one number for each channel.

    Attributes:
        resize: length of the shorter side in pixels, or None to keep the size of the image.
        crop: side of the square cut out of the center, or None to keep all of it.
        mean: subtracted from each channel.
        std: divides each channel.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; antialiased as Pillow does it.
        channels: 3 for RGB, 1 for gray.
        source: who chose these values, for the record of the run.
    """

    resize: int | None = 256
    crop: int | None = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    channels: int = 3
    source: str = "default (ImageNet)"

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            ValueError: a size that is not positive, a crop larger than the resized image, a mean or std
                whose length is not `channels`, a std that is not positive, an unknown interpolation.
        """
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        self._check_sizes()
        if self.channels not in (1, 3):
            raise ValueError(f"expected channels 1 or 3, got {self.channels}; images are gray or RGB")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not np.isfinite(values).all():
                raise ValueError(
                    f"expected {self.channels} finite numbers as {name}, got {values}; give one a channel"
                )
        if min(self.std) <= 0:
            raise ValueError(
                f"expected a positive std, got {self.std}; use 1 for a channel that is not scaled"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"expected interpolation {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}; choose one"
            )

    def _check_sizes(self) -> None:
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and size < 1:
                raise ValueError(f"expected {name} of at least 1 pixel, got {size}; None leaves it out")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(
                f"expected crop <= resize, got crop {self.crop} of resize {self.resize}; raise resize"
            )

    def apply(self, image: Image.Image) -> Tensor:
        """The tensor that the network takes.

        Args:
            image: a Pillow image.

        Returns:
            Float32 (channels, height, width), normalized.

        Raises:
            ValueError: the image is smaller than the crop and is not resized.
        """
        image = self._cut(self._resized(image.convert("RGB" if self.channels == 3 else "L")))
        values = np.array(image, dtype=np.uint8).reshape(image.height, image.width, self.channels)
        return self.normalize(torch.from_numpy(values).permute(2, 0, 1).contiguous().float() / 255)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.resize is None:
            return image
        short = min(image.size)
        width, height = (int(self.resize * side / short) for side in image.size)
        return image.resize((width, height), INTERPOLATIONS[self.interpolation])

    def _cut(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        if min(image.size) < self.crop:
            raise ValueError(
                f"expected an image of at least {self.crop} pixels a side, got {image.width} x {image.height}"
                "; set resize, so that small images are enlarged"
            )
        left, top = (round((side - self.crop) / 2.0) for side in image.size)
        return image.crop((left, top, left + self.crop, top + self.crop))

    def normalize(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the std.

        Args:
            images: float (..., channels, height, width) in [0, 1].

        Returns:
            A new tensor of the same shape and dtype, differentiable.
        """
        return (images - self._column(self.mean, images)) / self._column(self.std, images)

    def denormalize(self, inputs: Tensor) -> Tensor:
        """The inverse of `normalize`, cut to what can be shown.

        Args:
            inputs: float (..., channels, height, width) in the space of the network.

        Returns:
            A new tensor of the same shape in [0, 1].
        """
        return (inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)).clamp(0, 1)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and highest value of a valid image in the space of the network.

        Returns:
            Two float32 tensors (channels, 1, 1): black and white, normalized.
        """
        shape = (self.channels, 1, 1)
        return self.normalize(torch.zeros(shape)), self.normalize(torch.ones(shape))

    def as_dict(self) -> dict[str, Any]:
        """All values as plain lists, numbers and strings, for `run.json`."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        if like.ndim < 3 or like.shape[-3] != len(values):
            raise ValueError(
                f"expected a tensor (..., {len(values)}, height, width), got shape {tuple(like.shape)};"
                " the third dimension from the end holds the channels"
            )
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
