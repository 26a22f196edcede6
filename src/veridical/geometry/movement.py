"""How far a map can be moved, from curvature alone: before any attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from veridical.geometry.curvature import Curvature, CurvatureNorm, NormSettings, curvature, curvature_norm
from veridical.values import Target


@dataclass(frozen=True, eq=False)
class Movement:
    """Change of the normalized gradient map on the level set within a radius, to first order.

    A step of length r turns the unit normal by r ||A u||, with the shape operator A and the direction u.

    Attributes:
        largest: float64 (N,) in [0, 2], r |lambda_max|: in the direction in which the set is most curved.
        expected: float64 (N,) in [0, 2], r ||A||_F / sqrt(d - 1): root mean square over random directions.
        low: float64 (N,), lower end of the interval of `expected`.
        high: float64 (N,), upper end.
        radius: r, Euclidean, in units of the input.
        curvature: what `largest` was made of.
        norm: what `expected` was made of.
    """

    largest: Tensor
    expected: Tensor
    low: Tensor
    high: Tensor
    radius: float
    curvature: Curvature
    norm: CurvatureNorm


def predict_movement(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    beta: float | None = None,
    radius: float = 1.0,
    **settings: Any,
) -> Movement:
    """How far the normalized gradient map can turn within a radius while the output stays as it is.

    First order in the radius, and cut at 2, the largest distance of unit vectors. The order of the images
    does not depend on the radius where nothing is cut.

    Args:
        model: see `curvature`, as for all that is not listed.
        inputs: (N, C, H, W).
        target: the class of g.
        beta: of the softplus in place of ReLU.
        radius: Euclidean, in units of the input.
        settings: fields of `CurvatureSettings`; score, seed and batch hold for the norm too, and `probes` is
            for the norm alone.

    Raises:
        TypeError: see `curvature`.
        ValueError: see `curvature`; or if the radius is not positive.
    """
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"expected a positive radius, got {radius}; give the length of the step")
    probes = settings.pop("probes", NormSettings.probes)
    found = curvature(model, inputs, target, beta=beta, **({"top": 1} | settings))
    shared = {name: getattr(found.settings, name) for name in ("score", "seed", "batch")}
    norm = curvature_norm(model, inputs, found.classes, beta=beta, probes=probes, **shared)
    share = radius / math.sqrt(norm.dimension)
    return Movement(
        largest=(radius * found.largest.abs()).clamp(max=2),
        expected=(share * norm.estimate).clamp(max=2),
        low=(share * norm.low).clamp(max=2),
        high=(share * norm.high).clamp(max=2),
        radius=radius,
        curvature=found,
        norm=norm,
    )
