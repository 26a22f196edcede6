"""Rectified gradients."""

from dataclasses import dataclass
from typing import get_args

from veridical.attributions.rule_based import EXACT, Overrides, RuleBased
from veridical.checks import check_choice
from veridical.rules import RuleSet, Seed, affine_gradient, rectified


@dataclass(frozen=True)
class RectGrad(RuleBased):
    """The gradient, cut at every activation where activation times signal is not among the largest.

    At an activation y = f(x) with signal R the score of an entry is s = y R. The threshold is the q-th
    percentile of the scores of all entries (channels and locations) of one image, the nearest rank without
    interpolation, and at least 0. R_in = f'(x) R where s exceeds the threshold, else 0. Elsewhere the
    gradient. The larger q, the fewer paths remain: at q = 98 at most 2 % of the entries of each activation.
    With q = 0 the threshold is 0, which on networks of ReLU or ReLU6 is guided backpropagation, exactly. On
    activations that take negative values (leaky ReLU, GELU, SiLU) a negative signal passes where the
    activation is negative too: the score asks for a positive contribution, not for a positive signal; no
    paper goes there. Which entries are kept is a constant where the relevance is differentiated.

    Args:
        percentile: q, in [0, 100].
        seed: starting relevance of the class: 1, or the logit's value (Sixt 2020).
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Kim et al. 2019, section 4 (the rule; guided backpropagation as the threshold 0); Sixt et al. 2020 ran
        it with q = 98.

    Deviations:
        The authors' code lets the threshold be negative where more than q % of the scores are; ours cuts it
        at 0, so that an entry that speaks against the class never passes and q = 0 is their special case. At
        q = 98 the two are the same wherever at least 2 % of the scores are 0 or positive. Sixt 2020 describes
        a threshold on the gradient; their code has activation times gradient. Convention "sixt2020" starts
        with the logit's value.

    Peers:
        None known that is maintained. With q = 0 Captum (GuidedBackprop) to 1e-5.
    """

    percentile: float = 98.0
    seed: Seed = "one"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check the percentile and the start."""
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"expected a percentile in 0..100, got {self.percentile}; Kim et al. use 98")
        check_choice("seed", self.seed, get_args(Seed))

    @property
    def name(self) -> str:
        """The method's name."""
        return "rectgrad"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        return RuleSet(
            self.name, affine_gradient, {**EXACT, "activation": rectified(self.percentile)},
            frozenset({"activation"}), seed=self.seed, overrides=self.overrides, lean=True,
        )  # fmt: skip
