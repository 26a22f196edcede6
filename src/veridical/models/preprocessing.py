"""From a photograph to the tensor that a network takes, and back to what can be shown."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from veridical.checks import nearest_names

Size = int | tuple[int, int] | None
"""Pixels: of the shorter side, or (height, width)."""

UNSCALED = "none"
"""What stands for "do not normalize" on the command line."""

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
    """Resize, cut out the center, scale to [0, 1], subtract the mean, divide by the std.

    The sizes are rounded as torchvision's `ImageClassification` transform rounds them, so that the two give
    the same tensor. `mean` and `std` refer to values in [0, 1]; one number for each channel.

    Attributes:
        resize: length of the shorter side in pixels, the proportions kept; or (height, width), whatever the
            proportions; or None to keep the size of the image.
        crop: side of the square cut out of the center, or its (height, width), or None to keep all of it.
        mean: subtracted from each channel.
        std: divides each channel.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; antialiased as Pillow does it.
        channels: 3 for RGB, 1 for gray; any other number for images that are given as tensors.
        source: who chose these values, for the record of the run.
    """

    resize: Size = 256
    crop: Size = 224
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
        for name in ("resize", "crop"):
            object.__setattr__(self, name, _size(name, getattr(self, name)))
        self._check_sizes()
        if not isinstance(self.channels, int) or self.channels < 1:
            raise ValueError(f"expected at least 1 channel, got {self.channels!r}; gray is 1, RGB is 3")
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
        if self.resize is None or self.crop is None:
            return
        rows, columns = _sides(self.crop)
        height, width = _sides(self.resize)
        shorter = isinstance(self.resize, int)  # the longer side is known with the image
        if (min(rows, columns) > height) if shorter else (rows > height or columns > width):
            raise ValueError(
                f"expected crop <= resize, got crop {self.crop} of resize {self.resize}; raise resize"
            )

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of what the network takes; None where they are those of the photograph."""
        if self.crop is not None:
            return _sides(self.crop)
        return self.resize if isinstance(self.resize, tuple) else None

    def apply(self, image: Image.Image | Tensor) -> Tensor:
        """The tensor that the network takes.

        Args:
            image: a Pillow image, for networks of 1 or 3 channels; or a float tensor (channels, height,
                width) in [0, 1], for any number of channels.

        Returns:
            Float32 (channels, height, width), normalized.

        Raises:
            ValueError: the image is smaller than the crop and is not resized, or has other channels.
        """
        if isinstance(image, Tensor):
            return self.normalize(self._cut_tensor(self._resized_tensor(self._checked(image))))
        if self.channels not in (1, 3):
            raise ValueError(
                f"expected photographs for a network of 1 or 3 channels, got one of {self.channels}; give "
                "its images as arrays in an .npz file, or in Python as tensors in [0, 1]"
            )
        image = self._cut(self._resized(image.convert("RGB" if self.channels == 3 else "L")))
        values = np.array(image, dtype=np.uint8).reshape(image.height, image.width, self.channels)
        return self.normalize(torch.from_numpy(values).permute(2, 0, 1).contiguous().float() / 255)

    def _checked(self, image: Tensor) -> Tensor:
        if image.dim() != 3 or image.shape[0] != self.channels or not image.is_floating_point():
            raise ValueError(
                f"expected a floating point image ({self.channels}, height, width) in [0, 1], got "
                f"{image.dtype} {tuple(image.shape)}; the first dimension holds the channels"
            )
        return image.float()

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.resize is None:
            return image
        height, width = self._target_size(image.height, image.width)
        return image.resize((width, height), INTERPOLATIONS[self.interpolation])

    def _resized_tensor(self, image: Tensor) -> Tensor:
        """As Pillow resizes, in floating point; Lanczos, which torch lacks, becomes bicubic."""
        if self.resize is None:
            return image
        size = self._target_size(*image.shape[1:])
        if self.interpolation == "nearest":
            return F.interpolate(image[None], size=size, mode="nearest-exact")[0]
        mode = "bilinear" if self.interpolation == "bilinear" else "bicubic"
        return F.interpolate(image[None], size=size, mode=mode, antialias=True)[0].clamp(0, 1)

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple) or self.resize is None:
            return self.resize or (height, width)
        short = min(height, width)
        return int(self.resize * height / short), int(self.resize * width / short)

    def _cut(self, image: Image.Image) -> Image.Image:
        top, left, height, width = self._window(image.height, image.width)
        return image.crop((left, top, left + width, top + height))

    def _cut_tensor(self, image: Tensor) -> Tensor:
        top, left, height, width = self._window(*image.shape[1:])
        return image[:, top : top + height, left : left + width]

    def _window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the center."""
        if self.crop is None:
            return 0, 0, height, width
        rows, columns = _sides(self.crop)
        if height < rows or width < columns:
            raise ValueError(
                f"expected an image of at least {columns} x {rows} pixels, got {width} x {height}"
                "; set resize, so that small images are enlarged"
            )
        return round((height - rows) / 2.0), round((width - columns) / 2.0), rows, columns

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

    def unscaled(self) -> Self:
        """The same sizes, for a network that normalizes by itself: it gets values in [0, 1]."""
        zeros, ones = (0.0,) * self.channels, (1.0,) * self.channels
        return replace(self, mean=zeros, std=ones, source=f"[0, 1]; sizes: {self.source}")

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


def preprocessing_of(values: object, where: str) -> Preprocessing:
    """The preprocessing that a mapping describes, as JSON has it.

    Args:
        values: fields of `Preprocessing`; those that are missing have their default.
        where: it stands, for the message.

    Raises:
        TypeError: it is no mapping or has an unknown key.
        ValueError: a value cannot be carried out.
    """
    known = [field.name for field in fields(Preprocessing)]
    if not isinstance(values, Mapping):
        raise TypeError(f"expected fields of Preprocessing in {where}, got {type(values).__name__}")
    for name in values:
        if name not in known:
            raise TypeError(
                f"expected fields of Preprocessing in {where}, got {name!r}; {nearest_names(name, known)}"
            )
    return Preprocessing(**({"source": where} | dict(values)))


def read_preprocessing(text: str) -> Preprocessing | str:
    """What the option `--preprocessing` stands for: "none", or the values in a JSON file.

    Args:
        text: "none" for the sizes that come with the network and values in [0, 1], or the name of a JSON file
            with fields of `Preprocessing`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, TypeError: see `preprocessing_of`.
    """
    if text == UNSCALED:
        return text
    path = Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"expected none or a JSON file as preprocessing, got {text}; no such file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {text}, got {error}; mend the file") from error
    return preprocessing_of(values, path.name)


def _size(name: str, value: object) -> Size:
    parts = value if isinstance(value, list | tuple) else (value,)
    right = value is None or (
        len(parts) <= 2 and len(parts) >= 1 and all(isinstance(one, int) and one >= 1 for one in parts)
    )
    if not right:
        raise ValueError(
            f"expected {name} of at least 1 pixel, got {value!r}; one number, (height, width), or None to "
            "leave it out"
        )
    if value is None or isinstance(value, int):
        return value
    return (parts[0], parts[-1])


def _sides(size: Size) -> tuple[int, int]:
    """(height, width) of a size; a single number stands for both."""
    return size if isinstance(size, tuple) else (size or 0, size or 0)
