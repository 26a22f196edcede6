"""The attacks of Ghorbani et al. 2019: make a map say something else, not something chosen.

"Interpretation of neural networks is fragile", algorithm 1: signed gradient steps within a budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from veridical.attacks.chunks import LivePeak, check_budget, together
from veridical.attacks.loss import clean_logits, saliency_map, unmodified_logits
from veridical.attacks.outcome import (
    ImageChange,
    OutputChange,
    Similarity,
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
    gradient_of,
    runs_smoothed,
)
from veridical.attacks.settings import Bound, ManipulationSettings
from veridical.checks import check_choice, check_inputs, evaluation_mode, resolve_target
from veridical.smoothing import BetaSchedule, SmoothedModel
from veridical.tensors import flushed_denormals, per_sample
from veridical.values import Explainer, Target

Attack = Literal["top-k", "mass-center", "region"]
"""What is driven down, away or up: the share of the map in its k largest pixels, its center of mass, or the
share of the map inside a region."""

_OFFSET = 1e-3
"""In pixels; the distance of mass centers has no derivative at 0, where the attack begins."""


@dataclass(frozen=True)
class GhorbaniSettings:
    """The choices of an attack of Ghorbani et al. 2019.

    Args:
        attack: "top-k", "mass-center" or "region".
        steps: signed gradient steps.
        lr: size of a step, a fraction of the input's range: of the width of `bounds`, without bounds of max -
            min of each image.
        epsilon: the largest change of a value, a fraction of the same range; infinity for no budget.
        top: for "top-k", k as a share of the pixels, rounded up.
        smoothing: see `ManipulationSettings`.
        beta: first and last beta of the growth.
        bounds: lowest and highest valid input, each one number or one per channel; None for no clamping.
        keep: "best" returns the evaluated iterate of the original class in which the quantity went farthest
            on the unmodified network, as algorithm 1 does; "last" the last iterate.
        every: steps between evaluations on the unmodified network.

    Raises:
        ValueError: where a number is out of range or a name unknown.
    """

    attack: Attack = "region"
    steps: int = 100
    lr: float = 0.5 / 255
    epsilon: float = 8 / 255
    top: float = 0.02
    smoothing: Literal["auto", "growth", "off"] = "auto"
    beta: tuple[float, float] = (10.0, 100.0)
    bounds: tuple[Bound, Bound] | None = None
    keep: Literal["best", "last"] = "best"
    every: int = 10

    def __post_init__(self) -> None:
        check_choice("attack", self.attack, get_args(Attack))
        if not self.epsilon > 0:
            raise ValueError(f"expected a positive epsilon, got {self.epsilon}; 8 / 255 is usual")
        if not 0 < self.top <= 1:
            raise ValueError(f"expected top as a share in (0, 1], got {self.top}; 0.02 is 2 % of the pixels")
        object.__setattr__(self, "bounds", self.frame.bounds)

    @cached_property
    def frame(self) -> ManipulationSettings:
        """What both kinds of attack have in common, checked."""
        return ManipulationSettings(
            steps=self.steps,
            lr=self.lr,
            lr_unit="range",
            smoothing=self.smoothing,
            beta=self.beta,
            bounds=self.bounds,
            keep=self.keep,
            every=self.every,
        )


@dataclass(frozen=True)
class GhorbaniResult:
    """The result of `ghorbani`; every map and output is of the unmodified network.

    The quantity is, by attack, "top-k": the share of the map in the k largest pixels of the original map;
    "mass-center": the distance in pixels to the center of mass of the original map; "region": the share of
    the map in the region.

    Args:
        inputs: changed images (N, C, H, W).
        saliency: their maps (N, H, W), each sums to 1.
        original_saliency: the maps of the clean images.
        before: the quantity for the clean images (N,).
        after: the quantity for the changed images (N,).
        to_original: likeness of the two maps.
        image_change: size of the perturbation.
        output_change: of the network.
        step: the iterate that was kept for each image (N,); 0 is the clean image.
        interrupted: whether a KeyboardInterrupt ended the attack early.
        settings: the choices that made it.
    """

    inputs: Tensor
    saliency: Tensor
    original_saliency: Tensor
    before: Tensor
    after: Tensor
    to_original: Similarity
    image_change: ImageChange
    output_change: OutputChange
    step: Tensor
    interrupted: bool
    settings: GhorbaniSettings


def ghorbani(  # noqa: PLR0913 - each of these names a different thing; the choices are in `settings`
    model: nn.Module,
    inputs: Tensor,
    *,
    explainer: Explainer,
    region: Tensor | None = None,
    target: Target = None,
    settings: GhorbaniSettings | None = None,
    callback: Callback | None = None,
    memory_gib: float | None = None,
) -> GhorbaniResult:
    """Change images by signed gradient steps so that their maps change (Ghorbani et al. 2019, algorithm 1).

    ``x <- clamp(project(x + lr sign(dD / dx)))`` with D the negative share of the map in its k largest
    pixels, the distance from its center of mass, or the share of the map in a region. The projection keeps
    every value within epsilon of the clean one. The gradient is taken on softplus activations where
    `manipulate` does so. The output is not held constant; only the kept iterate has the class of the clean
    image. Every image goes its own way, and any number can be given: they are attacked in parts that fit in
    memory. A KeyboardInterrupt ends the attack as it ends that of `manipulate`.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        explainer: the method under attack.
        region: for the attack "region" (N, H, W), non-negative, 1 inside and 0 outside.
        target: the explained class; None for the predicted one (at the end: of the changed image).
        settings: the choices; None for `GhorbaniSettings()`.
        callback: told the steps done and the quantity of each image after every step.
        memory_gib: see `manipulate`.

    Raises:
        TypeError: where inputs, target or region are of the wrong type.
        ValueError: where the method is not differentiable, inputs, bounds, region or target do not fit, no
            map depends on its image to first order (where only some do not, a warning names them), or one
            image does not fit in `memory_gib`.
    """
    settings = settings or GhorbaniSettings()
    check_budget(memory_gib)
    check_gradient(explainer, settings.frame)
    check_inputs(inputs)
    inside = _checked_region(region, inputs, settings.attack)
    clean = inputs.detach()
    check_within(clean, settings.frame.limits(clean))
    with evaluation_mode(model):
        logits = clean_logits(model, clean)
        smooth = runs_smoothed(model, clean, explainer, settings.frame)
        task = _Task(model, explainer, resolve_target(logits, target), logits, inside, settings, smooth)
        parts = even_parts(
            len(clean), together(partial(_first_step, task, clean), clean, memory_gib, len(clean))
        )
        climbs = _begun(task, clean, parts)

        def attack(index: int, tell: Callback | None) -> GhorbaniResult:
            with suppress(KeyboardInterrupt), flushed_denormals():
                climbs[index].run(tell)
            return _measured(climbs[index], explained=target is not None)

        return in_parts(attack, clean, parts, settings.steps, callback)


@dataclass(frozen=True)
class _Task:
    """What stays fixed while the images move.

    Args:
        model: the network, unmodified.
        explainer: the method under attack.
        targets: the explained class of each image (N,).
        logits: of the clean images (N, K).
        region: of the attack "region" (N, H, W).
        settings: the choices.
        smooth: whether it runs on softplus activations.
    """

    model: nn.Module
    explainer: Explainer
    targets: Tensor
    logits: Tensor
    region: Tensor | None
    settings: GhorbaniSettings
    smooth: bool

    def part(self, images: slice) -> _Task:
        """The task of some of the images."""
        region = None if self.region is None else self.region[images]
        return replace(self, targets=self.targets[images], logits=self.logits[images], region=region)

    def beta(self, step: int) -> float:
        """The softplus beta of a step; infinite without smoothing."""
        return BetaSchedule(*self.settings.beta, self.settings.steps)(step) if self.smooth else math.inf

    def map(self, images: Tensor, beta: float, targets: Tensor | None = None) -> Tensor:
        """The maps (N, H, W) of images on the network, softplus where beta is finite."""
        network = self.model if math.isinf(beta) else SmoothedModel(self.model, beta)
        return saliency_map(self.explainer, network, images, self.targets if targets is None else targets)


def _begun(task: _Task, clean: Tensor, parts: Sequence[slice]) -> list[_Climb]:
    """The first slopes of all parts, so that what cannot work is said at once."""
    with flushed_denormals():
        climbs = [_Climb(task.part(images), clean[images]) for images in parts]
    gradient = torch.cat([climb.first.gradient for climb in climbs])
    check_first(gradient, (gradient == 0).flatten(1).all(1), task.explainer)
    return climbs


def _first_step(task: _Task, clean: Tensor, count: int) -> LivePeak:
    meter = LivePeak()
    with meter:
        _Climb(task.part(slice(0, count)), clean[:count])
    return meter


@dataclass(frozen=True)
class _Quantity:
    """What is attacked, as a function of maps, and whether it is to rise."""

    measure: Callable[[Tensor], Tensor]
    sign: int


class _Uphill(NamedTuple):
    """The quantity of each image (N,), and the direction in which it goes where it is driven (N, C, H, W)."""

    value: Tensor
    gradient: Tensor


class _Climb:
    """Signed gradient steps of one batch, and the best images so far."""

    def __init__(self, task: _Task, clean: Tensor) -> None:
        self.task, self.clean = task, clean
        frame = task.settings.frame
        self.limits, self.unit = frame.limits(clean), frame.unit(clean)
        self.images = clean.clone()
        self.kept, self.kept_step = clean.clone(), torch.zeros_like(task.targets)
        self.finished = False
        self.original = task.map(clean, math.inf).detach()
        self.quantity = _quantity(task.settings, self.original, task.region)
        self._best = self.quantity.sign * self.quantity.measure(self.original)
        self.first = self._uphill(0)

    def run(self, callback: Callback | None) -> None:
        """All steps; the iterate is valid after each."""
        settings = self.task.settings
        for step in range(settings.steps):
            found = self.first if step == 0 else self._uphill(step)
            self._move(found.gradient)
            done = step + 1
            if done % settings.every == 0 or done == settings.steps:
                self._evaluate(done)
            if callback is not None:
                callback(done, found.value)
        self.finished = True

    def _uphill(self, step: int) -> _Uphill:
        images = self.images.clone().requires_grad_(True)
        with torch.enable_grad():
            value = self.quantity.measure(self.task.map(images, self.task.beta(step)))
            gradient = self.quantity.sign * gradient_of(value.sum(), images)
        return _Uphill(value.detach(), gradient)

    def _move(self, gradient: Tensor) -> None:
        settings, clean = self.task.settings, self.clean
        reach = settings.epsilon * self.unit
        moved = self.images + settings.lr * self.unit * gradient.nan_to_num(0.0).sign()
        moved = torch.maximum(torch.minimum(moved, clean + reach), clean - reach)
        self.images = moved if self.limits is None else moved.clamp(*self.limits)

    def _evaluate(self, step: int) -> None:
        """Look at the unmodified network, and keep the images that are better than before."""
        maps = self.task.map(self.images, math.inf).detach()
        value = self.quantity.sign * self.quantity.measure(maps)
        classes = unmodified_logits(self.task.model, self.images).argmax(1)
        better = (value > self._best) & (classes == self.task.logits.argmax(1))
        if self.task.settings.keep == "last":
            better = torch.ones_like(better)
        found = (
            torch.where(better, value, self._best),
            torch.where(better, step, self.kept_step),
            torch.where(per_sample(better, self.images), self.images, self.kept),
        )
        self._best, self.kept_step, self.kept = found  # without a call between: Ctrl-C finds all or none


def _measured(search: _Climb, *, explained: bool) -> GhorbaniResult:
    """Explain and classify the kept images on the unmodified network, and compare."""
    task = search.task
    logits = unmodified_logits(task.model, search.kept)
    classes = task.targets if explained else logits.argmax(1)
    changed = task.map(search.kept, math.inf, classes).detach()
    return GhorbaniResult(
        inputs=search.kept,
        saliency=changed,
        original_saliency=search.original,
        before=search.quantity.measure(search.original),
        after=search.quantity.measure(changed),
        to_original=compare(changed, search.original),
        image_change=image_change(search.clean, search.kept, search.limits),
        output_change=output_change(task.logits, logits),
        step=search.kept_step,
        interrupted=not search.finished,
        settings=task.settings,
    )


def _quantity(settings: GhorbaniSettings, original: Tensor, region: Tensor | None) -> _Quantity:
    """The quantity under attack, for the maps (N, H, W) of the clean images."""
    if region is not None:
        return _Quantity(lambda maps: (maps * region).sum((1, 2)), 1)
    if settings.attack == "top-k":
        top = top_mask(original, settings.top)
        return _Quantity(lambda maps: (maps * top).sum((1, 2)), -1)
    start = mass_center(original)
    return _Quantity(lambda maps: (mass_center(maps) - start + _OFFSET).norm(dim=1), 1)


def top_mask(maps: Tensor, share: float) -> Tensor:
    """1 at the largest pixels of each map (N, H, W), as many as the share of all rounded up, else 0."""
    flat = maps.flatten(1)
    largest = flat.topk(math.ceil(share * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat).scatter(1, largest, 1.0).reshape(maps.shape)


def mass_center(maps: Tensor) -> Tensor:
    """Row and column of the center of mass (N, 2), in pixels, of maps (N, H, W) that sum to 1."""
    rows, columns = (torch.arange(side, dtype=maps.dtype, device=maps.device) for side in maps.shape[1:])
    return torch.stack(((maps.sum(2) * rows).sum(1), (maps.sum(1) * columns).sum(1)), dim=1)


def _checked_region(region: Tensor | None, inputs: Tensor, attack: Attack) -> Tensor | None:
    if (attack == "region") != (region is not None):
        raise ValueError(
            f"expected a region (N, H, W) for the attack 'region' and for no other, got attack {attack!r} "
            f"{'without' if region is None else 'with'} one; mend the two"
        )
    if region is None:
        return None
    inside = region.to(inputs) if isinstance(region, Tensor) else region
    checked_map(inside, inputs)
    if bool((inside > 1).any()):
        raise ValueError(
            f"expected a region of 0 and 1, got a value of {inside.max().item():.3g}; give a mask"
        )
    return inside
