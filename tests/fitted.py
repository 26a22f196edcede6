"""Methods that need patterns, ready for a tiny network: fitted on seeded images when they are first used."""

import weakref
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from networks import images
from veridical.attributions import Patterns, fit_patterns, method
from veridical.models import state_digest
from veridical.values import Explainer, Target

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[str, Patterns]] = weakref.WeakKeyDictionary()


def fitted(model: nn.Module) -> Patterns:
    """Patterns of the network as it is now."""
    digest = state_digest(model)
    if model not in _KNOWN or _KNOWN[model][0] != digest:
        dtype = next((p.dtype for p in model.parameters()), torch.float64)
        _KNOWN[model] = digest, fit_patterns(model, [images(24, seed=4, dtype=dtype)])
    return _KNOWN[model][1]


def needs_patterns(name: str) -> bool:
    return any(field.name == "patterns" for field in fields(method(name)))


def ready(name: str, model: nn.Module, **options: Any) -> Explainer:
    """The method of that name, with patterns for the network where it needs them."""
    return (
        method(name, **options, patterns=fitted(model)) if needs_patterns(name) else method(name, **options)
    )


@dataclass(frozen=True)
class Ready:
    """A method as a value that fits its patterns to whatever network it is called with."""

    name: str

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        return ready(self.name, model)(model, inputs, target)
