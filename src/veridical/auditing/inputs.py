"""The images of an audit as rows that are read when they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from veridical.checks import check_inputs


@runtime_checkable
class Inputs(Protocol):
    """Images that need not be in memory together. Every call must give the same values."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> Tensor:
        """The images `start` to `stop - 1`, (stop - start, C, H, W), as the network takes them."""
        ...


@dataclass(frozen=True, eq=False)
class TensorInputs:
    """Images that are in memory.

    Attributes:
        images: (N, C, H, W).
    """

    images: Tensor

    def __len__(self) -> int:
        """How many there are."""
        return len(self.images)

    def read(self, start: int, stop: int) -> Tensor:
        """A copy of some of them: a method that writes into its images changes no other task."""
        return self.images[start:stop].detach().clone()


def as_inputs(images: Tensor | Inputs) -> Inputs:
    """The images as rows; a tensor is looked at as a whole.

    Raises:
        TypeError: it is neither a tensor of floating point numbers nor such a source.
        ValueError: a tensor has another shape, is empty, or holds NaN or infinity; or there is no image.
    """
    if not isinstance(images, Tensor) and isinstance(images, Inputs):
        if not len(images):
            raise ValueError("expected at least one image, got none; give a source that has some")
        return images
    check_inputs(images)
    return TensorInputs(images)


def spans(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """The parts of `start` to `stop` of `size` each, the last one shorter."""
    return [(begin, min(begin + size, stop)) for begin in range(start, stop, size)]


def batches(inputs: Inputs, count: int, size: int) -> Iterator[tuple[int, Tensor]]:
    """The first `count` images, `size` at a time, each with the place of its first.

    Raises:
        TypeError: the source gave something else than floating point numbers.
        ValueError: images are not finite, or not all of one shape.
    """
    shape = None
    for start, stop in spans(0, count, size):
        images = inputs.read(start, stop)
        check_inputs(images)
        shape = shape or tuple(images.shape[1:])
        if tuple(images.shape) != (stop - start, *shape):
            raise ValueError(
                f"expected images of shape {(stop - start, *shape)}, got {tuple(images.shape)} for images "
                f"{start} to {stop - 1}; give the model a preprocessing that crops, or make the files equal"
            )
        yield start, images
