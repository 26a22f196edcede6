"""Layer-wise relevance propagation and deep Taylor decomposition."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from veridical.attributions.rule_based import Overrides, RuleBased
from veridical.checks import check_choice
from veridical.rules import (
    AffineRule,
    Bias,
    Gates,
    Rule,
    RuleSet,
    Seed,
    affine_alpha_beta,
    affine_epsilon,
    affine_flat,
    affine_products,
    affine_w_square,
    affine_z,
    affine_z_box,
    gradient,
    pass_through,
    proportional,
    proportional_bilinear,
    signed_bilinear,
    signed_sum,
)

_LRP: dict[str, Rule] = {
    "activation": pass_through,
    "max_pool": gradient,
    "average_pool": proportional,
    "structure": gradient,
    "scale": pass_through,
}
_CHANGED = frozenset(("convolution", "linear", "batch_norm", "product", "matmul", "softmax", "normalization"))

First = Literal["same", "z-box", "w-square", "flat"]
"""The rule of affine operations that see the image: that of the other layers; the z^B rule for inputs with
bounds; or one that does not look at the input, in proportion to W^2 or the same for each input of a unit."""

Bounds = tuple[float, float] | None

Absorbed = Literal["none", "whole"]
"""Whether a bias absorbs relevance under the z and epsilon rules: it is in no denominator, or in all."""

_FIRST: Mapping[First, AffineRule | None] = {
    "same": None, "z-box": affine_z_box, "w-square": affine_w_square, "flat": affine_flat,
}  # fmt: skip
_ANY_RANGE = (0.0, 1.0)  # w^2 and flat only ask which inputs have a range at all: padding has none


def check_first(first: str, bounds: Bounds) -> None:
    """Check the options of the first layer.

    Raises:
        ValueError: if the rule is unknown, or the bounds are in disorder or belong to no z^B rule.
    """
    check_choice("first", first, get_args(First))
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"expected bounds (low, high) with low < high, got {bounds}")
    if bounds is not None and first != "z-box":
        raise ValueError(f'expected bounds with first "z-box" only, got {bounds} with first "{first}"')


def with_first(rules: RuleSet, first: First, bounds: Bounds) -> RuleSet:
    """The same rules with another rule for the first layer."""
    if first == "same":
        return rules
    return replace(rules, first=_FIRST[first], bounds=bounds if first == "z-box" else _ANY_RANGE)


@dataclass(frozen=True)
class ProportionalLRP(RuleBased):
    """LRP by the z rule, or by its stabilized form, the epsilon rule.

    R_in = x W^T (R / (z + epsilon sign(z))), z = W x + b, sign(0) = 1: the bias is an input that absorbs its
    share. Residual sums, constant shifts and average pooling: in proportion to the values. Max pooling:
    winner takes all. Activations and constant factors: passed through. BatchNorm: folded into the layer
    before it, or under the same rule. LayerNorm: the same rule for the linear map that is left when its
    standard deviation counts as a constant. Products: all to the operand that is no gate, in matrix products
    by the same rule. The relevance starts with the class's logit. Exact zeros in a denominator hand on
    nothing. On networks of affine maps, ReLU and max pooling lrp-z equals the gradient times the input. Where
    values are multiplied it does not: the gradient follows both operands of a product, each for the whole,
    and would count the relevance twice.

    Args:
        epsilon: 0 for lrp-z; Sixt 2020 used 1e-10 for its epsilon rule.
        bias: "whole", the bias is an input that absorbs its share, or "none", the denominators are z = W x
            (Sixt 2020, eq. 7 as printed) and constant shifts pass the relevance on: then lrp-z is not the
            gradient times the input, and where W x and W x + b differ in sign so do their shares.
        first: the rule of the first layer: "same", "z-box", "w-square" or "flat".
        bounds: for "z-box", the lowest and highest value of an input; None takes each image's own.
        seed: starting relevance of the class: its logit, or 1.
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map.
        gates: who receives the relevance of a product with a gate, that is with a softmax or sigmoid:
            "constant", the other operand alone; "uniform", both in equal parts.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Bach et al. 2015, eqs. 56 and 58; Sixt et al. 2020, eq. 7; for the first layer Montavon et al. 2017,
        section 4 (z^B, w^2) and Lapuschkin et al. 2019 (flat). Gates and LayerNorm: Ali et al. 2022, section
        4, and Arras et al. 2017 ("constant"); Achtibat et al. 2024, section 3 ("uniform").

    Deviations:
        The default of `gates` is "constant": without biases the relevance of a vision transformer then sums
        to its logit to rounding, where "uniform" keeps 30 % to 81 % of it, because a softmax of zeros is not
        zero. LayerNorm is linear in both, its mean's subtraction and its bias included, whatever `bias` says,
        where Achtibat et al. pass the relevance on unchanged. Sixt's eq. 7 has no bias (`bias` "none"); their
        code and our default have it. Their code puts
        1e-7 in the place of an exact zero, and treats BatchNorm as a layer of its own; convention "sixt2020"
        does the latter.

    Peers:
        Zennit (Epsilon, Norm for pooling; WSquare and ZBox before it) and Captum (EpsilonRule) to 1e-5, for
        epsilon from 0 to 0.25.
    """

    epsilon: float = 0.0
    bias: Absorbed = "whole"
    first: First = "same"
    bounds: Bounds = None
    seed: Seed = "value"
    fold_batch_norm: bool = True
    gates: Gates = "constant"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check epsilon and the first layer."""
        if not self.epsilon >= 0:
            raise ValueError(f"expected epsilon of 0 or more, got {self.epsilon}; try 1e-6")
        check_choice("bias", self.bias, get_args(Absorbed))
        check_first(self.first, self.bounds)
        check_choice("seed", self.seed, get_args(Seed))
        check_choice("gates", self.gates, get_args(Gates))

    @property
    def name(self) -> str:
        """lrp-epsilon, or lrp-z where epsilon is 0."""
        return "lrp-epsilon" if self.epsilon else "lrp-z"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        affine: AffineRule = affine_epsilon(self.epsilon) if self.epsilon else affine_z
        if self.bias == "none":
            affine = affine_products(self.epsilon)
        rules: Mapping[str, Rule] = {
            **_LRP,
            **proportional_bilinear(self.gates, self.epsilon),
            "sum": proportional,
            "shift": proportional if self.bias == "whole" else pass_through,
        }
        complete = RuleSet(
            self.name, affine, rules, _CHANGED, seed=self.seed,
            fold_batch_norm=self.fold_batch_norm, overrides=self.overrides, lean=True,
        )  # fmt: skip
        return with_first(complete, self.first, self.bounds)


