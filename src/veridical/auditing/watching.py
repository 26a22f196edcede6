"""An explainer that acts as another one, and tells what its maps look like while an attack is running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veridical.metrics import pearson
from veridical.smoothing import SmoothedModel
from veridical.tensors import sum_normalize
from veridical.values import Explainer, Target


@dataclass(frozen=True)
class Sight:
    """What was seen of the last map.

    Args:
        pcc: correlation with the target map, the mean over the batch.
        smoothed: whether the map was that of the softplus network.
        predicted: classes with the largest logits (N,); None where the method does not return its logits.
        images: that were explained (N, C, H, W); an attack's next step changes them.
        maps: of them (N, H, W), each of sum 1.
    """

    pcc: float
    smoothed: bool
    predicted: Tensor | None
    images: Tensor | None = None
    maps: Tensor | None = None


class Watched:
    """Every attribute, and the class that `isinstance` sees, are those of the explainer inside.

    An attack asks what kind of method it is given (smoothed already, say), so that a wrapper with a class of
    its own would change the attack.

    Args:
        explainer: the one to act as.
        goal: the target maps (N, H, W); relevance of another shape is not looked at.
        told: called with each `Sight`.
    """

    def __init__(self, explainer: Explainer, goal: Tensor, told: Callable[[Sight], None]) -> None:
        """Nothing runs yet."""
        self._inside = explainer
        self._goal = goal
        self._told = told

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the explainer inside."""
        return type(self._inside)

    def __getattr__(self, name: str) -> Any:
        """An attribute of the explainer inside; its `with_logits` is watched too."""
        found = getattr(self._inside, name)
        return self._watched(found) if name == "with_logits" else found

    def __repr__(self) -> str:
        """That of the explainer inside."""
        return repr(self._inside)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """The relevance of the explainer inside."""
        relevance = self._inside(model, inputs, target)
        self._look(model, inputs, relevance, None)
        return relevance

    def _watched(self, with_logits: Callable[..., Any]) -> Callable[..., Any]:
        def both(model: nn.Module, inputs: Tensor, target: Target = None) -> Any:
            relevance, logits = with_logits(model, inputs, target)
            self._look(model, inputs, relevance, logits)
            return relevance, logits

        return both

    def _look(self, model: nn.Module, inputs: Tensor, relevance: object, logits: Tensor | None) -> None:
        # What is no relevance is refused by the attack itself, with a better message.
        if not isinstance(relevance, Tensor) or relevance.dim() != 4:
            return
        with torch.no_grad():
            maps = sum_normalize(relevance.detach().abs().sum(1))
            if maps.shape != self._goal.shape:
                return
            found = pearson(maps, self._goal.to(maps)).mean().item()
            predicted = None if logits is None else logits.detach().argmax(1)
        smoothed = isinstance(model, SmoothedModel)
        self._told(Sight(found, smoothed, predicted, inputs.detach(), maps))
