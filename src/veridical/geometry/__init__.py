"""Geometry of a network's output: how strongly its level sets are curved, and what follows for maps.

The gradient map, normalized, is the unit normal of the level set {g = c}. It can be moved at a constant
output exactly as far as the set is curved (Dombrowski et al. 2019, section 3).
"""

from veridical.geometry.constants import WeightConstant, operator_norm, weight_constant
from veridical.geometry.curvature import (
    Curvature,
    CurvatureNorm,
    CurvatureProfile,
    CurvatureSettings,
    NormSettings,
    curvature,
    curvature_norm,
    curvature_profile,
)
from veridical.geometry.geodesics import Geodesic, GeodesicSettings, geodesic
from veridical.geometry.limits import (
    SmoothGradLimit,
    draw_noise,
    gate_deviation,
    gate_probability,
    gaussian_sigma,
    smoothgrad_limit,
)
from veridical.geometry.movement import Movement, predict_movement
from veridical.geometry.paths import Path, WalkSettings, walk
from veridical.geometry.theorem import Theorem1, theorem1

__all__ = [
    "Curvature",
    "CurvatureNorm",
    "CurvatureProfile",
    "CurvatureSettings",
    "Geodesic",
    "GeodesicSettings",
    "Movement",
    "NormSettings",
    "Path",
    "SmoothGradLimit",
    "Theorem1",
    "WalkSettings",
    "WeightConstant",
    "curvature",
    "curvature_norm",
    "curvature_profile",
    "draw_noise",
    "gate_deviation",
    "gate_probability",
    "gaussian_sigma",
    "geodesic",
    "operator_norm",
    "predict_movement",
    "smoothgrad_limit",
    "theorem1",
    "walk",
    "weight_constant",
]
