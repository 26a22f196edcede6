"""From the relevance of every channel to one map per image, as the tests of explanations compare them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.checks import check_logits, check_relevance, evaluation_mode, resolve_target
from veridical.rules import frees_trace, record
from veridical.values import Explainer, Target, explainer_name

Reduction = Literal["sum", "max-abs", "sum-abs"]

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda relevance: relevance.sum(dim=1),
    "max-abs": lambda relevance: relevance.abs().amax(dim=1),
    "sum-abs": lambda relevance: relevance.abs().sum(dim=1),
}
"""Ways to make a map (N, H, W) of a relevance (N, C, H, W)."""

SLOPES = frozenset({"gradient", "guided-backprop", "deconvnet", "rectgrad", "smoothgrad"})
"""The gradient and its modifications."""


def is_slope(method: str | Explainer) -> bool:
    """Whether a method's values are slopes of the class's score, and not shares of it.

    The first of these that is there decides: what the method says by an attribute `slope` (True or False); an
    attribute `multiply_by_input` that is False, as of integrated gradients without the factor of the input;
    the method that it wraps, its attribute `explainer`; whether its name is in `SLOPES`.

    Args:
        method: built-in name, or a method.
    """
    if isinstance(method, str):
        return method in SLOPES
    said = getattr(method, "slope", None)
    if isinstance(said, bool):
        return said
    if getattr(method, "multiply_by_input", True) is False:
        return True
    inner = getattr(method, "explainer", None)
    return getattr(method, "name", "") in SLOPES if inner is None else is_slope(inner)


def default_reduction(method: str | Explainer) -> Reduction:
    """The channel reduction that the code of Sixt et al. 2020 uses for a method.

    Largest magnitude over the channels for gradient, guided-backprop, deconvnet, rectgrad and smoothgrad
    (their paper says the sum of magnitudes), the signed sum for every other method of theirs; here the
    largest magnitude for all slopes.

    Args:
        method: built-in name, or a method; see `is_slope`.

    Returns:
        A key of `REDUCTIONS`.
    """
    return "max-abs" if is_slope(method) else "sum"


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
    parts = []
    for rows in _batches(len(inputs), batch):
        images = inputs[rows].detach()
        found = method(model, images, target[rows])
        parts.append(check_relevance(found, images, explainer_name(method), finite=finite).detach())
    return parts[0] if len(parts) == 1 else torch.cat(parts)


Choice = Callable[[Tensor, slice], Sequence[Tensor]]
"""From logits (n, K) and the place of their images in the whole batch to T LongTensors (n,) of classes."""


def explained_each(
    model: nn.Module, inputs: Tensor, method: Explainer, choose: Choice, batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """Relevance for T classes of every image, from one forward pass where the method can share one.

    Methods with `from_trace` (the gradient, rule-based methods, Grad-CAM) need one forward pass for the
    logits and all classes together. Any other is called once for each class after a pass for the logits.

    Args:
        model: maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method.
        choose: the classes of a part of the images, by its logits.
        batch: images in one pass; None is all at once.

    Returns:
        Relevance (T, N, C, H, W), detached, and the classes, LongTensor (T, N).

    Raises:
        TypeError: if the method returns no floating point tensor.
        ValueError: as `explained`, and whatever `choose` raises.
    """
    relevance, classes = [], []
    for rows in _batches(len(inputs), batch):
        images = inputs[rows].detach()
        found, chosen = _answers(model, images, method, (choose, rows))
        relevance.append(
            torch.stack([check_relevance(one, images, explainer_name(method)).detach() for one in found])
        )
        classes.append(chosen)
    return torch.cat(relevance, dim=1), torch.cat(classes, dim=1)


def _answers(
    model: nn.Module, images: Tensor, method: Explainer, asked: tuple[Choice, slice]
) -> tuple[Iterable[Tensor], Tensor]:
    """The relevance for T classes of each image, and the classes (T, n).

    What one class gives does not depend, to the last bit, on the others.
    """
    choose, rows = asked
    from_trace = getattr(method, "from_trace", None)
    if from_trace is None:
        with torch.no_grad(), evaluation_mode(model):
            logits = check_logits(model(images.clone()), len(images))
        chosen = torch.stack(list(choose(logits, rows)))
        return (method(model, images, one) for one in chosen), chosen
    lean = frees_trace(method)
    trace = record(model, images, lean=lean)
    trace.apart = True
    chosen = torch.stack(list(choose(trace.logits.detach(), rows)))
    each = from_trace(trace, chosen) if lean else (from_trace(trace, one[None])[0] for one in chosen)
    return each, chosen


def target_of(logits: Tensor, target: Target, rows: slice, count: int) -> Tensor:
    """The explained classes of a part of `count` images, by the logits of the part.

    A tensor of targets is checked as a whole, so that a wrong one is found before the first map.

    Raises:
        TypeError: if the target is of another type.
        ValueError: if it has another shape or a class that does not exist.
    """
    if not isinstance(target, Tensor):
        return resolve_target(logits, target)
    return resolve_target(logits[:1].expand(count, -1), target)[rows]


def _batches(count: int, batch: int | None) -> list[slice]:
    """The parts of `count` images.

    Raises:
        ValueError: if the batch is not positive.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"expected a batch of at least one image, got {batch}; None means all at once")
    size = batch or count
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]
