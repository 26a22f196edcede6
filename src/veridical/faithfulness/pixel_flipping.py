"""Pixel flipping: does the network lose the class when the pixels go that the map calls relevant?

Bach et al. 2015, "pixel-flipping"; Samek et al. 2017 (MoRF, LeRF and random order); Dombrowski et al. 2019,
figure 7 and supplement D.1.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import (
    check_choice,
    check_inputs,
    check_method,
    check_relevance,
    evaluation_mode,
    resolve_target,
)
from veridical.faithfulness._baselines import Baseline, baseline_images, check_baseline
from veridical.faithfulness._flipping import (
    FlippedImages,
    FlippingCurves,
    Quantity,
    check_reused,
    curves_of,
    ends_of,
    logits_of,
    pick,
    ranks_of,
    read,
)
from veridical.faithfulness._seeds import generator
from veridical.faithfulness.maps import (
    Reduction,
    check_reduction,
    default_reduction,
    explained,
    reduce_channels,
)
from veridical.metrics import Interval, bootstrap_interval
from veridical.metrics.intervals import Statistic
from veridical.values import Explainer, Target, explainer_name

FlippingOrder = Literal["morf", "lerf", "both"]


@dataclass(frozen=True)
class FlippingSettings:
    """How pixels are removed.

    Attributes:
        order: `"morf"` removes the most relevant pixels first, `"lerf"` the least relevant first.
        steps: number of steps of equal size up to all pixels, or the fractions themselves: rising, above 0
            and at most 1. Dombrowski et al. do not state theirs; 20 is our choice.
        pixels: pixels in each step instead, the last step taking what is left; None follows `steps`.
        baseline: what a removed pixel becomes in all of its channels: `"zero"` in the units of the network's
            input (the mean color where the input is normalized, as Dombrowski et al. presumably do),
            `"mean"` of the image's channel, `"blur"`, or one value a channel.
        random: random orders to compare with, the same ones for every image; 0 for none.
        reduction: channel reduction that makes the map; None is `default_reduction(method)`.
        batch: images explained, and flipped images predicted, at once; bounds the memory.
        seed: of the random orders, and of the order of tied pixels.
    """

    order: FlippingOrder = "both"
    steps: int | tuple[float, ...] = 20
    pixels: int | None = None
    baseline: Baseline = "zero"
    random: int = 5
    reduction: Reduction | None = None
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            TypeError: if steps is of another type.
            ValueError: if a choice does not exist or a number is out of range.
        """
        check_choice("order", self.order, get_args(FlippingOrder))
        _check_steps(self.steps)
        if self.pixels is not None and self.pixels < 1:
            raise ValueError(f"expected at least one pixel a step, got {self.pixels}; None follows steps")
        check_baseline(self.baseline)
        if self.random < 0:
            raise ValueError(f"expected a number of random orders, got {self.random}; 0 means none")
        if self.reduction is not None:
            check_reduction(self.reduction)
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least one image, got {self.batch}; 64 is usual")


def _check_steps(steps: int | tuple[float, ...]) -> None:
    if isinstance(steps, int):
        if steps < 1:
            raise ValueError(f"expected at least one step, got {steps}; 20 is usual")
        return
    if not isinstance(steps, tuple):
        raise TypeError(f"expected steps as a number or fractions, got {steps!r}; use a tuple of fractions")
    rising = all(low < high for low, high in zip((0.0, *steps), steps, strict=False))
    if not steps or not rising or steps[-1] > 1:
        raise ValueError(
            f"expected rising fractions above 0 and at most 1, got {steps}; or give a number of steps"
        )


@dataclass(frozen=True, eq=False)
class PixelFlipping:
    """Curves of N images as pixels are removed in the order of their maps, and in random orders.

    Attributes:
        morf: curves (N, S + 1), the most relevant pixels first; None where that was not asked for.
        lerf: curves (N, S + 1), the least relevant pixels first; None where that was not asked for.
        random: curves (R, N, S + 1) for R random orders; None where there is none.
        target: LongTensor (N,), the explained class.
        maps: (N, H, W), after the channel reduction.
        reduction: the channel reduction that was used.
        settings: how it was measured.
    """

    morf: FlippingCurves | None
    lerf: FlippingCurves | None
    random: FlippingCurves | None
    target: Tensor
    maps: Tensor
    reduction: str
    settings: FlippingSettings

    @property
    def fractions(self) -> Tensor:
        """Float64 (S + 1,), the share of removed pixels."""
        return next(one for one in (self.morf, self.lerf) if one is not None).fractions

    def statistics(self, quantity: Quantity = "probability") -> dict[str, Tensor]:
        """One value an image (N,) for everything that was measured.

        Returns:
            `morf_area`, `morf_area_over`, `lerf_area`, `lerf_area_over`; `random_area`, the mean over the
            random orders; `separation`, lerf minus morf; `morf_margin`, random minus morf, and `lerf_margin`,
            lerf minus random: above 0 the map does better than chance; `morf_p_value` and `lerf_p_value`, the
            share of orders, itself among the random ones, that do at least as well as the map.
        """
        found: dict[str, Tensor] = {}
        random = None if self.random is None else self.random.area(quantity)
        for name, curves, sign in (("morf", self.morf, 1), ("lerf", self.lerf, -1)):
            if curves is None:
                continue
            area = curves.area(quantity)
            found |= {f"{name}_area": area, f"{name}_area_over": curves.area_over(quantity)}
            if random is not None:
                found["random_area"] = random.mean(dim=0)
                found[f"{name}_margin"] = sign * (found["random_area"] - area)
                as_good = (sign * (random - area) <= 0).sum(dim=0)
                found[f"{name}_p_value"] = (1 + as_good) / (1.0 + len(random))
        if self.morf is not None and self.lerf is not None:
            found["separation"] = found["lerf_area"] - found["morf_area"]
        return found

    def summary(
        self, quantity: Quantity = "probability", statistic: Statistic = "mean", level: float = 0.99
    ) -> dict[str, Interval]:
        """Mean (or median) over images of each of `statistics`, with its bootstrap interval.

        The intervals of `morf_margin` and `lerf_margin` are those of paired differences: where one lies above
        0, the maps do better than random orders on images like these.
        """
        seed = self.settings.seed
        return {
            name: bootstrap_interval(values.numpy(), statistic, level=level, seed=seed)
            for name, values in self.statistics(quantity).items()
        }


