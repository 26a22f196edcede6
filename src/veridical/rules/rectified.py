"""The rule of rectified gradients: a threshold on activation times relevance at every activation."""

from collections.abc import Sequence

from torch import Tensor

from veridical.rules.operations import Operation
from veridical.rules.ruleset import Rule


def rectified(percentile: float) -> Rule:
    """The gradient where activation times relevance exceeds its percentile, 0 elsewhere (Kim et al. 2019).

    Args:
        percentile: in [0, 100], of the scores of one image and one starting vector.
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        score = operation.output.detach() * relevance[0].detach()
        kept = score > _threshold(score, percentile)
        del score
        return operation.adjoint([relevance[0] * kept])

    rule.__doc__ = f"R_in = f'(x) R where y R > max(0, its {percentile:g}th percentile), else 0; y = f(x)."
    return rule


def _threshold(score: Tensor, percentile: float) -> Tensor | float:
    """The nearest rank of each (S, N) over all other entries, at least 0; shaped to compare with `score`.

    The largest value is rank 0. The 0th percentile is no threshold: what is positive passes.
    """
    if percentile == 0:
        return 0.0
    flat = score.flatten(2)
    count = flat.shape[2]
    rank = round((count - 1) * (1 - percentile / 100))
    if rank < count // 4:  # a few of the largest need less memory than an order of all
        chosen = flat.topk(rank + 1, dim=2, sorted=False).values.amin(2).clamp(min=0)
    else:
        chosen = flat.kthvalue(count - rank, dim=2).values.clamp(min=0)
    return chosen.reshape(*chosen.shape, *[1] * (score.dim() - 2))
