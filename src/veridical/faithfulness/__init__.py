"""Tests of explanations: does a map depend on the network and on the explained class at all?"""

from veridical.faithfulness._flipping import FlippingCurves
from veridical.faithfulness.chain_spectrum import ChainSpectrum, SpectrumSettings, chain_spectrum
from veridical.faithfulness.chain_theorem import (
    ChainConditions,
    ConeConvergence,
    chain_conditions,
    cone_convergence,
)
from veridical.faithfulness.chains import ChainConvergence, ChainSettings, simulate_chains, simulate_given
from veridical.faithfulness.class_difference import ClassDifference, class_difference, display_scale
from veridical.faithfulness.convergence import (
    ConvergenceSettings,
    CosineConvergence,
    cosine_convergence,
    random_cosine,
)
from veridical.faithfulness.infidelity import (
    Infidelity,
    InfidelitySettings,
    default_reading,
    infidelity,
    perturbations,
)
from veridical.faithfulness.maps import REDUCTIONS, default_reduction, reduce_channels
from veridical.faithfulness.pixel_flipping import FlippingSettings, PixelFlipping, pixel_flipping
from veridical.faithfulness.randomization import (
    CascadingRandomization,
    RandomizationSettings,
    cascading_randomization,
    randomizable,
)
from veridical.faithfulness.rank_one import (
    LayerPair,
    LayerSpectra,
    RankOneAnalysis,
    Spectrum,
    inter_layer,
    rank_one_analysis,
)
from veridical.faithfulness.roar import Retrain, roar
from veridical.faithfulness.roar_stored import StoredRoar, read_roar
from veridical.faithfulness.roar_values import Roar, RoarData, RoarSettings
from veridical.faithfulness.sensitivity import Sensitivity, SensitivitySettings, noise_in_ball, sensitivity
from veridical.faithfulness.targets import RandomLogit, RandomLogitSettings, random_logit

__all__ = [
    "REDUCTIONS",
    "CascadingRandomization",
    "ChainConditions",
    "ChainConvergence",
    "ChainSettings",
    "ChainSpectrum",
    "ClassDifference",
    "ConeConvergence",
    "ConvergenceSettings",
    "CosineConvergence",
    "FlippingCurves",
    "FlippingSettings",
    "Infidelity",
    "InfidelitySettings",
    "LayerPair",
    "LayerSpectra",
    "PixelFlipping",
    "RandomLogit",
    "RandomLogitSettings",
    "RandomizationSettings",
    "RankOneAnalysis",
    "Retrain",
    "Roar",
    "RoarData",
    "RoarSettings",
    "Sensitivity",
    "SensitivitySettings",
    "Spectrum",
    "SpectrumSettings",
    "StoredRoar",
    "cascading_randomization",
    "chain_conditions",
    "chain_spectrum",
    "class_difference",
    "cone_convergence",
    "cosine_convergence",
    "default_reading",
    "default_reduction",
    "display_scale",
    "infidelity",
    "inter_layer",
    "noise_in_ball",
    "perturbations",
    "pixel_flipping",
    "random_cosine",
    "random_logit",
    "randomizable",
    "rank_one_analysis",
    "read_roar",
    "roar",
    "reduce_channels",
    "sensitivity",
    "simulate_chains",
    "simulate_given",
]
