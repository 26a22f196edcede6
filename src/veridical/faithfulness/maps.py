"""From the relevance of every channel to one map per image, as the tests of explanations compare them."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.values import Explainer

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


def check_method(method: object) -> None:
    """Check that a method can be called.

    Raises:
        TypeError: if it is a name or anything else that is no callable.
    """
    if not callable(method):
        raise TypeError(
            f"expected an explanation method that can be called, got {method!r}; "
            "make a built-in one with veridical.method(name)"
        )


def explained(
    model: nn.Module, inputs: Tensor, method: Explainer, target: Tensor, batch: int | None = None
) -> Tensor:
    """Relevance (N, C, H, W) of all images, detached, `batch` images at a time (None: all at once).

    Raises:
        ValueError: if the batch is not positive, or the method returns another shape than that of `inputs`.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"expected a batch of at least one image, got {batch}; None means all at once")
    size = batch or len(inputs)
    parts = [
        method(model, inputs[begin : begin + size].detach(), target[begin : begin + size]).detach()
        for begin in range(0, len(inputs), size)
    ]
    relevance = torch.cat(parts)
    if relevance.shape != inputs.shape:
        raise ValueError(
            f"expected a relevance of the shape of the inputs {tuple(inputs.shape)}, "
            f"got {tuple(relevance.shape)}; return one value for each input value"
        )
    return relevance