@dataclass(frozen=True)
class AlphaBetaLRP(RuleBased):
    """LRP by the alpha-beta rule; z+, excitation backprop and deep Taylor decomposition are members.

    Positive products hand on alpha times the relevance, negative ones minus beta times: R_in = alpha Z+ R -
    beta Z- R with Z+ R = x+ W+^T S + x- W-^T S, S = R / (W+ x+ + W- x- + bias), and Z- likewise with the
    products of the other sign. Residual sums: the same rule for the addends. Average pooling: in proportion
    to the values. Max pooling: winner takes all. Activations, constant shifts and factors: passed through,
    without the ReLU's mask. BatchNorm: folded into the layer before it, or a layer of its own under the same
    rule. LayerNorm: passed through. Products: all to the operand that is no gate, in matrix products by the
    same rule. The relevance starts with the class's logit (excitation-backprop: with 1), and the layer at the
    logits has the rule of the others. Exact zeros in a denominator hand on nothing.

    Args:
        alpha: at least 1, with alpha - beta = 1.
        beta: at least 0.
        bias: how the bias enters the denominators. "none" is Dombrowski's code and the z+ of the papers,
            "whole" is Sixt's code, "signed" gives each sign of the bias to the denominator of its sign.
        first: the rule of the first layer: "same", "z-box" (deep-taylor), "w-square" or "flat".
        bounds: for "z-box", the lowest and highest value of an input; None takes each image's own minimum and
            maximum (Sixt's code took those of one example image; Dombrowski's the scalars -2.1179, 2.6400).
        seed: starting relevance of the class: its logit, or 1.
        clip_sums: cut the relevance of residual addends to [0, 1000] (Sixt's code; off by default, because it
            alone creates the non-negativity that makes the method converge).
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map (Sixt's code
            treats it as a layer of its own).
        gates: who receives the relevance of a product with a gate, that is with a softmax or sigmoid:
            "constant", the other operand alone; "uniform", both in equal parts.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.
        label: the method's name.

    Source:
        Bach et al. 2015, eq. 60; z+: Montavon et al. 2017, section 4, and Sixt et al. 2020, eq. 5; excitation
        backprop: Zhang et al. 2018, which Sixt 2020, section 2.1 counts among the z+ methods; first layer:
        Montavon et al. 2017 (z^B, w^2), Lapuschkin et al. 2019 (flat). Gates: Ali et al. 2022, section 4, and
        Arras et al. 2017 ("constant"); Achtibat et al. 2024, section 3 ("uniform", and LayerNorm).

    Deviations:
        The default of `gates` is "constant", because the Taylor rule of the softmax hands out relevance of
        both signs, and z+ is to stay positive. LayerNorm passes relevance on, because subtracting a mean
        gives every value a product of the sign opposite to its own; averages and normalization layers are no
        evidence for or against. Convention "sixt2020" puts the whole bias into both denominators, clips the
        relevance of residual addends and does not fold BatchNorm; "dombrowski2019" leaves the bias out. Of
        deep-taylor "sixt2020" sets the bias alone; the library that they ran takes average pooling and sums
        as gradients there and lets BatchNorm pass. Zhang et al. assume activations of 0 or more: W+ x alone
        carries the signal. Where x is negative (the image, leaky activations) ours adds the products W- x-,
        which are positive evidence too. Their own code lets BatchNorm pass the signal unchanged and sends all
        of a residual sum into the branch; ours folds BatchNorm and divides a sum among its positive addends.
        Pooling is the same: average in proportion to the values, maximum to the winner. They look at an inner
        layer's map, summed over the channels; ours goes on to the image.

    Peers:
        Zennit (AlphaBeta for (1, 0), (1.5, 0.5), (2, 1), (5, 4), ZPlus, ZBox, WSquare, Flat, and the
        composite ExcitationBackprop without bias) to 1e-5 with its stabilizer at 1e-12; its WSquare counts
        the squared bias as an input unless told not to. Captum (Alpha1_Beta0_Rule) to 1e-5 on images without
        negative values.
    """

    alpha: float = 1.0
    beta: float = 0.0
    bias: Bias = "signed"
    first: First = "same"
    bounds: Bounds = None
    seed: Seed = "value"
    clip_sums: bool = False
    fold_batch_norm: bool = True
    gates: Gates = "constant"
    overrides: Overrides = ()
    label: str = ""

    def __post_init__(self) -> None:
        """Check alpha, beta and the bounds."""
        if self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(
                f"expected alpha - beta = 1 with beta of 0 or more, got alpha {self.alpha}, beta {self.beta}"
            )
        check_choice("bias", self.bias, get_args(Bias))
        check_first(self.first, self.bounds)
        check_choice("seed", self.seed, get_args(Seed))
        check_choice("gates", self.gates, get_args(Gates))

    @property
    def name(self) -> str:
        """The label, or lrp-alphaA-betaB."""
        return self.label or f"lrp-alpha{self.alpha:g}-beta{self.beta:g}"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        rules: Mapping[str, Rule] = {
            **_LRP,
            **signed_bilinear(self.gates, self.alpha, self.beta),
            "sum": signed_sum(self.alpha, self.beta, self.clip_sums),
            "shift": pass_through,
        }
        complete = RuleSet(
            self.name, affine_alpha_beta(self.alpha, self.beta, self.bias), rules, _CHANGED,
            seed=self.seed, fold_batch_norm=self.fold_batch_norm, overrides=self.overrides, lean=True,
        )  # fmt: skip
        return with_first(complete, self.first, self.bounds)


