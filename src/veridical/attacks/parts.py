"""An attack on many images, part by part: the results joined, the progress that of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from veridical.attacks.outcome import join

Callback = Callable[[int, Tensor], None]
"""Called after every step with the number of steps done and one value of each image (N,).

Where the images are attacked in parts, the steps done are those of the average image, rounded down, and the
value of an image that has not begun is NaN.
"""


class _Result(Protocol):
    @property
    def interrupted(self) -> bool: ...
    @property
    def inputs(self) -> Tensor: ...


_Joined = TypeVar("_Joined", bound=_Result)


def even_parts(count: int, largest: int) -> list[slice]:
    """Slices of `count` images: as few parts as possible, of sizes that differ by at most one."""
    parts = -(-count // largest)
    edges = [count * index // parts for index in range(parts + 1)]
    return [slice(begin, end) for begin, end in zip(edges, edges[1:], strict=False)]


def in_parts(
    attack: Callable[[int, Callback | None], _Joined],
    clean: Tensor,
    parts: Sequence[slice],
    steps: int,
    callback: Callback | None,
) -> _Joined:
    """One part after the other, joined; a KeyboardInterrupt keeps those that are finished.

    Args:
        attack: of the part of that index; it returns what it reached, flagged, where it is interrupted.
        clean: the images (N, C, H, W).
        parts: of them, in order.
        steps: of each part.
        callback: told the progress of all.

    Raises:
        KeyboardInterrupt: where the first part gave nothing.
    """
    done: list[_Joined] = []
    values = torch.full_like(clean[:, 0, 0, 0], torch.nan)
    with suppress(KeyboardInterrupt):
        for index, images in enumerate(parts):
            found = attack(index, None if callback is None else _Tell(callback, images, steps, values))
            if found.interrupted and done:
                break
            done.append(found)
            if found.interrupted:
                break
    if not done:
        raise KeyboardInterrupt
    result = join(done)
    if len(result.inputs) == len(clean):
        return result
    return cast(_Joined, replace(cast(Any, result), interrupted=True))


@dataclass(frozen=True)
class _Tell:
    """Turns the steps of one part into the progress of all images."""

    callback: Callback
    images: slice
    steps: int
    values: Tensor

    def __call__(self, step: int, values: Tensor) -> None:
        begin, end = self.images.start, self.images.stop
        self.values[begin:end] = values
        done = (begin * self.steps + (end - begin) * step) // len(self.values)
        self.callback(done, self.values.clone())
