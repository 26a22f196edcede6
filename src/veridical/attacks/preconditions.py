"""What every attack asks before and in its first step, and the derivative that it follows."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from veridical.attacks.loss import needs_smoothing
from veridical.attacks.settings import ManipulationSettings
from veridical.checks import NO_DERIVATIVE
from veridical.smoothing import rectifications
from veridical.tensors import sum_normalize
from veridical.values import Explainer, explainer_name, is_differentiable


def gradient_of(loss: Tensor, images: Tensor, *, keep_graph: bool = False) -> Tensor:
    """The derivative of a number with respect to the images (N, C, H, W); zeros where there is none."""
    if not loss.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(loss, images, allow_unused=True, retain_graph=keep_graph)
    return torch.zeros_like(images) if gradient is None else gradient


def runs_smoothed(
    model: nn.Module, clean: Tensor, explainer: Explainer, settings: ManipulationSettings
) -> bool:
    """Whether to run on softplus activations; "auto" leaves networks without a ReLU as they are."""
    if settings.smoothing != "auto":
        return settings.smoothing == "growth"
    if settings.gradient == "estimated":  # differences see the kinks
        return False
    return needs_smoothing(explainer) and rectifications(model, clean) > 0


def check_gradient(explainer: Explainer, settings: ManipulationSettings) -> None:
    """Check that a method whose map is to be differentiated does not say that it cannot be.

    Raises:
        ValueError: if it does.
    """
    if settings.gradient == "exact" and not is_differentiable(explainer):
        raise ValueError(
            f"expected a differentiable method, got {explainer_name(explainer)}; {NO_DERIVATIVE}, or give "
            'gradient="estimated", which only calls it'
        )


def checked_map(target_map: Tensor, inputs: Tensor) -> Tensor:
    """The target maps (N, H, W) on the inputs' device and in their dtype, each scaled to sum 1.

    Raises:
        TypeError: where they are no tensor.
        ValueError: where they do not fit the inputs, are not finite, negative, or zeros only.
    """
    if not isinstance(target_map, Tensor):
        raise TypeError(f"expected target_map as a tensor (N, H, W), got {type(target_map).__name__}")
    expected = (inputs.shape[0], *inputs.shape[2:])
    if tuple(target_map.shape) != expected:
        raise ValueError(
            f"expected target_map of shape {expected}, got {tuple(target_map.shape)}; give each image one "
            "map of its own size"
        )
    goal = target_map.detach().to(inputs)
    if not bool(goal.isfinite().all()):
        raise ValueError(
            "expected a finite target_map, got NaN or infinity; look at where the map comes from"
        )
    if bool((goal < 0).any()):
        raise ValueError(
            f"expected a non-negative target_map, got a minimum of {goal.min().item():.3g}; "
            "take the absolute value"
        )
    if bool((goal.sum((1, 2)) == 0).any()):
        raise ValueError("expected a target_map with a positive sum, got one of zeros only; give another map")
    return sum_normalize(goal)


def check_within(clean: Tensor, limits: tuple[Tensor, Tensor] | None) -> None:
    """Check that images lie within the bounds: the clamp alone would move one that does not.

    Raises:
        ValueError: where one does not.
    """
    if limits is None:
        return
    slack = 1e-3 * (limits[1] - limits[0])
    if bool(((clean < limits[0] - slack) | (clean > limits[1] + slack)).any()):
        raise ValueError(
            f"expected inputs within the bounds, got values from {clean.min().item():.4g} to "
            f"{clean.max().item():.4g}; give the bounds in the units of the (normalized) inputs"
        )


def check_first(gradient: Tensor, still: Tensor, explainer: Explainer) -> None:
    """Say at once that an attack cannot work, rather than return the clean image after all steps.

    Where only some maps stand still, a warning names their images: the others can be attacked.

    Args:
        gradient: of the loss (N, C, H, W).
        still: bool (N,), where the map does not change with the image to first order.
        explainer: the method under attack.

    Raises:
        ValueError: where the gradient is not finite, or all maps stand still.
    """
    bad = (~gradient.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"expected a finite gradient of the loss, got NaN or infinity for image(s) {bad[:10]}; the "
            "method may divide by zero there, try another method or image"
        )
    unmoved = still.nonzero().flatten().tolist()
    if not unmoved:
        return
    expected = f"expected the map of {explainer_name(explainer)} to change with the image to first order"
    if len(unmoved) == len(still):
        raise ValueError(
            f"{expected}, got a gradient of exactly 0; use smoothing='growth' and a differentiable method, "
            "or gradient='estimated'"
        )
    warnings.warn(
        f"{expected}, got a gradient of exactly 0 for image(s) {unmoved[:10]}, whose maps cannot be "
        "attacked; leave them out of what is counted",
        stacklevel=2,
    )
