"""Layer-wise relevance propagation and deep Taylor decomposition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from veridical.attributions.rule_based import Overrides, RuleBased
from veridical.checks import check_choice
from veridical.rules import (
    AffineRule,
    Bias,
    Rule,
    RuleSet,
    Seed,
    affine_alpha_beta,
    affine_epsilon,
    affine_z,
    affine_z_box,
    gradient,
    pass_through,
    proportional,
    signed_sum,
)

_LRP: dict[str, Rule] = {
    "activation": pass_through,
    "max_pool": gradient,
    "average_pool": proportional,
    "structure": gradient,
    "scale": pass_through,
}
_LINEAR_KINDS = frozenset({"convolution", "linear", "batch_norm"})


@dataclass(frozen=True)
class ProportionalLRP(RuleBased):
    """LRP by the z rule, or by its stabilized form, the epsilon rule (Bach et al. 2015).

    R_in = x W^T (R / (z + epsilon sign(z))), z = W x + b: the bias absorbs its share. Sums and average
    pooling: in proportion to the values. Max pooling: winner takes all. Activations: passed through. Exact
    zeros in a denominator hand on nothing.

    Args:
        epsilon: 0 for lrp-z; Sixt 2020 used 1e-10 for its epsilon rule.
        seed: starting relevance of the class: its logit, or 1.
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.
    """

    epsilon: float = 0.0
    seed: Seed = "value"
    fold_batch_norm: bool = True
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check epsilon."""
        if not self.epsilon >= 0:
            raise ValueError(f"expected epsilon of 0 or more, got {self.epsilon}; try 1e-6")
        check_choice("seed", self.seed, get_args(Seed))

    @property
    def name(self) -> str:
        """lrp-epsilon, or lrp-z where epsilon is 0."""
        return "lrp-epsilon" if self.epsilon else "lrp-z"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        affine: AffineRule = affine_epsilon(self.epsilon) if self.epsilon else affine_z
        rules: Mapping[str, Rule] = {**_LRP, "sum": proportional, "shift": proportional}
        return RuleSet(
            self.name, affine, rules, _LINEAR_KINDS, seed=self.seed,
            fold_batch_norm=self.fold_batch_norm, overrides=self.overrides,
        )  # fmt: skip


@dataclass(frozen=True)
class AlphaBetaLRP(RuleBased):
    """LRP by the alpha-beta rule (Bach et al. 2015); z+ and deep Taylor decomposition are members.

    Positive products hand on alpha times the relevance, negative ones minus beta times. Residual sums
    likewise; average pooling in proportion to the values; max pooling: winner takes all; activations and
    constant shifts: passed through. Exact zeros in a denominator hand on nothing.

    Args:
        alpha: at least 1, with alpha - beta = 1.
        beta: at least 0.
        bias: how the bias enters the denominators. "none" is Dombrowski's code and the z+ of the papers,
            "whole" is Sixt's code, "signed" gives each sign of the bias to the denominator of its sign.
        first: "same" rule for the first layer, or "z-box", the z^B rule (deep-taylor).
        bounds: for "z-box", the lowest and highest value of an input; None takes each image's own minimum and
            maximum (Sixt's code took those of one example image; Dombrowski's the scalars -2.1179, 2.6400).
        seed: starting relevance of the class: its logit, or 1.
        clip_sums: cut the relevance of residual addends to [0, 1000] (Sixt's code; off by default, because it
            alone creates the non-negativity that makes the method converge).
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map (Sixt's code
            treats it as a layer of its own).
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.
        label: the method's name.
    """

    alpha: float = 1.0
    beta: float = 0.0
    bias: Bias = "signed"
    first: Literal["same", "z-box"] = "same"
    bounds: tuple[float, float] | None = None
    seed: Seed = "value"
    clip_sums: bool = False
    fold_batch_norm: bool = True
    overrides: Overrides = ()
    label: str = ""

    def __post_init__(self) -> None:
        """Check alpha, beta and the bounds."""
        if self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(
                f"expected alpha - beta = 1 with beta of 0 or more, got alpha {self.alpha}, beta {self.beta}"
            )
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"expected bounds (low, high) with low < high, got {self.bounds}")
        check_choice("bias", self.bias, get_args(Bias))
        check_choice("first", self.first, ("same", "z-box"))
        check_choice("seed", self.seed, get_args(Seed))

    @property
    def name(self) -> str:
        """The label, or lrp-alphaA-betaB."""
        return self.label or f"lrp-alpha{self.alpha:g}-beta{self.beta:g}"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        rules: Mapping[str, Rule] = {
            **_LRP,
            "sum": signed_sum(self.alpha, self.beta, self.clip_sums),
            "shift": pass_through,
        }
        return RuleSet(
            self.name, affine_alpha_beta(self.alpha, self.beta, self.bias), rules, _LINEAR_KINDS,
            first=affine_z_box if self.first == "z-box" else None, seed=self.seed,
            fold_batch_norm=self.fold_batch_norm, bounds=self.bounds, overrides=self.overrides,
        )  # fmt: skip
