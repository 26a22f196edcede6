"""From the relevance of every channel to one map per image, as the tests of explanations compare them."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.checks import check_relevance
from veridical.values import Explainer, explainer_name

Reduction = Literal["sum", "max-abs", "sum-abs"]

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda relevance: relevance.sum(dim=1),
    "max-abs": lambda relevance: relevance.abs().amax(dim=1),
    "sum-abs": lambda relevance: relevance.abs().sum(dim=1),
}
"""Ways to make a map (N, H, W) of a relevance (N, C, H, W)."""

_GRADIENT_FAMILY = frozenset({"gradient", "guided-backprop", "deconvnet", "rectgrad", "smoothgrad"})


def default_reduction(method: str | Explainer) -> Reduction:
    """The channel reduction that the code of Sixt et al. 2020 uses for a method.

    Largest magnitude over the channels for gradient, guided-backprop, deconvnet, rectgrad and smoothgrad
    (their paper says the sum of magnitudes), the signed sum for every other method.

    Args:
        method: built-in name, or a method whose `name` is looked up; a method without one gets the sum.

    Returns:
        A key of `REDUCTIONS`.
    """
    name = method if isinstance(method, str) else getattr(method, "name", "")
    return "max-abs" if name in _GRADIENT_FAMILY else "sum"


def reduce_channels(relevance: Tensor, reduction: str) -> Tensor:
    """One map for each image.

    Args:
        relevance: (N, C, H, W).
        reduction: `"sum"` (signed), `"max-abs"` or `"sum-abs"`.

    Returns:
        (N, H, W).

    Raises:
        ValueError: if the reduction is unknown.
    """
    check_reduction(reduction)
    return REDUCTIONS[reduction](relevance)


def check_reduction(reduction: str) -> None:
    """Check the name of a channel reduction.

    Raises:
        ValueError: if it is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"expected reduction {', '.join(REDUCTIONS)}, got {reduction!r}; choose one of them")


def explained(
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    target: Tensor,
    batch: int | None = None,
    *,
    finite: bool = True,
) -> Tensor:
    """Relevance (N, C, H, W) of all images, detached, `batch` images at a time (None: all at once).

    Raises:
        TypeError: if the method returns no floating point tensor.
        ValueError: if the batch is not positive, the method returns another shape than that of `inputs` or,
            with `finite`, NaN or infinity.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"expected a batch of at least one image, got {batch}; None means all at once")
    size = batch or len(inputs)
    parts = []
    for begin in range(0, len(inputs), size):
        images = inputs[begin : begin + size].detach()
        found = method(model, images, target[begin : begin + size])
        parts.append(check_relevance(found, images, explainer_name(method), finite=finite).detach())
    return torch.cat(parts)
