"""How far a manipulation may move an image, and the way back to what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from veridical.tensors import per_sample

Limit = float | Sequence[float] | Tensor
"""One number for all images, or one for each."""


@dataclass(frozen=True, eq=False)
class Budget:
    """The largest change of each image; None for no limit.

    Args:
        linf: of a value (N,).
        l2: Euclidean norm of the change (N,).
    """

    linf: Tensor | None = None
    l2: Tensor | None = None

    def part(self, pairs: slice) -> Budget:
        """The budget of some of the images."""
        return Budget(*(None if one is None else one[pairs] for one in (self.linf, self.l2)))

    def within(self, images: Tensor, clean: Tensor, unit: Tensor | float) -> Tensor:
        """Images (N, C, H, W) as near to themselves as the budget allows.

        Each value is first cut to the box around the clean one, then the whole change is shortened to the
        norm: what is in the box, or within bounds that hold the clean image, stays there.

        Args:
            images: to bring back.
            clean: where the change is measured from.
            unit: what the limits are in; broadcasts against the images.
        """
        if self.linf is not None:
            reach = per_sample(self.linf, images) * unit
            images = torch.maximum(torch.minimum(images, clean + reach), clean - reach)
        if self.l2 is not None:
            change = (images - clean).double()
            norm = (change / unit).flatten(1).norm(dim=1)
            share = torch.where(norm > self.l2, self.l2 / norm, 1.0)
            shortened = (clean.double() + per_sample(share, images) * change).to(images)
            images = torch.where(per_sample(norm > self.l2, images), shortened, images)
        return images


def checked_limit(name: str, limit: Limit) -> float | tuple[float, ...]:
    """A limit as a number or a tuple of them, so that settings compare, hash and print.

    Raises:
        ValueError: where there is no number, or one is negative or not finite.
    """
    values = torch.as_tensor(limit, dtype=torch.float64).detach().cpu()
    numbers = [float(value) for value in values.flatten().tolist()]
    if not numbers or not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"expected {name} of 0 or more and finite, got {limit}; None is no limit")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def budget_for(clean: Tensor, linf: Limit | None, l2: Limit | None) -> Budget:
    """The limits of each of the images (N, C, H, W).

    Raises:
        ValueError: where there are neither one nor N numbers.
    """
    found = Budget()
    for name, limit in (("linf", linf), ("l2", l2)):
        if limit is None:
            continue
        numbers = torch.as_tensor(limit, dtype=torch.float64, device=clean.device).flatten()
        if len(numbers) not in (1, len(clean)):
            raise ValueError(
                f"expected max_{name} of 1 or {len(clean)} numbers, got {len(numbers)}; give one for all "
                "images or one each"
            )
        found = replace(found, **{name: numbers.expand(len(clean))})
    return found