def pixel_flipping(
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    *,
    target: Target = None,
    relevance: Tensor | None = None,
    reuse: PixelFlipping | None = None,
    **settings: Any,
) -> PixelFlipping:
    """Remove pixels in the order of their relevance and watch the explained class.

    All channels of a removed pixel become the baseline. Pixels of equal relevance follow one another in one
    pseudo-random order, the same for every image and for MoRF and LeRF: a constant map gives the curves of a
    random order, and no difference between MoRF and LeRF. Every flipped image costs one forward pass; those
    with no pixel and with all pixels removed are shared by all orders.

    Source: Bach et al. 2015; Samek et al. 2017; Dombrowski et al. 2019, figure 7.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method.
        target: explained class; None is the class that the network predicts for the whole image.
        relevance: what the method has already said about these images and classes; None asks it.
        reuse: a result for the same model, images, target and settings, whose random orders are not measured
            again; they do not depend on the method.
        settings: fields of `FlippingSettings`: order, steps, pixels, baseline, random, reduction, batch,
            seed.

    Returns:
        Curves for each image; small areas are good for MoRF, large ones for LeRF.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range, an image has fewer pixels than steps, or `reuse` was
            measured otherwise.
    """
    if isinstance(settings.get("steps"), list):
        settings["steps"] = tuple(settings["steps"])
    chosen = FlippingSettings(**settings)
    check_method(method)
    check_inputs(inputs)
    images = inputs.detach()
    counts = _counts(chosen, images.shape[2] * images.shape[3])
    removed = baseline_images(images, chosen.baseline)
    reduction = chosen.reduction or default_reduction(method)
    with evaluation_mode(model):
        with torch.no_grad():
            logits = logits_of(model, images, chosen.batch)
        classes = resolve_target(logits, target)
        shared = FlippedImages(model, images, removed, classes, counts, chosen.batch)
        start = read(logits, classes)
        _check_reuse(reuse, chosen, classes, start)
        if relevance is None:
            relevance = explained(model, images, method, classes, chosen.batch)
        maps = reduce_channels(check_relevance(relevance, images, explainer_name(method)), reduction)
        names = ("morf", "lerf") if chosen.order == "both" else (chosen.order,)
        ranks = torch.stack([ranks_of(maps, name == "morf", chosen.seed) for name in names])
        with torch.no_grad():
            ends = ends_of(shared, start)
            own = curves_of(shared, ranks, ends)
            random = reuse.random if reuse else _random_curves(shared, chosen, ends)
    found = {name: pick(own, place) for place, name in enumerate(names)}
    return PixelFlipping(found.get("morf"), found.get("lerf"), random, classes, maps, reduction, chosen)


def _counts(chosen: FlippingSettings, pixels: int) -> tuple[int, ...]:
    """How many pixels are removed in each step, 0 first."""
    if chosen.pixels is not None:
        return (*range(0, pixels, chosen.pixels), pixels)
    steps = chosen.steps
    if isinstance(steps, int):
        fractions = [step / steps for step in range(1, steps + 1)]
    else:
        fractions = list(steps)
    counts = (0, *(math.floor(fraction * pixels + 0.5) for fraction in fractions))
    if any(low == high for low, high in zip(counts, counts[1:], strict=False)):
        raise ValueError(
            f"expected steps of at least one of {pixels} pixels, got steps {chosen.steps}; take fewer steps"
        )
    return counts


def _check_reuse(
    reuse: PixelFlipping | None, chosen: FlippingSettings, target: Tensor, start: Tensor
) -> None:
    if reuse is None:
        return
    # The random orders do not depend on these.
    other = replace(reuse.settings, order=chosen.order, reduction=chosen.reduction, batch=chosen.batch)
    before = next(one for one in (reuse.morf, reuse.lerf) if one is not None).logit[:, 0]
    same = torch.equal(reuse.target, target) and torch.allclose(before, start[:, 1], rtol=1e-4, atol=1e-6)
    check_reused(other, chosen, same=same)


def _random_curves(
    shared: FlippedImages, chosen: FlippingSettings, ends: tuple[Tensor, Tensor]
) -> FlippingCurves | None:
    if not chosen.random:
        return None
    orders = [
        torch.randperm(shared.pixels, generator=generator(chosen.seed, number + 1))
        for number in range(chosen.random)
    ]
    return curves_of(shared, torch.stack(orders)[:, None], ends)
