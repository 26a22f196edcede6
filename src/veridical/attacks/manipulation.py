"""Change an image invisibly so that its saliency map becomes another one, while the output stays.

Equation 4 of Dombrowski et al. 2019, "Explanations can be manipulated and geometry is to blame".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from veridical.attacks.chunks import check_budget, pairs_together
from veridical.attacks.compiled import CompiledSlope, check_exact, compiled_slope
from veridical.attacks.estimated import FOLDED
from veridical.attacks.loss import Problem, clean_logits, saliency_map, unmodified_logits
from veridical.attacks.outcome import (
    Evaluation,
    Manipulation,
    MapSimilarity,
    compare,
    image_change,
    output_change,
)
from veridical.attacks.parts import Callback, even_parts, in_parts
from veridical.attacks.preconditions import (
    check_first,
    check_gradient,
    check_within,
    checked_map,
    runs_smoothed,
)
from veridical.attacks.presets import preset
from veridical.attacks.settings import ManipulationSettings
from veridical.attacks.slope import Slope, SlopeFunction, first_slope, slope
from veridical.checks import check_inputs, evaluation_mode, resolve_target
from veridical.metrics import pearson
from veridical.tensors import flushed_denormals, per_sample
from veridical.values import Explainer, Target


def manipulate(  # noqa: PLR0913 - each of these names a different thing; the choices are in `settings`
    model: nn.Module,
    inputs: Tensor,
    target_map: Tensor,
    *,
    explainer: Explainer,
    target: Target = None,
    settings: ManipulationSettings | None = None,
    callback: Callback | None = None,
    memory_gib: float | None = None,
    compiled: bool = False,
) -> Manipulation:
    """Optimize every image of a batch so that its map becomes its target map (Dombrowski et al. 2019).

    Minimizes ``F1 mean (h(x) - ht)^2 + F2 mean (g(x) - g0)^2`` with Adam, clamping after every step. The
    batch's loss is the sum over pairs, so each pair goes its own way, and any number of pairs can be given:
    they are optimized in parts that fit in memory. The explained class is fixed to the clean image's; all
    that is returned is measured on the unmodified network. A KeyboardInterrupt ends the optimization: the
    pairs of the parts that are finished are returned, flagged, and while the first part is at work, that
    part as far as it came; before the optimization it goes on to the caller.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_map: maps aimed at (N, H, W), non-negative; scaled to sum 1.
        explainer: the method under attack. One with a method ``with_logits(model, inputs, target)`` that
            returns relevance and logits saves a forward pass each step.
        target: the explained class; None for the predicted one (at the end: of the manipulated image).
        settings: steps, rates, factors, bounds; see `ManipulationSettings` and `PRESETS`. None is
            `preset("default")`, which needs no tuning; `preset("default", bounds)` clamps, too.
        callback: told the steps done and the loss of each pair after every step.
        memory_gib: GiB that a step may take beside network and images; one step of one and of two pairs is
            measured to see how many fit, and on a CPU how many are fastest. None takes half of the memory
            that is free, infinity all pairs at once. The result does not depend on it, up to rounding.
        compiled: record the step with all its derivatives and hand it to `torch.compile`. That takes a minute
            or more and a compiler, and pays where there are many steps. The first step and the last are
            compared with the eager ones.

    Raises:
        TypeError: where the inputs or the target are of the wrong type.
        ValueError: where the method says that it is not differentiable and the gradient is to be exact,
            inputs, target maps, bounds or target do not fit, no map depends on its image to first order
            (where only some do not, a warning names them), one pair does not fit in `memory_gib`, or the
            step cannot be compiled or then differs.
    """
    settings = preset() if settings is None else settings
    check_gradient(explainer, settings)
    check_budget(memory_gib)
    if compiled:
        check_exact(settings)
    check_inputs(inputs)
    goal = checked_map(target_map, inputs)
    clean = inputs.detach()
    check_within(clean, settings.limits(clean))
    budget = settings.budget(clean)
    with evaluation_mode(model):
        logits = clean_logits(model, clean)
        problem = Problem(
            model=model,
            explainer=explainer,
            targets=resolve_target(logits, target),
            target_map=goal,
            logits=logits,
            settings=settings,
            smooth=runs_smoothed(model, clean, explainer, settings),
            budget=budget,
        )
        together = pairs_together(problem, clean, memory_gib)
        problem = replace(problem, folded=min(FOLDED, together))
        parts = even_parts(len(clean), together)
        firsts = [None] if len(parts) == 1 and not compiled else _first_slopes(problem, clean, parts)
        step = _compiled_step(problem, clean, parts) if compiled else slope

        def attack(index: int, tell: Callback | None) -> Manipulation:
            pairs = parts[index]
            search = _Search(problem.part(pairs), clean[pairs], firsts[index], step)
            return _one_part(search, tell, explained=target is not None)

        result = in_parts(attack, clean, parts, settings.steps, callback)
    return replace(result, settings=settings.for_pairs(slice(0, len(result.inputs))))


def _one_part(search: _Search, callback: Callback | None, *, explained: bool) -> Manipulation:
    """The search for some pairs, as far as it comes, and what it found."""
    with suppress(KeyboardInterrupt), flushed_denormals():
        search.run(callback)
        if isinstance(search.slope, CompiledSlope):
            last = search.problem.settings.steps - 1
            search.slope.check_last(search.problem, search.images, search.span, last)
    return _measured(search, explained=explained)


def _compiled_step(problem: Problem, clean: Tensor, parts: Sequence[slice]) -> CompiledSlope:
    """The step of the largest part; the others are filled up."""
    pairs = max(parts, key=lambda part: part.stop - part.start)
    images = clean[pairs].clone().requires_grad_(True)
    return compiled_slope(problem.part(pairs), images, problem.settings.span(clean[pairs]))


def _first_slopes(problem: Problem, clean: Tensor, parts: Sequence[slice]) -> list[Slope | None]:
    """The first step of every part: what cannot work is said at once, not when its part begins.

    A single part that begins at once takes its own first step.
    """
    span = problem.settings.span(clean).expand(len(clean), -1, -1, -1)
    with flushed_denormals():
        found = [
            first_slope(problem.part(pairs), clean[pairs].clone().requires_grad_(True), span[pairs])
            for pairs in parts
        ]
    gradient, still = (torch.cat([getattr(one, name) for one in found]) for name in ("gradient", "still"))
    check_first(gradient, still, problem.explainer)
    return list(found)


class _Search:
    """The optimization of one batch, and what it has found so far; readable at any moment."""

    def __init__(self, problem: Problem, clean: Tensor, first: Slope | None, step: SlopeFunction) -> None:
        self.problem = problem
        self.first = first
        self.slope = step
        self.limits = problem.settings.limits(clean)
        self.unit, self.span = problem.settings.unit(clean), problem.settings.span(clean)
        self.clean = clean
        self.calls = 0
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
        if step == 0:
            losses, gradient = self._first()
        else:
            losses, gradient = self.slope(self.problem, self.images, self.span, step)
        estimated = self.problem.settings.gradient == "estimated"
        self.calls += 2 * self.problem.settings.directions if estimated else 1
        self.images.grad = torch.where(gradient.isfinite(), gradient, 0.0)
        before = self.images.detach().clone()
        optimizer.step()
        with torch.no_grad():
            if self.problem.settings.lr_unit == "range":
                # Adam's steps have the size of lr whatever the loss is: scaled here, not the loss.
                self.images.copy_(before + self.unit * (self.images - before))
            self._bring_back()
        return losses

    def _first(self) -> tuple[Tensor, Tensor]:
        """The slope at the clean image, checked, unless it was before."""
        found = self.first
        if found is None:
            found = first_slope(self.problem, self.images, self.span)
            check_first(found.gradient, found.still, self.problem.explainer)
        return found.losses, found.gradient

    def _bring_back(self) -> None:
        """The image to its bounds, and to within its budget, in place: the optimizer holds it."""
        width: Tensor | float = 1.0
        if self.limits is not None:
            self.images.clamp_(*self.limits)
            width = self.limits[1] - self.limits[0]
        self.images.copy_(self.problem.budget.within(self.images, self.clean, width))

    def _evaluate(self, step: int, losses: Tensor) -> None:
        """Look at the unmodified network, and keep the pairs that are better than before."""
        problem = self.problem
        images = self.images.detach().clone()
        logits = unmodified_logits(problem.model, images)
        maps = saliency_map(problem.explainer, problem.model, images, problem.targets).detach()
        pcc = pearson(maps, problem.target_map)
        kept = logits.argmax(1) == problem.logits.argmax(1)
        beta = problem.beta(max(step - 1, 0))
        better = (pcc > self._best) & kept
        if problem.settings.keep == "last":
            better = torch.ones_like(kept)
        found = (
            torch.where(better, pcc, self._best),
            torch.where(better, step, self.kept_step),
            torch.where(per_sample(better, images), images, self.kept),
        )
        # In one statement without a call, and before the history: Ctrl-C comes before it or after it.
        self._best, self.kept_step, self.kept = found
        self.history.append(Evaluation(step, beta, losses, pcc, kept))


def _measured(search: _Search, *, explained: bool) -> Manipulation:
    """Explain and classify the kept images on the unmodified network, and compare."""
    problem, clean = search.problem, search.clean
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
        calls=torch.full_like(search.kept_step, search.calls),
        settings=problem.settings,
    )
