"""Beta growth: the softplus sharpness as a function of the optimization step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

_Beta = TypeVar("_Beta", float, float | Tensor)


@dataclass(frozen=True)
class BetaSchedule:
    """Geometric growth ``beta(t) = start * (end / start) ** (t / steps)``.

    Dombrowski et al. 2019, supplement A.1, with ``t = 0 .. steps - 1``, so that `end` is approached and
    never quite reached.

    Args:
        start: the first beta, positive.
        end: the beta that the last step stops just short of, positive.
        steps: the number of steps, at least 1.

    Raises:
        ValueError: where a beta is not positive and finite, or `steps` is below 1.

    >>> BetaSchedule(start=10.0, end=1000.0, steps=2)(1)
    100.0
    """

    start: float = 10.0
    end: float = 100.0
    steps: int = 1500

    def __post_init__(self) -> None:
        check_beta(self.start)
        check_beta(self.end)
        if self.steps < 1:
            raise ValueError(f"expected at least 1 step, got {self.steps}; give steps=1 or more")

    def __call__(self, step: int) -> float:
        """Beta at `step`, counted from 0."""
        return float(self.start * (self.end / self.start) ** (step / self.steps))


def check_beta(beta: _Beta) -> _Beta:
    """`beta` as it came, where it can be the sharpness of a softplus.

    Raises:
        ValueError: where beta is not positive and finite.
    """
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"expected a positive, finite beta, got {beta}; try beta=1 to beta=100")
    return beta
