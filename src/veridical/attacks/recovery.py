"""Undo a manipulation: explain the manipulated image with more and more smoothing.

Dombrowski et al. 2019, figure 4: as beta falls, or as SmoothGrad's noise grows, the map of a manipulated
image loses its likeness with the target map and regains that with the original map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from veridical.attacks.loss import saliency_map, unmodified_logits
from veridical.attacks.preconditions import checked_map
from veridical.checks import check_choice, check_inputs, evaluation_mode, resolve_target
from veridical.metrics import Box, Interval, box, pearson, share_interval
from veridical.smoothing import BetaSmoothed, NoiseAveraged
from veridical.smoothing.schedule import check_beta
from veridical.values import Explainer, Target, explainer_name

Reference = Literal["smoothed", "plain"]
Progress = Callable[[float], None]
"""Called with the share of the work that is done, in (0, 1]."""

BETAS = (1000.0, 300.0, 100.0, 50.0, 30.0, 20.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.0, 0.8, 0.5)
"""Betas from almost ReLU to well below the paper's 0.8."""
NOISES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Noise levels: 0.1 to 10 %, the axis of the paper's figure (arXiv v1, figure 18)."""


@dataclass(frozen=True)
class RecoverySettings:
    """How maps are smoothed, and how many at once.

    Args:
        betas: sharpness of the softplus networks, kept in falling order; none for a network without a ReLU.
        noises: noise levels of SmoothGrad, kept in growing order.
        samples: noisy copies.
        range: what the noise level is a fraction of; see `veridical.smoothing.NoiseAveraged`.
        seed: of the noise.
        batch: pairs in one call of the method; the result does not depend on it.
        keep_maps: whether to return the maps of the manipulated images too.

    Raises:
        ValueError: where a beta or the batch is out of range; `undo` checks the noise.
    """

    betas: tuple[float, ...] = BETAS
    noises: tuple[float, ...] = NOISES
    samples: int = 10
    range: Literal["image"] | float = "image"
    seed: int = 0
    batch: int = 16
    keep_maps: bool = False

    def __post_init__(self) -> None:
        """Check the choices, and put the levels in order."""
        betas = sorted({check_beta(beta) for beta in self.betas}, reverse=True)
        object.__setattr__(self, "betas", tuple(betas))
        object.__setattr__(self, "noises", tuple(sorted(set(self.noises))))
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least 1, got {self.batch}; give a whole number")

    def averaged(self, explainer: Explainer, noise: float) -> NoiseAveraged:
        """The method averaged by SmoothGrad at one noise level."""
        return NoiseAveraged(explainer, self.samples, noise, self.seed, self.range)


@dataclass(frozen=True, eq=False)
class AttackedPairs:
    """Images before and after an attack, and what the attack aimed at.

    Args:
        clean: the original images (N, C, H, W).
        manipulated: the same, manipulated.
        target_map: the maps aimed at (N, H, W), non-negative.
        target: the explained class; None for what the unmodified network predicts, for the clean and the
            manipulated image each.

    Raises:
        TypeError: where images are no tensors of floats.
        ValueError: where they do not belong together.
    """

    clean: Tensor
    manipulated: Tensor
    target_map: Tensor
    target: Target = None

    def __post_init__(self) -> None:
        """Check that the pairs belong together, and scale the target maps."""
        check_inputs(self.clean)
        check_inputs(self.manipulated)
        if self.manipulated.shape != self.clean.shape:
            raise ValueError(
                f"expected manipulated images of shape {tuple(self.clean.shape)}, got "
                f"{tuple(self.manipulated.shape)}; give every clean image its manipulated one"
            )
        check_target_count(self.target, len(self.clean))
        object.__setattr__(self, "target_map", checked_map(self.target_map, self.clean))

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.clean)

    def __getitem__(self, chunk: slice) -> AttackedPairs:
        """Some of the pairs."""
        target = self.target[chunk] if isinstance(self.target, Tensor) else self.target
        clean, manipulated = self.clean[chunk].detach(), self.manipulated[chunk].detach()
        return AttackedPairs(clean, manipulated, self.target_map[chunk], target)


@dataclass(frozen=True)
class Crossing:
    """The smoothing at which the correlation with the original map overtakes that with the target map.

    Args:
        values: beta or noise level of each pair (N,), NaN where there is none.
        already: bool (N,): the original is ahead without smoothing: nothing to undo.
        never: bool (N,): the original is not ahead at any level.
        summary: box of `values`; pairs without a crossing are counted in `missing`.
        share: of the pairs whose target is ahead without smoothing, how many cross; with an interval.
    """

    values: Tensor
    already: Tensor
    never: Tensor
    summary: Box
    share: Interval


