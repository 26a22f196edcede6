"""Walks on a level set: steps along the tangent space, each pulled back by Newton's method."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import evaluation_mode
from veridical.geometry.output import Output, Score, output_of, pull_back
from veridical.tensors import per_sample, safe_divide
from veridical.values import Target


@dataclass(frozen=True, eq=False)
class Path:
    """Points on the level sets {g = c}, one path for each image; c is g at the first point.

    Attributes:
        points: (T + 1, N, C, H, W).
        normals: (T + 1, N, C, H, W), the normalized gradients there.
        gradient_norms: float64 (T + 1, N).
        level: float64 (N,), c.
        reached: BoolTensor (N,): whether every point could be brought onto the level set. Where not, the
            figures below are NaN.
        classes: LongTensor (N,).
        beta: of the softplus, or None.
        score: what g is.
    """

    points: Tensor
    normals: Tensor
    gradient_norms: Tensor
    level: Tensor
    reached: Tensor
    classes: Tensor
    beta: float | None
    score: Score

    @property
    def length(self) -> Tensor:
        """float64 (N,), the sum of the distances of neighboring points.

        It is below the length of the curve on the set by a share of about (curvature * step)^2 / 24.
        """
        return self._measured(_distances(self.points[1:], self.points[:-1]).sum(dim=0))

    @property
    def distance(self) -> Tensor:
        """float64 (N,), the Euclidean distance of the ends: no path is shorter."""
        return self._measured(_distances(self.points[-1], self.points[0]))

    @property
    def change(self) -> Tensor:
        """float64 (N,) in [0, 2], how far the unit normal (the normalized gradient map) moved in the end."""
        return self._measured(_distances(self.normals[-1], self.normals[0]))

    @property
    def turning(self) -> Tensor:
        """float64 (N,), the sum of the normal's moves from point to point; at least `change`."""
        return self._measured(_distances(self.normals[1:], self.normals[:-1]).sum(dim=0))

    def _measured(self, values: Tensor) -> Tensor:
        return values.masked_fill(~self.reached, torch.nan)


@dataclass(frozen=True)
class WalkSettings:
    """How a walk goes.

    Args:
        steps: tangent steps.
        length: of the walk in units of the input (Euclidean); a step is length / steps.
        score: g is the class's "logit" or its "probability".
        seed: of the direction where none is given, the same for every image.
        batch: images at a time.

    Raises:
        ValueError: where a number is out of range.
    """

    steps: int = 20
    length: float = 1.0
    score: Score = "logit"
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"expected steps and batch of at least 1, got {self.steps} and {self.batch}")
        if not (math.isfinite(self.length) and self.length > 0):
            raise ValueError(f"expected a positive length, got {self.length}; 1.0 is usual")


def walk(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    beta: float | None = None,
    direction: Tensor | None = None,
    **settings: Any,
) -> Path:
    """Walk straight on the level set of each image: a geodesic in the limit of small steps.

    Each step goes along the last direction's part in the tangent space and is pulled back onto {g = c}.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: (N, C, H, W), the starting points.
        target: the class of g; None for the class that the unmodified network predicts.
        beta: of the softplus in place of ReLU; None takes the network as it is.
        direction: (N, C, H, W), where to go first; its part along the gradient is dropped. None for a random
            direction from the seed.
        settings: fields of `WalkSettings`: steps, length, score, seed, batch.

    Raises:
        TypeError: if something is of the wrong type or a setting does not exist.
        ValueError: if the direction has another shape, or a value is out of range.
    """
    chosen = WalkSettings(**settings)
    with evaluation_mode(model):
        output = output_of(model, inputs, target, beta, chosen.score)
        start = _direction(inputs, direction, chosen.seed)
        parts = [
            _walk(output.at(rows), inputs[rows].detach(), start[rows], chosen)
            for begin in range(0, len(inputs), chosen.batch)
            for rows in [slice(begin, begin + chosen.batch)]
        ]
    return path_of(output, torch.cat([points for points, _ in parts], 1), torch.cat([ok for _, ok in parts]))


def path_of(output: Output, points: Tensor, reached: Tensor) -> Path:
    """The path through points (T + 1, N, C, H, W), with normals and gradients there; it warns of gaps."""
    values, normals, norms = [], [], []
    for point in points:
        value, gradient = output.value_and_gradient(point)
        norm = gradient.flatten(1).double().norm(dim=1)
        values.append(value.double())
        norms.append(norm)
        normals.append(safe_divide(gradient, per_sample(norm, gradient).to(gradient.dtype)))
    reached = reached & (norms[0] > 0)
    if not bool(reached.all()):
        warnings.warn(
            f"no path on the level set of image(s) {(~reached).nonzero().flatten().tolist()[:10]}: there is "
            "no gradient to follow, or no point with that output nearby; the path's figures are NaN. Take "
            'another target, score="logit", a smaller beta or shorter steps.',
            stacklevel=3,
        )
    return Path(
        points, torch.stack(normals), torch.stack(norms), values[0], reached,
        output.classes, output.beta, output.score,
    )  # fmt: skip


def _direction(inputs: Tensor, direction: Tensor | None, seed: int) -> Tensor:
    if direction is not None:
        if direction.shape != inputs.shape:
            raise ValueError(
                f"expected a direction of shape {tuple(inputs.shape)}, got {tuple(direction.shape)}; "
                "give one for each image"
            )
        return direction.detach().to(inputs)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64)
    return drawn.to(inputs).expand_as(inputs)


def _walk(output: Output, x: Tensor, ahead: Tensor, settings: WalkSettings) -> tuple[Tensor, Tensor]:
    """The points of the walks, and whether each reached its level at every step."""
    step = settings.length / settings.steps
    level, gradient = output.value_and_gradient(x)
    points, reached = [x], torch.ones_like(level, dtype=torch.bool)
    for _ in range(settings.steps):
        normal = _unit(gradient)
        ahead = _unit(ahead - _along(ahead, normal) * normal)
        following, found = pull_back(output, x + step * ahead, level)
        moved = following - x
        reached &= found & (moved.flatten(1).norm(dim=1) > 0)
        ahead, x = torch.where(per_sample(found, x), moved, ahead), following
        points.append(x)
        _, gradient = output.value_and_gradient(x)
    return torch.stack(points), reached


def _along(vector: Tensor, unit: Tensor) -> Tensor:
    return per_sample((vector * unit).flatten(1).sum(dim=1), vector)


def _unit(vector: Tensor) -> Tensor:
    return safe_divide(vector, per_sample(vector.flatten(1).norm(dim=1), vector))


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """float64 (..., N) of two (..., N, C, H, W)."""
    found: Tensor = (first - second).double().flatten(-3).norm(dim=-1)
    return found
