"""The way down of the loss: the gradient that the optimization follows, exact or estimated from calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from veridical.attacks.estimated import GradientEstimate
from veridical.attacks.loss import Problem
from veridical.attacks.preconditions import gradient_of


class Slope(NamedTuple):
    """One step's look at the loss.

    Args:
        losses: of each pair (N,).
        gradient: of each (N, C, H, W).
        still: pairs whose map does not change with the image though it is not the target map, bool (N,).
    """

    losses: Tensor
    gradient: Tensor
    still: Tensor


SlopeFunction = Callable[[Problem, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""`slope`, or what stands for it."""


def slope(problem: Problem, images: Tensor, span: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The loss of each pair (N,) and its gradient (N, C, H, W).

    Args:
        problem: of these pairs.
        images: (N, C, H, W), with `requires_grad`.
        span: the range of the input; see `ManipulationSettings.span`.
        step: of the optimization.
    """
    if problem.settings.gradient == "estimated":
        return _estimated(problem, images, span, step)[:2]
    with torch.enable_grad():
        losses = problem.losses(images, problem.beta(step))
        # grad, not backward: the parameters of the model must not collect gradients.
        return losses.detach(), gradient_of(losses.sum(), images)


def first_slope(problem: Problem, images: Tensor, span: Tensor) -> Slope:
    """`slope` at step 0, and which maps stand still; it costs one more backward pass.

    The gradient of the whole loss does not tell: while beta grows the output is not that of the clean image,
    so that its term has a gradient of its own.
    """
    if problem.settings.gradient == "estimated":
        return _estimated(problem, images, span, 0)
    with torch.enable_grad():
        of_map, of_output = problem.terms(images, problem.beta(0))
        # In this order the larger graph, that of the map, is freed as its gradient is taken.
        rest = gradient_of(of_output.sum(), images, keep_graph=True)
        way = gradient_of(of_map.sum(), images)
    still = (way == 0).flatten(1).all(1) & (of_map > 0)
    return Slope((of_map + of_output).detach(), way + rest, still)


def estimate_for(problem: Problem) -> GradientEstimate:
    """How the gradient of this problem is estimated."""
    settings = problem.settings
    return GradientEstimate(settings.directions, settings.radius, settings.seed, problem.folded)


def _estimated(problem: Problem, images: Tensor, span: Tensor, step: int) -> Slope:
    beta, seen = problem.beta(step), []

    def losses(moved: Tensor, count: int) -> Tensor:
        of_map, of_output = problem.repeated(count).terms(moved, beta)
        seen.append(of_map.reshape(count, -1))
        return of_map + of_output

    gradient, level = estimate_for(problem)(losses, images.detach(), span, step)
    levels = torch.cat(seen)
    return Slope(level, gradient, (levels == levels[0]).all(0) & (levels[0] > 0))
