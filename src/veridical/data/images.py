"""One image file, decoded with suspicion."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 100_000_000
MIN_SIDE = 8
MAX_RATIO = 50

Picture = Image.Image | Tensor
"""A Pillow image; or, for other numbers of channels than 1 and 3, float32 (C, H, W) in [0, 1]."""


@dataclass(frozen=True)
class Images:
    """Photographs and what identifies them; one entry for each in `names`, `images`, `sha256`.

    Attributes:
        names: unique, for tables; the file names of a folder.
        images: Pillow images in RGB; or tensors, where a source of arrays has other channels than 1 or 3. In
            memory, or read when they are asked for.
        sha256: digest of each file's bytes.
        skipped: (name, reason) of everything that was met and could not be used.
        labels: the class of each image, a place in `classes`; () where the source has none.
        classes: the names that the source gives its classes.
        source: where they come from.
        available: how many images the source has, broken ones included.
    """

    names: tuple[str, ...]
    images: Sequence[Picture]
    sha256: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    source: str = ""
    available: int = 0

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each image in pixels."""
        return tuple(
            (image.shape[2], image.shape[1]) if isinstance(image, Tensor) else image.size
            for image in self.images
        )

    def __len__(self) -> int:
        """How many images could be used."""
        return len(self.names)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB.

    The rotation that a camera noted (EXIF) is carried out, transparency is laid over white, gray is repeated
    three times, 16 bits are rounded to 8, palettes and CMYK are converted, and an
    animation gives its first frame.

    Args:
        path: a file that Pillow can read.
        max_pixels: refuse more than this before anything is decoded.

    Returns:
        An image in RGB of at least 8 pixels a side.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no image, a truncated or damaged one, too large, too small, too long for its width, or of
            a kind whose values have no agreed range (floating point).
    """
    return decode(read_file(Path(path)), str(path), max_pixels)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file.

    Returns:
        All of it.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: it is a folder or a device, or it is empty.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected an image file, got {path}; there is no such file")
    if not path.is_file():
        raise ValueError(f"expected an image file, got {path}, which is not a regular file; name a file")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"expected an image, got {path} with 0 bytes; copy the file again")
    return content


def decode(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of an image file; see `load_image`.

    Args:
        content: the file.
        name: for messages.
        max_pixels: refuse more than this before anything is decoded.

    Returns:
        An image in RGB.

    Raises:
        ValueError: see `load_image`.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit decides; Pillow's warning comes at another one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content)) as image:
                _check_size(image, name, max_pixels)
                image.load()
                upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"expected an image, got {name}, which is none that Pillow knows; convert it"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(name, str(error), max_pixels)) from error
    except (
        OSError,
        SyntaxError,
        EOFError,
        MemoryError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
    ) as error:
        raise ValueError(
            f"expected a whole image, got {name}, which is truncated or damaged ({error}); copy it again"
        ) from error
    return _to_rgb(upright, name)


def checked(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image that another package decoded, in RGB, after the checks of `load_image`.

    Args:
        image: a Pillow image.
        name: for messages.
        max_pixels: refuse more than this.

    Returns:
        An image in RGB.

    Raises:
        ValueError: see `load_image`.
    """
    _check_size(image, name, max_pixels)
    return _to_rgb(image, name)


def digest(content: bytes) -> str:
    """SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(_too_large(name, f"{width} x {height}", max_pixels))
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"expected an image of at least {MIN_SIDE} pixels a side, got {width} x {height} in {name}; "
            "leave it out"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(
            f"expected sides in a ratio of at most {MAX_RATIO}, got {width} x {height} in {name}; cut it"
        )


def _too_large(name: str, found: str, max_pixels: int) -> str:
    return f"expected at most {max_pixels} pixels, got {found} in {name}; make it smaller or raise max_pixels"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_integers(image, name).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    if image.mode == "F":
        raise ValueError(
            f"expected 8 or 16 bits a channel, got floating point in {name}; its range is unknown, convert it"
        )
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"expected an RGB image, got mode {image.mode} in {name}; convert it") from error


def _from_integers(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"expected 16 bit values from 0 to 65535, got {values.min()} to {values.max()} in {name}"
        )
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
