"""Contrastive relevance: what speaks for a class, less what speaks for the others."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from veridical.attributions.relevance import AlphaBetaLRP, Bounds, First, check_first
from veridical.attributions.rule_based import Overrides, RuleBased
from veridical.checks import check_choice
from veridical.rules import Gates, RuleSet, Trace, affine_contrast, class_start, propagate
from veridical.tensors import safe_divide

Rest = Literal["logits", "magnitudes", "uniform"]
"""Where the other classes' relevance starts: their logits, these logits' absolute values, or 1 each."""

Rectify = Literal["none", "class", "difference"]
"""What is cut to its positive part: nothing, the class's own map, or the difference of the two maps."""


@dataclass(frozen=True)
class ContrastiveExcitationBackprop(RuleBased):
    """Excitation backprop with a contrast in the last layer: what excites the class less what inhibits it.

    The affine operation nearest the logits: R_in = (Z+ - N+) m_k, where m_k is 1 at the class, Z+ the z+
    share without bias, and N+ the z+ share of the same layer with weights -W. Every other layer, residual
    sums, BatchNorm, pooling, bias and the first layer: as in excitation-backprop (`AlphaBetaLRP` with bias
    "none"), so that the two shares travel through one chain. The relevance starts with 1 and sums to 0
    wherever no denominator vanishes: each share hands on a whole.

    Args:
        first: the rule of the first layer: "same", "z-box", "w-square" or "flat".
        bounds: for "z-box", the lowest and highest value of an input; None takes each image's own.
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map.
        gates: who receives the relevance of a product with a gate, that is with a softmax or sigmoid:
            "constant", the other operand alone; "uniform", both in equal parts.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Zhang et al. 2018; Sixt et al. 2020, section 5, eq. 16.

    Deviations:
        Zhang et al. cut the difference of the two signals to its positive part where they look at it; ours
        stays signed (`relevance.clamp(min=0)` gives theirs). Their code subtracts at a layer of choice below
        the last; the rules between are linear in the signal, so that the place does not matter. Treatment of
        negative activations, BatchNorm and residual sums: see excitation-backprop. Sixt et al. describe the
        method and have no code for it; there is no "sixt2020" convention.

    Peers:
        Zennit has no contrastive method; the difference of two runs of its ExcitationBackprop without bias,
        the second with the last layer's weights negated, agrees to 1e-5 with its stabilizer at 1e-12.
    """

    first: First = "same"
    bounds: Bounds = None
    fold_batch_norm: bool = True
    gates: Gates = "constant"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check the first layer."""
        check_first(self.first, self.bounds)
        check_choice("gates", self.gates, get_args(Gates))

    @property
    def name(self) -> str:
        """The method's name."""
        return "contrastive-excitation-backprop"

    @property
    def rules(self) -> RuleSet:
        """The rules of excitation backprop, with the contrast in the last layer."""
        plain = AlphaBetaLRP(
            bias="none", first=self.first, bounds=self.bounds, seed="one",
            fold_batch_norm=self.fold_batch_norm, gates=self.gates, overrides=self.overrides,
            label=self.name,
        )  # fmt: skip
        return replace(plain.rules, last=affine_contrast)


