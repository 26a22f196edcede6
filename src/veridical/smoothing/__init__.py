"""Smoothing of explanation methods: softplus in place of ReLU, and averages over noise."""

from veridical.smoothing.choice import BetaChoice, BetaCriterion, BetaPoint, choose_beta
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
    "BetaChoice",
    "BetaCriterion",
    "BetaPoint",
    "BetaSchedule",
    "BetaSmoothed",
    "NoiseAveraged",
    "SmoothedModel",
    "beta_smooth",
    "choose_beta",
    "predicted_target",
    "rectifications",
    "smoothgrad",
]
