"""Likeness of two maps by their histograms of oriented gradients (Dalal and Triggs 2005)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import hog
from torch import Tensor

from veridical.checks import nearest_names
from veridical.metrics._pairs import paired
from veridical.metrics.correlation import pearson


@dataclass(frozen=True)
class HogProtocol:
    """Which histograms of oriented gradients are compared.

    Attributes:
        name: the name under which it is asked for.
        cell: side of a cell in pixels.
        block: side of a block in cells; blocks overlap and are normalized by L2-Hys.
        orientations: bins of the unsigned orientation, so that a map and its negative have one descriptor.
    """

    name: str
    cell: int
    block: int = 3
    orientations: int = 9

    @property
    def smallest(self) -> int:
        """The side of the smallest map that has a block, in pixels."""
        return self.cell * self.block


HOGS: dict[str, HogProtocol] = {"hog": HogProtocol("hog", cell=16), "hog-8": HogProtocol("hog-8", cell=8)}
"""`"hog"`: scikit-image's defaults with cells of 16 pixels; `"hog-8"` with cells of 8, for maps below 48."""


def hog_similarity(first: Tensor, second: Tensor, how: str = "hog") -> Tensor:
    """Pearson correlation of the histograms of oriented gradients of two maps.

    Each map is divided by its largest magnitude before, whatever protocol other measures follow. Adebayo et
    al. 2018 compare maps so; they name the correlation, not the size of the cells.

    Args:
        first: maps (N, H, W).
        second: the same shape.
        how: a key of `HOGS`.

    Returns:
        float64 (N,) in [-1, 1]; NaN where a map is constant or not finite, or a descriptor is constant. Not
        differentiable.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ, are not (N, H, W), hold no block, or there is no such protocol.
    """
    if how not in HOGS:
        raise ValueError(f"expected a HOG protocol, got {how!r}; {nearest_names(how, HOGS)}")
    chosen = HOGS[how]
    a, b = paired(first.detach(), second.detach())
    if a.dim() != 3:
        raise ValueError(f"expected maps of shape (N, H, W), got {tuple(a.shape)}; reduce the channels first")
    if min(a.shape[1:]) < chosen.smallest:
        raise ValueError(
            f"expected maps of at least {chosen.smallest}x{chosen.smallest} pixels for {how!r}, got "
            f"{a.shape[1]}x{a.shape[2]}; use 'hog-8' from 24 pixels on, or leave the measure out"
        )
    return pearson(_descriptors(a, chosen), _descriptors(b, chosen)).to(a.device)


def _descriptors(maps: Tensor, how: HogProtocol) -> Tensor:
    """(N, D) on the CPU; NaN for maps that are constant or not finite."""
    return torch.from_numpy(np.stack([_descriptor(one, how) for one in maps.cpu().numpy()]))


def _descriptor(one: NDArray[np.float64], how: HogProtocol) -> NDArray[np.float64]:
    usable = bool(np.isfinite(one).all()) and one.min() < one.max()
    scaled = one / np.abs(one).max() if usable else np.zeros_like(one)
    found: NDArray[np.float64] = hog(
        scaled,
        orientations=how.orientations,
        pixels_per_cell=(how.cell, how.cell),
        cells_per_block=(how.block, how.block),
    )
    return found if usable else np.full_like(found, np.nan)
