"""Attacks on explanations: what a small change of the image can make a saliency map show."""

from veridical.attacks.manipulation import manipulate
from veridical.attacks.outcome import (
    Evaluation,
    ImageChange,
    Manipulation,
    MapSimilarity,
    OutputChange,
    Similarity,
)
from veridical.attacks.settings import IMAGENET_BOUNDS, PRESETS, ManipulationSettings

__all__ = [
    "IMAGENET_BOUNDS",
    "PRESETS",
    "Evaluation",
    "ImageChange",
    "Manipulation",
    "ManipulationSettings",
    "MapSimilarity",
    "OutputChange",
    "Similarity",
    "manipulate",
]
