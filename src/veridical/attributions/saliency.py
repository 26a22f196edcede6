"""From relevance to a saliency map."""

from typing import Literal

from torch import Tensor

from veridical.tensors import sum_normalize

Reduction = Literal["sum-abs", "max-abs", "abs-sum"]
"""Over the channels: the sum of absolute values, their maximum, or the absolute value of the signed sum."""


def saliency(relevance: Tensor, reduction: Reduction = "sum-abs") -> Tensor:
    """Non-negative map of each image that sums to 1 (Dombrowski et al. 2019, sections 2.2 and 2.3).

    Args:
        relevance: signed, (N, C, H, W).
        reduction: over the channels; "sum-abs" is Dombrowski's, "max-abs" that of Sixt's code for
            the gradient family.

    Returns:
        (N, H, W); a relevance of zeros gives a map of zeros. Differentiable.

    Raises:
        ValueError: if the relevance is not 4-D, or the reduction unknown.
    """
    if relevance.dim() != 4:
        raise ValueError(f"expected relevance of shape (N, C, H, W), got {tuple(relevance.shape)}")
    if reduction == "sum-abs":
        reduced = relevance.abs().sum(1)
    elif reduction == "max-abs":
        reduced = relevance.abs().amax(1)
    elif reduction == "abs-sum":
        reduced = relevance.sum(1).abs()
    else:
        raise ValueError(f'expected reduction "sum-abs", "max-abs" or "abs-sum", got {reduction!r}')
    return sum_normalize(reduced)
