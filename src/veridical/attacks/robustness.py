"""Which form of a method withstands the same attack better: plain, beta-smoothed, or averaged by SmoothGrad.

Dombrowski et al. 2019, figure 5, and figures 15 to 19 of the supplement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from veridical.attacks.loss import saliency_map, unmodified_logits
from veridical.attacks.manipulation import manipulate
from veridical.attacks.outcome import Manipulation, join, outcome_table
from veridical.attacks.preconditions import check_gradient, checked_map
from veridical.attacks.recovery import check_target_count
from veridical.attacks.settings import ManipulationSettings
from veridical.checks import (
    check_choice,
    check_inputs,
    check_method,
    evaluation_mode,
    resolve_target,
)
from veridical.metrics import Interval, share_interval
from veridical.smoothing import beta_smooth, smoothgrad
from veridical.values import Explainer, Target

Metric = Literal["pcc", "ssim", "mse"]
Progress = Callable[[float], None]
"""Called with the share of the work that is done, in (0, 1]."""


@dataclass(frozen=True)
class Cost:
    """What a method costs, one value a pair (N,); a pair's share of the batch that it was in.

    Forward passes count images, not calls. Seconds are wall-clock time on the machine as it was, and the only
    figures here that depend on how the pairs were batched.

    Args:
        map_passes: forward passes of the network for one map.
        map_seconds: seconds for one map, its backward passes included.
        attack_passes: forward passes of the whole attack, its evaluations included.
        attack_seconds: seconds for it.
    """

    map_passes: Tensor
    map_seconds: Tensor
    attack_passes: Tensor
    attack_seconds: Tensor


@dataclass(frozen=True)
class AttackedMethod:
    """One method under attack.

    Args:
        explainer: the method.
        outcome: of the attack; one value a pair.
        cost: of the method and of the attack.
    """

    explainer: Explainer
    outcome: Manipulation
    cost: Cost


@dataclass(frozen=True)
class Robustness:
    """Several methods under the same attack, on the same pairs.

    Args:
        methods: results by the names that were given.
        settings: of every attack.
        interrupted: whether a KeyboardInterrupt left pairs out; those that are here are finished in every
            method.
    """

    methods: Mapping[str, AttackedMethod]
    settings: ManipulationSettings
    interrupted: bool

    def farther(self, robust: str, plain: str, metric: Metric = "pcc", *, level: float = 0.99) -> Interval:
        """The share of pairs whose attack ends farther from the target for `robust` than for `plain`.

        Farther is a lower correlation or SSIM, or a higher MSE, with the target map; pairs that are equal do
        not count as farther. Pairs that were not measured, or whose image one of the attacks was not allowed
        to change at all, do not count.

        Args:
            robust: the name of the method that should withstand, such as "beta-smoothed".
            plain: the name of the method to compare with.
            metric: "pcc", "ssim" or "mse".
            level: of the interval, Wilson's, which has a width even where all pairs agree.

        Raises:
            ValueError: where a name or the metric is unknown, or the level out of range.
        """
        check_choice("metric", metric, ("pcc", "ssim", "mse"))
        for name in (robust, plain):
            check_choice("the method", name, tuple(self.methods))
        pair = [self.methods[name] for name in (robust, plain)]
        found = [getattr(one.outcome.similarity.to_target, metric) for one in pair]
        difference = found[0] - found[1] if metric == "mse" else found[1] - found[0]
        missing = difference.isnan() | _held(pair[0]) | _held(pair[1])
        measured = torch.where(missing, torch.nan, (difference > 0).double())
        return share_interval(measured, level=level)

    def records(self) -> list[dict[str, Any]]:
        """One row for each pair and method: all measurements of the attack, and the cost."""
        return [row for name, one in self.methods.items() for row in _records(name, one)]

    def table(self, *, level: float = 0.99, seed: int = 0) -> list[dict[str, Any]]:
        """Box statistics of every measurement, one row for each method and statistic; see `outcome_table`."""
        return [
            {"method": name, **row}
            for name, one in self.methods.items()
            for row in outcome_table(one.outcome, level=level, seed=seed)
        ]


def smoothing_variants(
    explainer: Explainer,
    *,
    beta: float = 0.8,
    samples: int = 10,
    noise: float = 0.1,
    range: Literal["image"] | float = "image",
    seed: int = 0,
) -> dict[str, Explainer]:
    """A method in the three forms that the paper compares: "plain", "beta-smoothed" and "smoothgrad".

    Args:
        explainer: the plain method.
        beta: 0.8 as the paper set for VGG-16; for another network take that of
            `veridical.smoothing.choose_beta`.
        samples: noisy copies; 10 in the paper.
        noise: level of the noise. The paper does not say which it used in attacks.
        range: what the noise level is a fraction of; see `veridical.smoothing.NoiseAveraged`.
        seed: of the noise.

    Raises:
        ValueError: where a number is out of range.

    Source:
        Dombrowski et al. 2019, section 4; supplement, tables 4 and 5.
    """
    return {
        "plain": explainer,
        "beta-smoothed": beta_smooth(explainer, beta),
        "smoothgrad": smoothgrad(explainer, samples, noise, seed=seed, range=range),
    }


def compare_robustness(  # noqa: PLR0913 - each names a different thing
    model: nn.Module,
    inputs: Tensor,
    target_maps: Tensor | Mapping[str, Tensor],
    *,
    explainers: Mapping[str, Explainer],
    settings: ManipulationSettings,
    target: Target = None,
    batch: int = 8,
    within: str | None = None,
    callback: Progress | None = None,
) -> Robustness:
    """Attack several methods with the same settings on the same pairs (figure 5 of the paper).

    A KeyboardInterrupt returns the pairs that every method has finished; before the first of them it goes on
    to the caller.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_maps: the maps aimed at (N, H, W), the same for all methods, or those of each method by name.
        explainers: the methods by name, for example `smoothing_variants(method)`.
        settings: of every attack.
        target: the explained class; None for the predicted one.
        batch: pairs that are attacked together; the result does not depend on it, the seconds do.
        within: the name of a method: the attack on each of the others may change an image no more, in
            Euclidean norm, than the attack on this one did. None for the same steps and rate only. With
            keep="best" that attack may keep a clean image, which the others may not change then either, and
            `Robustness.farther` leaves the pair out: take keep="last".
        callback: told the progress.

    Raises:
        TypeError: where something is of the wrong type.
        ValueError: where something does not fit, a method is not differentiable, or a method has no target
            maps.
    """
    check_inputs(inputs)
    _check(explainers, settings, batch)
    if within is not None:
        check_choice("within", within, tuple(explainers))
    settings.budget(inputs)
    check_target_count(target, len(inputs))
    goals = _goals(target_maps, explainers, inputs)
    parts: list[dict[str, AttackedMethod]] = []
    total = -(-len(inputs) // batch) * len(explainers)
    with evaluation_mode(model), suppress(KeyboardInterrupt):
        for begin in range(0, len(inputs), batch):
            chunk = slice(begin, begin + batch)
            found: dict[str, AttackedMethod] = {}
            for name in sorted(explainers, key=lambda name: name != within):
                classes = target[chunk] if isinstance(target, Tensor) else target
                pairs = _Pairs(inputs[chunk].detach(), goals[name][chunk], classes)
                done = len(parts) * len(explainers) + len(found)
                tell = _Tell(callback, done / total, 1 / (total * settings.steps))
                own = _limited(settings.for_pairs(chunk), found[within] if within in found else None)
                found[name] = _attacked(model, pairs, explainers[name], own, tell)
            parts.append(found)
    if not parts:
        raise KeyboardInterrupt
    bound = None if within is None else _joined([part[within] for part in parts], settings)
    methods = {
        name: _joined([part[name] for part in parts], _limited(settings, None if name == within else bound))
        for name in explainers
    }
    return Robustness(methods, settings, interrupted=len(parts) * batch < len(inputs))


@dataclass(frozen=True)
class _Pairs:
    """The pairs of one chunk."""

    inputs: Tensor
    goals: Tensor
    target: Target


@dataclass(frozen=True)
class _Tell:
    """Turns the steps of one attack into the share of all work."""

    callback: Progress | None
    before: float
    per_step: float

    def __call__(self, step: int, losses: Tensor) -> None:
        if self.callback is not None:
            self.callback(min(1.0, self.before + step * self.per_step))


@dataclass
class _Meter:
    """Counts forward passes, one an image, and seconds."""

    passes: int = 0
    seconds: float = 0.0

    def count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note one call of the network."""
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self.passes += len(given[0]) if given else 1


