"""Photographs that are installed already: those inside the wheel of scikit-image."""

from pathlib import Path

import skimage.data

from veridical.data.images import Images, decode, digest, read_file

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def sample_photographs(limit: int | None = None) -> Images:
    """The five everyday color photographs of scikit-image's wheel; nothing is downloaded.

    Of the other color files one is the second half of a stereo pair and the rest are charts, microscopy or
    astronomy, which no network for everyday photographs was trained on. Licenses: see scikit-image.

    Args:
        limit: take only the first ones.

    Returns:
        A person, a cat, a cup of coffee, a motorcycle and a rocket, in the order of their names.

    Raises:
        FileNotFoundError: this scikit-image was installed without them.
        ValueError: limit < 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 image, got {limit}; None takes all")
    names = PHOTOGRAPHS[:limit]
    folder = Path(skimage.data.__file__).parent
    contents = [read_file(folder / name) for name in names]
    return Images(
        names=names,
        images=tuple(decode(content, name) for content, name in zip(contents, names, strict=True)),
        sha256=tuple(digest(content) for content in contents),
    )
