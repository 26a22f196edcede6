"""The methods that cut the backward signal at activations: guided backpropagation and deconvolution."""

from dataclasses import dataclass
from typing import get_args

from veridical.attributions.rule_based import EXACT, Overrides, RuleBased
from veridical.checks import check_choice
from veridical.rules import RuleSet, Seed, affine_gradient, deconvolved, guided


@dataclass(frozen=True)
class GuidedBackprop(RuleBased):
    """The gradient, with negative backward signals cut at every activation (Springenberg et al. 2015).

    R_in = [R]+ f'(x) at activations, the gradient elsewhere. On softplus activations the relevance is
    rectified by the same softplus, as in Dombrowski's code. On activations other than ReLU f' generalizes the
    mask; no paper defines it.

    Args:
        seed: starting relevance of the class: 1, or the logit's value (Dombrowski 2019, Sixt 2020).
        overrides: pairs of a function's name and "gradient" or "pass", in the place of the operation's rule.

    Source:
        Springenberg et al. 2015; Sixt et al. 2020, eq. 14; on softplus Dombrowski et al. 2019.

    Deviations:
        The code of Dombrowski and Sixt starts with the logit's value (`seed="value"`, both conventions): on a
        ReLU network that scales the map, and where the logit is negative it selects the opposite evidence.
        The mask of a ReLU at exactly 0 is torch's (0), in Dombrowski's code 1. A network without an
        activation is refused; the peers return the plain gradient there.

    Peers:
        Captum `GuidedBackprop` (float32 and float64) and Zennit's composite `GuidedBackprop`, on ReLU
        modules: equal to 1e-5 of the largest value. Both miss activations that are not modules of theirs.
    """

    seed: Seed = "one"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check the start."""
        check_choice("seed", self.seed, get_args(Seed))

    @property
    def name(self) -> str:
        """The method's name."""
        return "guided-backprop"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        return RuleSet(
            self.name, affine_gradient, {**EXACT, "activation": guided}, frozenset({"activation"}),
            seed=self.seed, overrides=self.overrides, lean=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Deconvnet(RuleBased):
    """The gradient, with a rectification of the backward signal in the place of activations.

    R_in = [R]+ at activations, whatever the forward mask was; the gradient elsewhere.

    Args:
        seed: starting relevance of the class: 1, or the logit's value (Sixt 2020).
        overrides: pairs of a function's name and "gradient" or "pass", in the place of the operation's rule.

    Source:
        Zeiler and Fergus 2014; Sixt et al. 2020, section 2.2.

    Deviations:
        Sixt's code starts with the logit's value (`seed="value"`, the convention): where the logit is
        negative, that selects the opposite evidence. On softplus activations the relevance is rectified by
        the same softplus, in analogy to Dombrowski's guided backpropagation; no paper defines it. A network
        without an activation is refused; the peers return the plain gradient there.

    Peers:
        Captum `Deconvolution` (float32 and float64) and Zennit's composite `DeconvNet`, on ReLU modules:
        equal to 1e-5 of the largest value. Both miss activations that are not modules of theirs.
    """

    seed: Seed = "one"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check the start."""
        check_choice("seed", self.seed, get_args(Seed))

    @property
    def name(self) -> str:
        """The method's name."""
        return "deconvnet"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        return RuleSet(
            self.name, affine_gradient, {**EXACT, "activation": deconvolved}, frozenset({"activation"}),
            seed=self.seed, overrides=self.overrides, lean=True,
        )  # fmt: skip
