"""Equation 4 of Dombrowski et al. 2019, one value a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attacks.budget import Budget
from veridical.attacks.estimated import FOLDED
from veridical.attacks.settings import ManipulationSettings
from veridical.checks import check_logits, check_relevance
from veridical.smoothing import BetaSchedule, BetaSmoothed, NoiseAveraged, SmoothedModel
from veridical.tensors import sum_normalize
from veridical.values import Explainer, explainer_name

FIRST_ORDER = frozenset(
    {
        "lrp-z", "lrp-epsilon", "lrp-zplus", "lrp-alpha1-beta0", "lrp-alpha2-beta1", "lrp-alpha5-beta4",
        "lrp-cmp-alpha1", "lrp-cmp-alpha2", "deep-taylor", "excitation-backprop",
        "contrastive-excitation-backprop", "contrastive-lrp",
    }
)  # fmt: skip
"""The built-in methods that share relevance out by activations: on a ReLU network their maps change with the
image to first order, and they are attacked there. All others are attacked on softplus activations: either
their maps depend on the network through gates alone, whose derivative is zero, or (integrated gradients,
gradient x input, DeepLIFT, Grad-CAM) growth was measured to serve at least as well."""


_TOGETHER = 8


class NoDerivativeError(ValueError):
    """A method's map carries no derivative though one is needed."""


@dataclass(frozen=True)
class Problem:
    """What stays fixed while the images move.

    Args:
        model: the network to explain, unmodified.
        explainer: the method under attack.
        targets: the explained class of each pair (N,), that of the clean image throughout.
        target_map: maps aimed at (N, H, W), each sums to 1.
        logits: of the clean images on the unmodified network (N, K).
        settings: the choices.
        smooth: whether the optimization runs on softplus activations.
        budget: how far each image may move.
        folded: for an estimated gradient, the most pairs times directions in one call of the method.
    """

    model: nn.Module
    explainer: Explainer
    targets: Tensor
    target_map: Tensor
    logits: Tensor
    settings: ManipulationSettings
    smooth: bool
    budget: Budget = Budget()
    folded: int = FOLDED

    def beta(self, step: int) -> float:
        """The softplus beta of a step; infinite without smoothing."""
        if not self.smooth:
            return math.inf
        return BetaSchedule(*self.settings.beta, self.settings.steps)(step)

    def part(self, pairs: slice) -> Problem:
        """The problem of some of the pairs."""
        return replace(
            self,
            targets=self.targets[pairs],
            target_map=self.target_map[pairs],
            logits=self.logits[pairs],
            budget=self.budget.part(pairs),
        )

    def repeated(self, count: int) -> Problem:
        """The problem of a batch that holds this one `count` times."""
        return replace(
            self,
            targets=self.targets.repeat(count),
            target_map=self.target_map.repeat(count, 1, 1),
            logits=self.logits.repeat(count, 1),
        )

    def losses(self, images: Tensor, beta: float | Tensor) -> Tensor:
        """``F1 mean_pixels (h - ht)^2 + F2 mean_classes (g - g0)^2`` of each pair (N,)."""
        of_map, of_output = self.terms(images, beta)
        return of_map + of_output

    def terms(self, images: Tensor, beta: float | Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the loss, with their factors, of each pair (N,).

        Both are means, and h is normalized inside the loss. No pair's loss depends on another pair.
        """
        network = self.model if math.isinf(beta) else SmoothedModel(self.model, beta)
        maps, logits = self._map_and_logits(network, images)
        if images.requires_grad and not maps.requires_grad:
            # The term of the output has a gradient even then: the attack would run and change nothing.
            raise NoDerivativeError(
                f"expected the map of {explainer_name(self.explainer)} to change with the image to first "
                "order, got relevance without a derivative (no requires_grad); use a differentiable method, "
                "or gradient='estimated', which only calls it"
            )
        if logits is None:
            chosen = network if self.settings.output_network == "shared" else self.model
            logits = chosen(images)
        map_error = (maps - self.target_map).square().mean((1, 2))
        output_error = (self._output(logits) - self._output(self.logits)).square().mean(1)
        factor = self.settings.map_factor(maps[0].numel())
        return factor * map_error, self.settings.factors[1] * output_error

    def _map_and_logits(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The maps, and the logits where the method returns them from the same forward pass."""
        shared: Any = getattr(self.explainer, "with_logits", None)
        if shared is None or (self.smooth and self.settings.output_network == "unmodified"):
            return saliency_map(self.explainer, network, images, self.targets), None
        relevance, logits = shared(network, images, self.targets)
        return to_map(relevance, images, explainer_name(self.explainer)), logits

    def _output(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.settings.output == "probability" else logits


def saliency_map(explainer: Explainer, model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """``h = sum_channels |R|``, divided by its sum: (N, H, W), differentiable where the relevance is.

    Raises:
        ValueError: where the relevance does not have the shape of the images.
    """
    with torch.enable_grad():  # a callable may differentiate inside, also where no derivative is asked for
        relevance = explainer(model, images, target)
    return to_map(relevance, images, explainer_name(explainer))


def to_map(relevance: object, images: Tensor, name: str) -> Tensor:
    """Relevance (N, C, H, W) as non-negative maps (N, H, W) that sum to 1.

    Raises:
        TypeError: where the relevance is no floating point tensor.
        ValueError: where it does not have the shape of the images.
    """
    relevance = check_relevance(relevance, images, name, finite=False)
    return sum_normalize(relevance.abs().sum(1))


def needs_smoothing(explainer: Explainer) -> bool:
    """Whether the attack on this method runs on softplus activations.

    False for the methods in `FIRST_ORDER` and for those that run on softplus activations already; true for
    all others, a user's callable included, of whose derivative on a ReLU network nothing is known.
    """
    if isinstance(explainer, BetaSmoothed):
        return False
    if isinstance(explainer, NoiseAveraged):
        return needs_smoothing(explainer.explainer)
    return explainer_name(explainer) not in FIRST_ORDER


def unmodified_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) of the network as it is, without gradients.

    Raises:
        ValueError: where they are not finite or not 2-D.
    """
    with torch.no_grad():
        return check_logits(model(images.detach()), len(images))


def clean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """`unmodified_logits` of any number of images, a few at a time: how many fit is not known yet."""
    return torch.cat([unmodified_logits(model, some) for some in images.split(_TOGETHER)])
