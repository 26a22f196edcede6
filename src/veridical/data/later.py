"""Images that are decoded when they are asked for, and not kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from torch import Tensor

from veridical.data._files import Read
from veridical.data.images import Picture


@dataclass(frozen=True, eq=False)
class ReadLater(Sequence[Picture]):
    """Images of a source; every look at one reads it anew.

    Attributes:
        read: from a place in the source to the image and its digest.
        places: of the images.
        sha256: of the images when they were first read.
    """

    read: Read
    places: tuple[int, ...]
    sha256: tuple[str, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> list[Picture]: ...

    def __getitem__(self, index: int | slice) -> Picture | list[Picture]:
        """Read one image, or those of a slice.

        Raises:
            ValueError: it was changed since it was first read, or cannot be used now.
            OSError: it is no longer there.
        """
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        image, digest = self.read(self.places[index])
        if digest != self.sha256[index]:
            raise ValueError(
                "expected the image as it was before, got other bytes; do not change it in a run"
            )
        return in_rgb(image)


def in_rgb(image: Picture) -> Picture:
    """A Pillow image in RGB; a tensor as it is."""
    return image if isinstance(image, Tensor) else image.convert("RGB")
