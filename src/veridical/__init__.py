"""veridical: find out which explanations of a neural network you may believe."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veridical.api import (
        audit,
        cascading_randomization,
        cosine_convergence,
        coverage,
        manipulate,
        random_logit,
    )
    from veridical.attributions import explain, method, methods, saliency
    from veridical.smoothing import beta_smooth, smoothgrad

__version__ = "0.1.0"

__all__ = [
    "audit",
    "beta_smooth",
    "cascading_randomization",
    "cosine_convergence",
    "coverage",
    "explain",
    "manipulate",
    "method",
    "methods",
    "random_logit",
    "saliency",
    "smoothgrad",
]

_HOMES = {
    "veridical.api": (
        "audit", "cascading_randomization", "cosine_convergence", "coverage", "manipulate", "random_logit",
    ),
    "veridical.attributions": ("explain", "method", "methods", "saliency"),
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
