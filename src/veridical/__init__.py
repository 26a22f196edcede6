"""veridical: find out which explanations of a neural network you may believe."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veridical.adapters import from_captum, from_zennit
    from veridical.api import (
        as_quantus,
        audit,
        cascading_randomization,
        choose_beta,
        class_difference,
        compare_robustness,
        cosine_convergence,
        coverage,
        explain_several,
        forge,
        infidelity,
        manipulate,
        pixel_flipping,
        random_logit,
        roar,
        sensitivity,
        undo,
    )
    from veridical.attributions import Patterns, explain, fit_patterns, method, methods, saliency
    from veridical.auditing.alignment import measure_alignment
    from veridical.geometry import curvature, curvature_norm, curvature_profile, geodesic, theorem1, walk
    from veridical.manifold import tangent_fraction, tangent_space
    from veridical.models import load_model
    from veridical.smoothing import beta_smooth, smoothgrad

__version__ = "0.1.0"

__all__ = [
    "Patterns",
    "as_quantus",
    "audit",
    "beta_smooth",
    "cascading_randomization",
    "choose_beta",
    "class_difference",
    "compare_robustness",
    "cosine_convergence",
    "coverage",
    "curvature",
    "curvature_norm",
    "curvature_profile",
    "explain",
    "explain_several",
    "fit_patterns",
    "forge",
    "from_captum",
    "from_zennit",
    "geodesic",
    "infidelity",
    "load_model",
    "manipulate",
    "measure_alignment",
    "method",
    "methods",
    "pixel_flipping",
    "random_logit",
    "roar",
    "saliency",
    "sensitivity",
    "smoothgrad",
    "tangent_fraction",
    "tangent_space",
    "theorem1",
    "undo",
    "walk",
]

_HOMES = {
    "veridical.adapters": ("from_captum", "from_zennit"),
    "veridical.api": (
        "as_quantus", "audit", "cascading_randomization", "choose_beta", "class_difference",
        "compare_robustness", "cosine_convergence", "coverage", "explain_several", "forge", "infidelity",
        "manipulate", "pixel_flipping", "random_logit", "roar", "sensitivity", "undo",
    ),
    "veridical.attributions": ("Patterns", "explain", "fit_patterns", "method", "methods", "saliency"),
    "veridical.auditing.alignment": ("measure_alignment",),
    "veridical.geometry": (
        "curvature", "curvature_norm", "curvature_profile", "geodesic", "theorem1", "walk",
    ),
    "veridical.manifold": ("tangent_fraction", "tangent_space"),
    "veridical.models": ("load_model",),
    "veridical.smoothing": ("beta_smooth", "smoothgrad"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line starts without torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'veridical' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
