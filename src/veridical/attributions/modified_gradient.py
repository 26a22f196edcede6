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
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.
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
            seed=self.seed, overrides=self.overrides,
        )  # fmt: skip


@dataclass(frozen=True)
class Deconvnet(RuleBased):
    """The gradient, with a rectification of the backward signal in the place of activations.

    Zeiler and Fergus 2014.
    R_in = [R]+ at activations, whatever the forward mask was; the gradient elsewhere.

    Args:
        seed: starting relevance of the class: 1, or the logit's value (Sixt 2020).
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.
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
            seed=self.seed, overrides=self.overrides,
        )  # fmt: skip
