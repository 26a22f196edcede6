"""Attacks on explanations: what a small change of the image can make a saliency map show."""

from veridical.attacks.ghorbani import GhorbaniResult, GhorbaniSettings, ghorbani
from veridical.attacks.ghorbani_comparison import AttackComparison, compare_with_ghorbani
from veridical.attacks.manipulation import manipulate
from veridical.attacks.outcome import (
    Convention,
    Evaluation,
    ImageChange,
    Manipulation,
    MapSimilarity,
    OutputChange,
    Similarity,
    join,
    outcome_table,
)
from veridical.attacks.presets import (
    PRESETS,
    Preset,
    Recipe,
    RecipeError,
    default_settings,
    load_recipe,
    preset,
)
from veridical.attacks.recovery import (
    AttackedPairs,
    Crossing,
    Recovery,
    RecoveryCurve,
    RecoverySettings,
    undo,
)
from veridical.attacks.robustness import (
    AttackedMethod,
    Cost,
    Robustness,
    compare_robustness,
    smoothing_variants,
)
from veridical.attacks.settings import IMAGENET_BOUNDS, ManipulationSettings
from veridical.attacks.storage import FORMATS, Survival, stored, survival
from veridical.attacks.targets import array_target, image_target, region_target, text_target, uniform_target

__all__ = [
    "FORMATS",
    "IMAGENET_BOUNDS",
    "PRESETS",
    "AttackedMethod",
    "AttackedPairs",
    "Convention",
    "Cost",
    "Crossing",
    "AttackComparison",
    "Evaluation",
    "GhorbaniResult",
    "GhorbaniSettings",
    "ImageChange",
    "Manipulation",
    "ManipulationSettings",
    "MapSimilarity",
    "OutputChange",
    "Preset",
    "Recipe",
    "RecipeError",
    "Recovery",
    "RecoveryCurve",
    "RecoverySettings",
    "Robustness",
    "Similarity",
    "Survival",
    "array_target",
    "compare_robustness",
    "compare_with_ghorbani",
    "default_settings",
    "ghorbani",
    "image_target",
    "join",
    "load_recipe",
    "manipulate",
    "outcome_table",
    "preset",
    "region_target",
    "smoothing_variants",
    "stored",
    "survival",
    "text_target",
    "undo",
    "uniform_target",
]
