"""The distance of two images along a level set, between the Euclidean one and the length of a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import check_inputs, evaluation_mode
from veridical.geometry.output import Output, Score, output_of, pull_back
from veridical.geometry.paths import Path, path_of
from veridical.values import Target


@dataclass(frozen=True)
class GeodesicSettings:
    """How a path is shortened.

    Args:
        halvings: a path has 2 ** halvings pieces while it is shortened, twice as many when it is measured.
        sweeps: over all points of the path after every halving.
        score: g is the class's "logit" or its "probability".
        batch: points in one call of the network.

    Raises:
        ValueError: where a number is out of range.
    """

    halvings: int = 3
    sweeps: int = 20
    score: Score = "logit"
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("halvings", "sweeps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}; leave it out")


@dataclass(frozen=True, eq=False)
class Geodesic:
    """Bounds on the geodesic distance d_g of pairs of images. NaN where no path on the set was found.

    Attributes:
        upper: float64 (N,): the length of a path on the set that could not be made shorter. With L and L' the
            lengths of the polygons through its points and through twice as many, L' + (L' - L): the rest of
            halving on and on is a third of the last step, so this lies above the curve's length wherever the
            polygons resolve it. The path is the shortest near the straight line; a shorter one elsewhere
            would only lower d_g.
        lower: float64 (N,), the Euclidean distance.
        moved: float64 (N,), how far the second image was moved along the gradient to the level of the first.
        path: the points, with normals.
        settings: how it was found.
    """

    upper: Tensor
    lower: Tensor
    moved: Tensor
    path: Path
    settings: GeodesicSettings

    @property
    def ratio(self) -> Tensor:
        """float64 (N,), upper / lower, at least 1: how much longer the way on the set is."""
        return self.upper / torch.where(self.lower > 0, self.lower, torch.nan)


def geodesic(
    model: nn.Module,
    inputs: Tensor,
    others: Tensor,
    target: Target = None,
    *,
    beta: float | None = None,
    **settings: Any,
) -> Geodesic:
    """The distance along {g = g(x)} of each image x and another, such as its manipulated twin.

    The other image is first moved onto the level set. Then midpoints of neighboring points are pulled back
    onto it, and every point in turn is moved to the midpoint of its neighbors and pulled back again.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: (N, C, H, W).
        others: the same shape.
        target: the class of g; None for the class that the unmodified network predicts for `inputs`.
        beta: of the softplus in place of ReLU; None takes the network as it is.
        settings: fields of `GeodesicSettings`: halvings, sweeps, score, batch.

    Raises:
        TypeError: if something is of the wrong type or a setting does not exist.
        ValueError: if the shapes differ or a value is out of range.
    """
    chosen = GeodesicSettings(**settings)
    check_inputs(others)
    if others.shape != inputs.shape:
        raise ValueError(f"expected others of shape {tuple(inputs.shape)}, got {tuple(others.shape)}")
    with evaluation_mode(model):
        output = output_of(model, inputs, target, beta, chosen.score)
        level, _ = _chunked(output, inputs, chosen.batch)
        pull = _Pull(output, level, chosen.batch, torch.ones_like(level, dtype=torch.bool))
        others = others.detach().to(inputs)
        end = pull(others[None])[0]
        points = torch.stack([inputs.detach(), end])
        for _ in range(chosen.halvings):
            points = _halved(points, pull)
            for _ in range(chosen.sweeps):
                points = _swept(points, pull)
        fine = _halved(points, pull)
        path = path_of(output, fine, pull.reached)
    coarse = _length(points)
    upper = path.length + (path.length - coarse).clamp(min=0)
    moved = (end - others).double().flatten(1).norm(dim=1).masked_fill(~path.reached, torch.nan)
    return Geodesic(upper, path.distance, moved, path, chosen)


def _chunked(output: Output, x: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    parts = [
        output.at(rows).value_and_gradient(x[rows])
        for start in range(0, len(x), batch)
        for rows in [slice(start, start + batch)]
    ]
    return torch.cat([value for value, _ in parts]), torch.cat([gradient for _, gradient in parts])


@dataclass
class _Pull:
    """Pulls points (P, N, C, H, W) onto the level sets of N images, and notes where that failed."""

    output: Output
    level: Tensor
    batch: int
    reached: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        count, images = points.shape[:2]
        owner = torch.arange(images, device=points.device).repeat(count)
        flat = points.flatten(0, 1)
        moved, found = [], []
        for start in range(0, len(flat), self.batch):
            rows = slice(start, start + self.batch)
            mine = owner[rows]
            x, ok = pull_back(self.output.at(mine), flat[rows], self.level[mine])
            moved.append(x)
            found.append(ok)
        self.reached = self.reached & torch.cat(found).view(count, images).all(dim=0)
        return torch.cat(moved).view_as(points)


def _halved(points: Tensor, pull: _Pull) -> Tensor:
    """Points with the pulled-back midpoints between them."""
    middle = pull((points[1:] + points[:-1]) / 2)
    woven = torch.stack([points[:-1], middle], dim=1).flatten(0, 1)
    return torch.cat([woven, points[-1:]])


def _swept(points: Tensor, pull: _Pull) -> Tensor:
    """Every other inner point, then the rest, moved to the midpoint of its neighbors on the set."""
    points = points.clone()
    for first in (1, 2):
        if first < len(points) - 1:
            before, after = points[first - 1 : -2 : 2], points[first + 1 :: 2]
            points[first:-1:2] = pull((before + after) / 2)
    return points


def _length(points: Tensor) -> Tensor:
    found: Tensor = (points[1:] - points[:-1]).double().flatten(2).norm(dim=2).sum(dim=0)
    return found