@contextmanager
def _metered(model: nn.Module, like: Tensor) -> Iterator[_Meter]:
    """Count what happens inside; the hook is gone afterwards."""
    meter = _Meter()
    handle = model.register_forward_pre_hook(meter.count, with_kwargs=True)
    begin = _now(like)
    try:
        yield meter
    finally:
        handle.remove()
    meter.seconds = _now(like) - begin


def _now(like: Tensor) -> float:
    """The time in seconds, after all that the device still has to do."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


def _attacked(
    model: nn.Module, pairs: _Pairs, explainer: Explainer, settings: ManipulationSettings, tell: _Tell
) -> AttackedMethod:
    """Explain once, for the cost of a map, then attack."""
    classes = resolve_target(unmodified_logits(model, pairs.inputs), pairs.target)
    with _metered(model, pairs.inputs) as of_map:
        saliency_map(explainer, model, pairs.inputs, classes)
    with _metered(model, pairs.inputs) as of_attack:
        outcome = manipulate(
            model,
            pairs.inputs,
            pairs.goals,
            explainer=explainer,
            target=pairs.target,
            settings=settings,
            callback=tell,
            memory_gib=math.inf,  # `batch` says how many are attacked together
        )
    if outcome.interrupted:
        # Half an attack would look like a method that withstands it.
        raise KeyboardInterrupt
    count = len(pairs.inputs)
    map_passes, map_seconds, attack_passes, attack_seconds = (
        torch.full((count,), value / count, dtype=torch.float64)
        for value in (of_map.passes, of_map.seconds, of_attack.passes, of_attack.seconds)
    )
    return AttackedMethod(explainer, outcome, Cost(map_passes, map_seconds, attack_passes, attack_seconds))


def _limited(settings: ManipulationSettings, bound: AttackedMethod | None) -> ManipulationSettings:
    """The settings of an attack that may change each image no more than another one did."""
    return settings if bound is None else replace(settings, max_l2=bound.outcome.image_change.l2)


def _held(one: AttackedMethod) -> Tensor:
    """The pairs whose image the attack was not allowed to change at all, bool (N,)."""
    largest = one.outcome.settings.budget(one.outcome.inputs).l2
    return torch.zeros_like(one.outcome.step, dtype=torch.bool) if largest is None else largest == 0


def _joined(parts: list[AttackedMethod], settings: ManipulationSettings) -> AttackedMethod:
    """All pairs of one method; the settings of a part hold the limits of its own pairs only."""
    outcome = join([replace(part.outcome, settings=settings) for part in parts])
    return AttackedMethod(parts[0].explainer, outcome, join([part.cost for part in parts]))


def _records(name: str, one: AttackedMethod) -> list[dict[str, Any]]:
    """One row a pair."""
    columns = one.outcome.measurements() | {
        field.name: getattr(one.cost, field.name) for field in fields(Cost)
    }
    values = {key: column.tolist() for key, column in columns.items()}
    return [
        {"method": name, "pair": pair, **{key: column[pair] for key, column in values.items()}}
        for pair in range(len(one.outcome.inputs))
    ]


def _check(explainers: Mapping[str, Explainer], settings: ManipulationSettings, batch: int) -> None:
    """Check the methods before any long work."""
    if not isinstance(explainers, Mapping) or not explainers:
        raise ValueError(
            f"expected methods by name, got {explainers!r}; make them with smoothing_variants(method)"
        )
    for name, explainer in explainers.items():
        check_method(explainer, name)
        check_gradient(explainer, settings)
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1, got {batch}; give a whole number")


def _goals(
    target_maps: Tensor | Mapping[str, Tensor], explainers: Mapping[str, Explainer], inputs: Tensor
) -> dict[str, Tensor]:
    """The checked target maps of every method."""
    if not isinstance(target_maps, Mapping):
        shared = checked_map(target_maps, inputs)
        return dict.fromkeys(explainers, shared)
    missing = [name for name in explainers if name not in target_maps]
    if missing:
        raise ValueError(
            f"expected target maps of every method, got none for {', '.join(missing)}; "
            "give one tensor for all, or one a name"
        )
    return {name: checked_map(target_maps[name], inputs) for name in explainers}