@dataclass(frozen=True)
class ContrastiveLRP(RuleBased):
    """The z+ map of the class less the z+ map of all other classes, each divided by its sum.

    R = n(r | y m_k) - n(r | y (1 - m_k)): r is the map of lrp-zplus for a starting relevance, y the logits,
    m_k is 1 at the class and 0 elsewhere, n divides an image's map by its sum (a sum of exactly 0 gives a map
    of zeros). Both starting vectors go through one backward pass. Residual sums, BatchNorm, pooling, bias (in
    no denominator) and the first layer: as in lrp-zplus (`AlphaBetaLRP` with bias "none"). `rules` are those
    z+ rules, so that layerwise tests such as the cosine convergence look at the chain that both maps share;
    the difference is taken at the image only.

    Args:
        rectify: "none", or what is cut to its positive part: the own map of the "class" (eq. 15 as printed),
            or the "difference" (Gu et al.). "none" is the default because every other method here is signed,
            and so is the comparison that Sixt et al. show (fig. 1e).
        rest: where the other classes start: the "magnitudes" of their logits (Gu et al.'s code), "uniform", 1
            each (Gu et al.'s text), or their "logits" (Sixt et al.). Logits of both signs cancel in the sum
            that n divides by: where all logits of an image sum to 0, as a trained network's nearly do,
            "logits" gives every class the same map up to a factor, (sum of y_j z_j) / y_k with z_j the z+
            map of class j. On a trained ResNet-20 that is what happens, hence the default.
        first: the rule of the first layer: "same", "z-box", "w-square" or "flat".
        bounds: for "z-box", the lowest and highest value of an input; None takes each image's own.
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map.
        gates: who receives the relevance of a product with a gate, that is with a softmax or sigmoid:
            "constant", the other operand alone; "uniform", both in equal parts.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Gu et al. 2018 (CLRP, with the other classes as the contrast); Sixt et al. 2020, eq. 15 and fig. 1e.

    Deviations:
        Eq. 15 as printed has the maximum with 0 around the first map alone. Under the z+ rule that map has
        negative values only below an average pooling of negative values; without one, "none" and "class" are
        the same. Gu et al. take the maximum around the difference. They give each other class an equal part
        of the class's score, their code its logit's absolute value; it has the z^B rule in the first layer
        (`first` "z-box", bounds -2.1179 and 2.6400). Their second form, the class's own weights negated, is
        the contrast of contrastive-excitation-backprop. Sixt et al. have no code for the method; the
        "sixt2020" convention is their eq. 15 as printed: `rectify` "class", `rest` "logits". On a chain of
        layers that converges both maps become one, and their difference what is left of it: with 8 dense
        layers of non-negative weights about 1e-6 of the map, below the resolution of float32 with a few more.

    Peers:
        Zennit has no contrastive method; the same difference of two runs of its ZPlus rule agrees to 1e-5
        with its stabilizer at 1e-12.
    """

    rectify: Rectify = "none"
    rest: Rest = "magnitudes"
    first: First = "same"
    bounds: Bounds = None
    fold_batch_norm: bool = True
    gates: Gates = "constant"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("rectify", self.rectify, get_args(Rectify))
        check_choice("rest", self.rest, get_args(Rest))
        check_first(self.first, self.bounds)
        check_choice("gates", self.gates, get_args(Gates))

    @property
    def name(self) -> str:
        """The method's name."""
        return "contrastive-lrp"

    @property
    def rules(self) -> RuleSet:
        """The z+ rules that both maps of the difference share."""
        return AlphaBetaLRP(
            bias="none", first=self.first, bounds=self.bounds, fold_batch_norm=self.fold_batch_norm,
            gates=self.gates, overrides=self.overrides, label=self.name,
        ).rules  # fmt: skip

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """Relevance (T, N, C, H, W) for LongTensor targets (T, N), from a pass that others may share."""
        starts = torch.cat([class_start(trace, targets, "value"), self._others(trace, targets)])
        maps = propagate(trace, self.rules, starts).inputs
        normalized = safe_divide(maps, maps.sum(dim=(2, 3, 4), keepdim=True))
        own, contrast = normalized[: len(targets)], normalized[len(targets) :]
        difference = (own.clamp(min=0) if self.rectify == "class" else own) - contrast
        return difference.clamp(min=0) if self.rectify == "difference" else difference

    def _others(self, trace: Trace, targets: Tensor) -> Tensor:
        """The starting relevance (T, N, K) of all classes but the targets (T, N)."""
        others = 1 - class_start(trace, targets, "one")
        if self.rest == "uniform":
            return others
        logits = trace.logits if trace.differentiable else trace.logits.detach()
        return others * (logits.abs() if self.rest == "magnitudes" else logits)
