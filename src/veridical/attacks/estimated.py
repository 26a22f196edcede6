"""The gradient of a loss by calls alone, for methods whose maps carry no derivative.

Simultaneous perturbation (Spall 1992) with antithetic pairs, averaged over several random directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FOLDED = 32
"""Pairs times directions in one call; each is moved both ways."""

Losses = Callable[[Tensor, int], Tensor]
"""The loss of each image (count * N,) of a batch (count * N, C, H, W) that holds all pairs `count` times."""


@dataclass(frozen=True)
class GradientEstimate:
    """``mean_k (L(x + r u_k) - L(x - r u_k)) / (2 r) u_k`` with u_k of random signs, for each image.

    Unbiased for the gradient of L as r goes to 0; on a piecewise constant map it sees the steps within r. Its
    noise falls with the square root of the number of directions and grows with that of input values: expect
    far less than of an exact gradient. The same directions serve every image of a batch, so that a batch of
    n gives what n batches of one give.

    Args:
        directions: how many; each costs two evaluations of the loss.
        radius: r, a number.
        seed: of the generator; with the step it decides the directions.
        folded: the most pairs times directions in one call of the losses, each moved both ways; at least one
            direction of all pairs. The result does not depend on it, up to rounding.

    Source:
        Spall 1992, "Multivariate stochastic approximation using a simultaneous perturbation gradient
        approximation"; averaged as there, section III.
    """

    directions: int
    radius: float
    seed: int
    folded: int = FOLDED

    def __call__(self, losses: Losses, images: Tensor, unit: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The estimate (N, C, H, W) and the mean loss over all evaluations (N,).

        Args:
            losses: called with several copies of the batch at once.
            images: (N, C, H, W).
            unit: what the radius is measured in; broadcasts against the images.
            step: of the optimization; another step has other directions.
        """
        reach = self.radius * unit
        total, level = torch.zeros_like(images), images.new_zeros(len(images))
        for signs in self.signs(images, step).split(max(1, self.folded // len(images))):
            count = len(signs)
            moved = torch.cat((images + reach * signs.unsqueeze(1), images - reach * signs.unsqueeze(1)))
            with torch.no_grad():
                found = losses(moved.flatten(0, 1), 2 * count).reshape(2, count, len(images))
            slopes = (found[0] - found[1]) / 2
            total += (slopes[:, :, None, None, None] * signs.unsqueeze(1)).sum(0)
            level += found.sum((0, 1))
        return total / (self.directions * reach), level / (2 * self.directions)

    def signs(self, images: Tensor, step: int) -> Tensor:
        """The directions (K, C, H, W) of a step, -1 or 1, drawn on the CPU so that devices agree."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        shape = (self.directions, *images.shape[1:])
        return (2 * torch.randint(2, shape, generator=generator) - 1).to(images)