@dataclass(frozen=True)
class RecoveryCurve:
    """Correlations of the manipulated images' maps at every level of one kind of smoothing.

    NaN means "not measured": a constant map, or a level that an interruption left out.

    Args:
        kind: "beta" or "noise".
        levels: L levels of growing smoothing; the first is none at all (beta infinite, noise 0).
        to_target: with the target map (L, N).
        to_smoothed: with the clean image's map under the same smoothing (L, N).
        to_plain: with the clean image's map of the unmodified method (L, N).
        maps: the maps of the manipulated images (L, N, H, W), each sums to 1; None where not asked for.
    """

    kind: Literal["beta", "noise"]
    levels: tuple[float, ...]
    to_target: Tensor
    to_smoothed: Tensor
    to_plain: Tensor
    maps: Tensor | None

    def to_original(self, reference: Reference) -> Tensor:
        """Correlations with the clean image's map (L, N): "smoothed" likewise, or by the "plain" method.

        Raises:
            ValueError: where the reference is neither.
        """
        check_choice("reference", reference, ("smoothed", "plain"))
        return self.to_smoothed if reference == "smoothed" else self.to_plain

    def crossing(self, reference: Reference = "smoothed", *, level: float = 0.99, seed: int = 0) -> Crossing:
        """Where the original overtakes the target for the first time, going towards more smoothing.

        Between two levels the difference of the correlations is interpolated, linearly in log beta or in the
        noise. Between no smoothing and the first beta there is no logarithm: the first beta is taken.

        Args:
            reference: which map of the clean image; the paper does not say which it used.
            level: of the intervals.
            seed: of the bootstrap of the median.

        Raises:
            ValueError: where the reference is unknown or the level out of range.
        """
        ahead = self.to_original(reference) - self.to_target
        values = _first_crossing(self.levels, ahead, log=self.kind == "beta")
        already = ahead[0] > 0
        seen = ~ahead.isnan().any(0)
        never = values.isnan() & ~already & seen
        crossed = torch.where(~already & seen, (~values.isnan()).double(), torch.nan)
        summary = box(values, level=level, seed=seed)
        return Crossing(values, already, never, summary, share_interval(crossed, level=level))

    def bands(self, *, level: float = 0.99, seed: int = 0) -> list[dict[str, Any]]:
        """Medians with 10/90 bands over the pairs: one row for each level and correlation.

        Returns:
            Rows with the kind, the smoothing (beta or noise), "target", "smoothed original" or "plain
            original", and the fields of `veridical.metrics.Box`.
        """
        named = {
            "target": self.to_target,
            "smoothed original": self.to_smoothed,
            "plain original": self.to_plain,
        }
        return [
            {
                "kind": self.kind,
                "smoothing": where,
                "correlation_with": name,
                **box(values[index], level=level, seed=seed).record(),
            }
            for index, where in enumerate(self.levels)
            for name, values in named.items()
        ]


@dataclass(frozen=True)
class Recovery:
    """What smoothing does to manipulated images, and how it was measured.

    Args:
        beta: the curve for softplus networks with falling beta.
        noise: the curve for SmoothGrad with growing noise.
        method: name of the explained method.
        settings: the choices that made it, the seed among them.
        interrupted: whether a KeyboardInterrupt ended it early.
    """

    beta: RecoveryCurve
    noise: RecoveryCurve
    method: str
    settings: RecoverySettings
    interrupted: bool


def undo(
    model: nn.Module,
    pairs: AttackedPairs,
    explainer: Explainer,
    *,
    settings: RecoverySettings = RecoverySettings(),  # noqa: B008 - frozen
    callback: Progress | None = None,
) -> Recovery:
    """Explain manipulated images at falling beta and at growing SmoothGrad noise (figure 4 of the paper).

    A KeyboardInterrupt returns what was measured so far, the rest NaN.

    Args:
        model: the network; left as it was.
        pairs: clean and manipulated images, the maps aimed at, and the explained class.
        explainer: the plain method that was attacked.
        settings: levels of smoothing, noise and batch.
        callback: told the progress.

    Returns:
        Both curves, each beginning with the unmodified method.

    Raises:
        TypeError: where the target is of the wrong type.
        ValueError: where the method is smoothed already, the noise is out of range, a class does not exist,
            or the network has no ReLU though betas are asked for.
    """
    if settings.betas and _smoothed_inside(explainer):
        raise ValueError(
            f"expected a plain method, got {explainer_name(explainer)}, which runs on softplus already; give "
            "the method inside it, or betas=() for the noise curve alone"
        )
    smoothed = [BetaSmoothed(explainer, beta) for beta in settings.betas]
    averaged = [settings.averaged(explainer, noise) for noise in settings.noises]
    curves = (
        _Curve("beta", (math.inf, *settings.betas), (explainer, *smoothed)),
        _Curve("noise", (0.0, *settings.noises), (explainer, *averaged)),
    )
    work = _Work(model, explainer, curves, len(pairs) * sum(len(curve.levels) for curve in curves), callback)
    for curve in curves:
        curve.reserve(pairs.clean, settings.keep_maps)
    with evaluation_mode(model), suppress(KeyboardInterrupt):
        for chunk in _chunks(len(pairs), settings.batch):
            work.measure(chunk, pairs[chunk])
    beta, noise = (curve.result() for curve in curves)
    return Recovery(beta, noise, explainer_name(explainer), settings, interrupted=work.done < work.total)


