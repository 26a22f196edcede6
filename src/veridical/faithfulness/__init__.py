"""Tests of explanations: does a map depend on the network and on the explained class at all?"""

from veridical.faithfulness.convergence import (
    ConvergenceSettings,
    CosineConvergence,
    cosine_convergence,
    random_cosine,
)
from veridical.faithfulness.maps import REDUCTIONS, default_reduction, reduce_channels
from veridical.faithfulness.randomization import (
    CascadingRandomization,
    RandomizationSettings,
    cascading_randomization,
    randomizable,
)
from veridical.faithfulness.targets import RandomLogit, RandomLogitSettings, random_logit

__all__ = [
    "REDUCTIONS",
    "CascadingRandomization",
    "ConvergenceSettings",
    "CosineConvergence",
    "RandomLogit",
    "RandomLogitSettings",
    "RandomizationSettings",
    "cascading_randomization",
    "cosine_convergence",
    "default_reduction",
    "random_cosine",
    "random_logit",
    "randomizable",
    "reduce_channels",
]
