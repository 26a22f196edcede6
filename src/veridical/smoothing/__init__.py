"""Smoothing of explanation methods: softplus in place of ReLU, and averages over noise."""

from veridical.smoothing.noise import NoiseAveraged, smoothgrad
from veridical.smoothing.schedule import BetaSchedule
from veridical.smoothing.softplus import (
    BetaSmoothed,
    SmoothedModel,
    beta_smooth,
    predicted_target,
    rectifications,
)

__all__ = [
    "BetaSchedule",
    "BetaSmoothed",
    "NoiseAveraged",
    "SmoothedModel",
    "beta_smooth",
    "predicted_target",
    "rectifications",
    "smoothgrad",
]