def _smoothed_inside(explainer: Explainer) -> bool:
    """Whether a method runs on softplus activations, wrapped or not; wrappers hold theirs as `explainer`."""
    if isinstance(explainer, BetaSmoothed):
        return True
    inner = getattr(explainer, "explainer", None)
    return inner is not None and _smoothed_inside(inner)


def _chunks(count: int, batch: int) -> list[slice]:
    return [slice(begin, begin + batch) for begin in range(0, count, batch)]


class _Curve:
    """The correlations of one kind of smoothing, filled chunk by chunk."""

    def __init__(
        self, kind: Literal["beta", "noise"], levels: tuple[float, ...], methods: tuple[Explainer, ...]
    ) -> None:
        self.kind, self.levels, self.methods = kind, levels, methods

    def reserve(self, clean: Tensor, keep_maps: bool) -> None:
        """The result, NaN until it is measured."""
        self.scores = torch.full((3, len(self.levels), len(clean)), torch.nan, dtype=torch.float64)
        self.maps: Tensor | None = None
        if keep_maps:
            shape = (len(self.levels), len(clean), *clean.shape[2:])
            self.maps = torch.full(shape, torch.nan, dtype=clean.dtype)

    def put(self, level: int, chunk: slice, maps: Tensor, references: Sequence[Tensor]) -> None:
        """Compare maps of the manipulated images with target, smoothed original and plain original."""
        for row, reference in enumerate(references):
            self.scores[row, level, chunk] = pearson(maps, reference).cpu()
        if self.maps is not None:
            self.maps[level, chunk] = maps.cpu()

    def result(self) -> RecoveryCurve:
        """What was measured."""
        target, smoothed, plain = self.scores
        return RecoveryCurve(self.kind, self.levels, target, smoothed, plain, self.maps)


@dataclass
class _Work:
    """Explains chunk by chunk, and counts the maps that are done."""

    model: nn.Module
    explainer: Explainer
    curves: tuple[_Curve, ...]
    total: int
    callback: Progress | None
    done: int = 0

    def measure(self, chunk: slice, pairs: AttackedPairs) -> None:
        """All levels for one chunk of pairs."""
        clean, manipulated = pairs.clean, pairs.manipulated
        classes = resolve_target(unmodified_logits(self.model, clean), pairs.target)
        changed_classes = resolve_target(unmodified_logits(self.model, manipulated), pairs.target)
        plain = self._map(self.explainer, clean, classes)
        for curve in self.curves:
            for level, method in enumerate(curve.methods):
                original = self._map(method, clean, classes) if level else plain
                maps = self._map(method, manipulated, changed_classes)
                curve.put(level, chunk, maps, (pairs.target_map, original, plain))
                self.done += len(clean)
                if self.callback is not None:
                    self.callback(self.done / self.total)

    def _map(self, method: Explainer, images: Tensor, classes: Tensor) -> Tensor:
        return saliency_map(method, self.model, images, classes).detach()


def _first_crossing(levels: Sequence[float], ahead: Tensor, *, log: bool) -> Tensor:
    """The level at which `ahead` (L, N) turns from at most 0 to above 0 for the first time (N,), else NaN."""
    found = torch.full_like(ahead[0], torch.nan)
    for index in range(1, len(levels)):
        below, above = ahead[index - 1], ahead[index]
        here = (below <= 0) & (above > 0) & found.isnan() & (ahead[0] <= 0)
        weight = below / (below - above)
        start, end = levels[index - 1], levels[index]
        if math.isinf(start):
            value = torch.full_like(weight, end)
        elif log:
            value = torch.exp(math.log(start) + weight * (math.log(end) - math.log(start)))
        else:
            value = start + weight * (end - start)
        found = torch.where(here, value, found)
    return found


def check_target_count(target: Target, count: int) -> None:
    """Check that targets that are split into chunks are one for each image.

    Raises:
        ValueError: if they are not.
    """
    if isinstance(target, Tensor) and target.shape != (count,):
        raise ValueError(
            f"expected targets of shape ({count},), got {tuple(target.shape)}; give each image one class"
        )