@dataclass(frozen=True)
class CompositeLRP(RuleBased):
    """LRP-CMP: the epsilon rule in dense layers, the alpha-beta rule in all other layers.

    Linear layers: R_in = x W^T (R / (z + epsilon sign(z))), z = W x + b, sign(0) = 1. Convolutions and
    BatchNorm: R_in = alpha Z+ R - (alpha - 1) Z- R, as in `AlphaBetaLRP`; residual sums likewise. Average
    pooling: in proportion to the values. Max pooling: winner takes all. Activations, constant shifts and
    factors: passed through. Products, attention and LayerNorm: as in `AlphaBetaLRP`. The first layer has no
    rule of its own unless asked for. The relevance starts with the class's logit. A classifier that is a 1 x
    1 convolution is no dense layer; linear layers that work on tokens are.

    Args:
        alpha: of the alpha-beta rule, at least 1; beta is alpha - 1.
        epsilon: of the dense layers, above 0.
        bias: how the bias enters the denominators of the alpha-beta rule: "none", "signed" or "whole".
        first: the rule of the first layer: "same", "z-box", "w-square" or "flat"; it wins over dense.
        bounds: for "z-box", the lowest and highest value of an input; None takes each image's own.
        seed: starting relevance of the class: its logit, or 1.
        clip_sums: cut the relevance of residual addends to [0, 1000], as Sixt's code does.
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map.
        gates: who receives the relevance of a product with a gate, that is with a softmax or sigmoid:
            "constant", the other operand alone; "uniform", both in equal parts.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Kohlbrenner et al. 2019; Lapuschkin et al. 2017; Sixt et al. 2020, section 5, with alpha 1 and 2.

    Deviations:
        Sixt 2020 writes LRP-z for the dense layers; their code has epsilon 1e-10, which is our default too.
        Convention "sixt2020" puts the whole bias into both denominators of the alpha-beta rule, clips the
        relevance of residual addends and does not fold BatchNorm.

    Peers:
        Zennit (EpsilonPlus, EpsilonAlpha2Beta1, EpsilonPlusFlat, EpsilonAlpha2Beta1Flat) to 1e-5 with its
        stabilizer at 1e-12; Captum (Alpha1_Beta0_Rule below EpsilonRule) to 1e-5 without bias, on images
        without negative values.
    """

    alpha: float = 1.0
    epsilon: float = 1e-10
    bias: Bias = "signed"
    first: First = "same"
    bounds: Bounds = None
    seed: Seed = "value"
    clip_sums: bool = False
    fold_batch_norm: bool = True
    gates: Gates = "constant"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check alpha, epsilon and the first layer."""
        if not self.alpha >= 1:
            raise ValueError(f"expected alpha of at least 1, got {self.alpha}; beta is alpha - 1")
        if not self.epsilon > 0:
            raise ValueError(f"expected epsilon above 0, got {self.epsilon}; 1e-10 is numerically the z rule")
        check_choice("bias", self.bias, get_args(Bias))
        check_first(self.first, self.bounds)
        check_choice("seed", self.seed, get_args(Seed))
        check_choice("gates", self.gates, get_args(Gates))

    @property
    def name(self) -> str:
        """lrp-cmp-alphaA."""
        return f"lrp-cmp-alpha{self.alpha:g}"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules: those of `AlphaBetaLRP` with another one for dense layers."""
        alpha_beta = AlphaBetaLRP(
            alpha=self.alpha, beta=self.alpha - 1, bias=self.bias, first=self.first, bounds=self.bounds,
            seed=self.seed, clip_sums=self.clip_sums, fold_batch_norm=self.fold_batch_norm, gates=self.gates,
            overrides=self.overrides, label=self.name,
        )  # fmt: skip
        return replace(alpha_beta.rules, dense=affine_epsilon(self.epsilon))
