"""Change an image invisibly so that its saliency map becomes another one, while the output stays.

Equation 4 of Dombrowski et al. 2019, "Explanations can be manipulated and geometry is to blame".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from veridical.attacks.loss import Problem, needs_smoothing, saliency_map, unmodified_logits
from veridical.attacks.outcome import (
    Evaluation,
    Manipulation,
    MapSimilarity,
    compare,
    image_change,
    output_change,
)
from veridical.attacks.settings import ManipulationSettings
from veridical.checks import check_differentiable, check_inputs, evaluation_mode, resolve_target
from veridical.metrics import pearson
from veridical.smoothing import rectifications
from veridical.tensors import per_sample, sum_normalize
from veridical.values import Explainer, Target, explainer_name

Callback = Callable[[int, Tensor], None]
"""Called after every step with the number of steps done and the loss of each pair (N,)."""

_DEFAULT = ManipulationSettings()


def manipulate(  # noqa: PLR0913 - each of these names a different thing; the choices are in `settings`
    model: nn.Module,
    inputs: Tensor,
    target_map: Tensor,
    *,
    explainer: Explainer,
    target: Target = None,
    settings: ManipulationSettings = _DEFAULT,
    callback: Callback | None = None,
) -> Manipulation:
    """Optimize every image of a batch so that its map becomes its target map (Dombrowski et al. 2019).

    Minimizes ``F1 mean (h(x) - ht)^2 + F2 mean (g(x) - g0)^2`` with Adam, clamping after every step. The
    batch's loss is the sum over pairs, so each pair goes its own way. The explained class is fixed to the
    clean image's; all that is returned is measured on the unmodified network. A KeyboardInterrupt ends the
    optimization, and what was reached so far is returned, flagged.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_map: maps aimed at (N, H, W), non-negative; scaled to sum 1.
        explainer: the method under attack. One with a method ``with_logits(model, inputs, target)`` that
            returns relevance and logits saves a forward pass each step.
        target: the explained class; None for the predicted one (at the end: of the manipulated image).
        settings: steps, rates, factors, bounds; see `ManipulationSettings` and `PRESETS`.
        callback: told the progress after every step.

    Raises:
        TypeError: where the inputs or the target are of the wrong type.
        ValueError: where the method says that it is not differentiable, inputs, target maps, bounds or target
            do not fit, or the loss does not depend on the image to first order.
    """
    check_differentiable(explainer)
    check_inputs(inputs)
    goal = _checked_map(target_map, inputs)
    clean = inputs.detach()
    _check_within(clean, settings.limits(clean))
    with evaluation_mode(model):
        logits = unmodified_logits(model, clean)
        problem = Problem(
            model=model,
            explainer=explainer,
            targets=resolve_target(logits, target),
            target_map=goal,
            logits=logits,
            settings=settings,
            smooth=_smooths(model, clean, explainer, settings),
        )
        search = _Search(problem, clean)
        with suppress(KeyboardInterrupt):
            search.run(callback)
        return _measured(search, clean, explained=target is not None)


class _Search:
    """The optimization of one batch, and what it has found so far; readable at any moment."""

    def __init__(self, problem: Problem, clean: Tensor) -> None:
        self.problem = problem
        self.limits = problem.settings.limits(clean)
        self.images = clean.clone().requires_grad_(True)
        self.history: list[Evaluation] = []
        self.kept = clean.clone()
        self.kept_step = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
        self.finished = False
        self._best = torch.full((len(clean),), -torch.inf, dtype=torch.float64, device=clean.device)
        self._evaluate(0, torch.full_like(clean[:, 0, 0, 0], torch.nan))

    def run(self, callback: Callback | None) -> None:
        """All steps of Adam; the iterate is valid after each."""
        settings = self.problem.settings
        optimizer = torch.optim.Adam([self.images], lr=settings.lr)
        for step in range(settings.steps):
            losses = self._step(optimizer, step)
            done = step + 1
            if done % settings.every == 0 or done == settings.steps:
                self._evaluate(done, losses)
            if callback is not None:
                callback(done, losses)
        self.finished = True

    def _step(self, optimizer: torch.optim.Adam, step: int) -> Tensor:
        with torch.enable_grad():
            losses = self.problem.losses(self.images, self.problem.beta(step))
            # grad, not backward: the parameters of the model must not collect gradients.
            gradient = _gradient(losses.sum(), self.images)
        if step == 0:
            _check_first(gradient, losses.detach(), self.problem)
        self.images.grad = torch.where(gradient.isfinite(), gradient, 0.0)
        optimizer.step()
        if self.limits is not None:
            with torch.no_grad():
                self.images.clamp_(*self.limits)
        return losses.detach()

    def _evaluate(self, step: int, losses: Tensor) -> None:
        """Look at the unmodified network, and keep the pairs that are better than before."""
        problem = self.problem
        images = self.images.detach().clone()
        logits = unmodified_logits(problem.model, images)
        maps = saliency_map(problem.explainer, problem.model, images, problem.targets).detach()
        pcc = pearson(maps, problem.target_map)
        kept = logits.argmax(1) == problem.logits.argmax(1)
        beta = problem.beta(max(step - 1, 0))
        self.history.append(Evaluation(step, beta, losses, pcc, kept))
        better = (pcc > self._best) & kept
        if problem.settings.keep == "last":
            better = torch.ones_like(kept)
        self._best = torch.where(better, pcc, self._best)
        self.kept_step = torch.where(better, step, self.kept_step)
        self.kept = torch.where(per_sample(better, images), images, self.kept)


def _gradient(loss: Tensor, images: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(loss, images, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient


def _measured(search: _Search, clean: Tensor, *, explained: bool) -> Manipulation:
    """Explain and classify the kept images on the unmodified network, and compare."""
    problem = search.problem
    logits = unmodified_logits(problem.model, search.kept)
    after = problem.targets if explained else logits.argmax(1)
    original = saliency_map(problem.explainer, problem.model, clean, problem.targets).detach()
    manipulated = saliency_map(problem.explainer, problem.model, search.kept, after).detach()
    return Manipulation(
        inputs=search.kept,
        saliency=manipulated,
        original_saliency=original,
        target_map=problem.target_map,
        similarity=MapSimilarity(
            to_target=compare(manipulated, problem.target_map),
            to_original=compare(manipulated, original),
            before=compare(original, problem.target_map),
        ),
        image_change=image_change(clean, search.kept, search.limits),
        output_change=output_change(problem.logits, logits),
        history=tuple(search.history),
        step=search.kept_step,
        interrupted=not search.finished,
    )


def _smooths(model: nn.Module, clean: Tensor, explainer: Explainer, settings: ManipulationSettings) -> bool:
    """Whether to run on softplus activations; "auto" leaves networks without a ReLU as they are."""
    if settings.smoothing != "auto":
        return settings.smoothing == "growth"
    return needs_smoothing(explainer) and rectifications(model, clean) > 0


def _checked_map(target_map: Tensor, inputs: Tensor) -> Tensor:
    """The target maps on the inputs' device and in their dtype, each scaled to sum 1."""
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


def _check_within(clean: Tensor, limits: tuple[Tensor, Tensor] | None) -> None:
    """A clean image outside the bounds would be moved by the clamp alone."""
    if limits is None:
        return
    slack = 1e-3 * (limits[1] - limits[0])
    if bool(((clean < limits[0] - slack) | (clean > limits[1] + slack)).any()):
        raise ValueError(
            f"expected inputs within the bounds, got values from {clean.min().item():.4g} to "
            f"{clean.max().item():.4g}; give the bounds in the units of the (normalized) inputs"
        )


def _check_first(gradient: Tensor, losses: Tensor, problem: Problem) -> None:
    """Say at once that an attack cannot work, rather than return the clean image after all steps."""
    bad = (~gradient.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"expected a finite gradient of the loss, got NaN or infinity for image(s) {bad[:10]}; the "
            "method may divide by zero there, try another method or image"
        )
    if bool((gradient == 0).all()) and bool((losses > 0).all()):
        raise ValueError(
            f"expected the map of {explainer_name(problem.explainer)} to change with the image to first "
            "order, got a gradient of exactly 0; use smoothing='growth' and a differentiable method"
        )
