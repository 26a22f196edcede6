"""Theorem 1 of Dombrowski et al. 2019, measured: the chain of inequalities along a path on a level set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import evaluation_mode
from veridical.geometry.constants import WeightConstant, weight_constant
from veridical.geometry.curvature import CurvatureSettings, curvature
from veridical.geometry.paths import Path

LINKS = ("change <= turning", "turning <= curvature * length", "curvature * length <= beta * C * length")


@dataclass(frozen=True, eq=False)
class Theorem1:
    """||n(p) - n(p0)|| <= |lambda_max| d <= beta C d along one path for each image.

    All are float64 (N,), NaN where the path left its level set.

    Attributes:
        change: ||n(p) - n(p0)|| of the normalized gradient map at the ends.
        turning: the sum of its moves from point to point.
        curvature: the largest |lambda| that was measured at points of the path.
        length: of the path, at least the geodesic distance d.
        distance: Euclidean, at most d.
        least_gradient: the smallest ||grad g|| on the path.
        constant: from the weights, with its factor, beta and layer norms.
        measured_at: indices of the points where the curvature was measured.
    """

    change: Tensor
    turning: Tensor
    curvature: Tensor
    length: Tensor
    distance: Tensor
    least_gradient: Tensor
    constant: WeightConstant
    measured_at: tuple[int, ...]

    @property
    def curvature_bound(self) -> Tensor:
        """|lambda_max| times the length."""
        return self.curvature * self.length

    @property
    def weight_bound(self) -> Tensor:
        """The bound beta C times the length, C = constant / least gradient."""
        return self.constant.hessian.to(self.length) / self.least_gradient * self.length

    def links(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Left and right side of every inequality, in the order of the chain; and distance <= length."""
        chain = (self.change, self.turning, self.curvature_bound, self.weight_bound)
        found = {name: (chain[i], chain[i + 1]) for i, name in enumerate(LINKS)}
        return found | {"distance <= length": (self.distance, self.length)}

    def slack(self) -> dict[str, Tensor]:
        """Right over left side of every inequality: 1 is tight; infinite where the left side is 0."""
        return {name: right / left for name, (left, right) in self.links().items()}

    def holds(self, tolerance: float = 1e-3) -> Tensor:
        """BoolTensor (N,): whether every inequality holds up to a relative tolerance; False for NaN.

        The polygon is shorter than the curve, and the largest curvature may lie between two points: both
        err by the square of curvature times step.
        """
        sides = [left <= right * (1 + tolerance) + 1e-12 for left, right in self.links().values()]
        return torch.stack(sides).all(dim=0)


def theorem1(
    model: nn.Module, path: Path, *, factor: str = "paper", every: int = 1, **settings: Any
) -> Theorem1:
    """The whole chain of theorem 1 for a path, and by how much each inequality is slack.

    Args:
        model: the network of the path.
        path: of `walk`, or of `geodesic`; its g is a logit.
        factor: of the constant, see `weight_constant`.
        every: the curvature is measured at every so many points, and at the last.
        settings: fields of `CurvatureSettings`; the score is the path's.

    Raises:
        TypeError: see `curvature`.
        ValueError: see `curvature` and `weight_constant`; or if the path is of probabilities.

    Source: Dombrowski et al. 2019, theorem 1 and supplement E.1. The curvature is the largest of the path
    (the theorem's is that of a whole neighborhood, at least as large), the constant that of the weights.
    """
    if path.score != "logit":
        raise ValueError("expected a path of score='logit', got 'probability'; the constant bounds logits")
    if every < 1:
        raise ValueError(f"expected every of at least 1, got {every}; 1 measures at all points")
    chosen = CurvatureSettings(**({"top": 1} | settings))
    with evaluation_mode(model):
        constant = weight_constant(model, path.points[0], path.classes, beta=path.beta, factor=factor)
        last = len(path.points) - 1
        places = tuple(sorted({*range(0, last + 1, every), last}))
        options = {name: getattr(chosen, name) for name in ("top", "steps", "tolerance", "seed", "batch")}
        found = [
            curvature(model, path.points[place], path.classes, beta=path.beta, **options) for place in places
        ]
    largest = torch.stack([item.largest.abs() for item in found]).amax(dim=0)
    return Theorem1(
        change=path.change,
        turning=path.turning,
        curvature=largest.masked_fill(~path.reached, torch.nan),
        length=path.length,
        distance=path.distance,
        least_gradient=path.gradient_norms.amin(dim=0),
        constant=constant,
        measured_at=places,
    )
