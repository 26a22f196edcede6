"""The rules of PatternNet and PatternAttribution: signal directions in the place of weights."""

from collections.abc import Mapping

from torch import Tensor

from veridical.rules.affine import Affine
from veridical.rules.ruleset import AffineRule, Application


def affine_pattern(
    active: Mapping[str, Tensor], inactive: Mapping[str, Tensor], *, weighted: bool
) -> AffineRule:
    """R_in = A^T R, or (W * A)^T R: each neuron hands relevance on along its pattern.

    A neuron with an entry in `inactive` uses that one where its output y, bias included, is not positive
    (Kindermans et al. 2018, the two-component estimator). Which of the two is used is a constant for
    derivatives.

    Args:
        active: the patterns A by operation name, each of the shape of the operation's weight.
        inactive: those of inactive neurons, for the operations that distinguish them.
        weighted: multiply each pattern by the weight, as PatternAttribution does.
    """

    def rule(at: Application, relevance: Tensor) -> Tensor:
        upper = _kernel(at.affine, active[at.name], weighted)
        if at.name not in inactive:
            return at.affine.adjoint(relevance, upper)
        lower = _kernel(at.affine, inactive[at.name], weighted)
        above = at.y > 0
        back = at.affine.adjoint(relevance.masked_fill(~above, 0), upper)
        return back + at.affine.adjoint(relevance.masked_fill(above, 0), lower)

    kernel = "(W * A)^T" if weighted else "A^T"
    rule.__doc__ = f"R_in = {kernel} R, A the pattern of each neuron, with w . a = 1."
    return rule


def _kernel(affine: Affine, pattern: Tensor, weighted: bool) -> Tensor:
    own = pattern.to(affine.weight)
    return affine.weight * own if weighted else own
