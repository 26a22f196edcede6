"""veridical: find out which explanations of a neural network you may believe."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veridical.adapters import from_captum, from_zennit
    from veridical.api import (
        as_quantus,
        audit,
        cascading_randomization,
        cosine_convergence,
        coverage,
        explain_several,
        infidelity,
        manipulate,
        pixel_flipping,
        random_logit,
        sensitivity,
    )
    from veridical.attributions import Patterns, explain, fit_patterns, method, methods, saliency
    from veridical.smoothing import beta_smooth, smoothgrad

__version__ = "0.1.0"

__all__ = [
    "Patterns",
    "as_quantus",
    "audit",
    "beta_smooth",
    "cascading_randomization",
    "cosine_convergence",
    "coverage",
    "explain",
    "explain_several",
    "fit_patterns",
    "from_captum",
    "from_zennit",
    "infidelity",
    "manipulate",
    "method",
    "methods",
    "pixel_flipping",
    "random_logit",
    "saliency",
    "sensitivity",
    "smoothgrad",
]

_HOMES = {
    "veridical.adapters": ("from_captum", "from_zennit"),
    "veridical.api": (
        "as_quantus", "audit", "cascading_randomization", "cosine_convergence", "coverage", "explain_several",
        "infidelity", "manipulate", "pixel_flipping", "random_logit", "sensitivity",
    ),
    "veridical.attributions": ("Patterns", "explain", "fit_patterns", "method", "methods", "saliency"),
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
