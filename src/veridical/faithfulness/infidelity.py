"""Infidelity: does the map predict how the output changes when the image is perturbed?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import (
    check_choice,
    check_inputs,
    check_logits,
    check_method,
    evaluation_mode,
    resolve_target,
)
from veridical.faithfulness._baselines import Baseline, baseline_images, check_baseline
from veridical.faithfulness.maps import explained
from veridical.metrics import Interval, bootstrap_interval
from veridical.metrics.intervals import Statistic
from veridical.tensors import safe_divide
from veridical.values import Explainer, Target

Perturbation = Literal["gaussian", "square"]


@dataclass(frozen=True)
class InfidelitySettings:
    """How images are perturbed and the map is compared with what happens.

    Attributes:
        perturbation: `"gaussian"` subtracts noise I ~ N(0, noise^2) from every value; `"square"` removes one
            square in all channels: I is the image minus the baseline in it and 0 elsewhere.
        noise: standard deviation of the Gaussian noise, in the units of the network's input.
        side: of the largest square, as a share of the shorter side of the image, in (0, 1]. Each side from
            one pixel up to it is as likely, and so is each place where the square fits; our choice.
        baseline: what removed squares become, as in `FlippingSettings`.
        samples: perturbations, the same ones for every image.
        scaled: multiply each map by the number that fits best, so that the scale of the map does not count
            (the option `normalize` of Captum).
        batch: images in one call of the model or the method; bounds the memory.
        seed: of a local generator.
    """

    perturbation: Perturbation = "gaussian"
    noise: float = 0.2
    side: float = 0.5
    baseline: Baseline = "zero"
    samples: int = 100
    scaled: bool = False
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: if a choice does not exist or a number is out of range.
        """
        check_choice("perturbation", self.perturbation, get_args(Perturbation))
        if not 0 < self.noise < float("inf"):
            raise ValueError(f"expected a positive standard deviation of noise, got {self.noise}; try 0.2")
        if not 0 < self.side <= 1:
            raise ValueError(f"expected a side above 0 and at most 1, got {self.side}; 0.5 is half the image")
        check_baseline(self.baseline)
        if self.samples < 1:
            raise ValueError(f"expected at least one perturbation, got {self.samples}; 100 is usual")
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least one image, got {self.batch}; 64 is usual")


@dataclass(frozen=True, eq=False)
class Infidelity:
    """Infidelity of N maps; less is better.

    Attributes:
        values: float64 (N,), the mean over perturbations I of (scale * I^T phi - (f(x) - f(x - I)))^2, in
            squared logits.
        scale: float64 (N,), 1, or with `scaled` the number that minimizes the value; 0 for a map that is 0
            wherever it is asked.
        output_change: float64 (N,), the mean of (f(x) - f(x - I))^2: the infidelity of a map of zeros.
        target: LongTensor (N,), the explained class.
        settings: how it was measured.
    """

    values: Tensor
    scale: Tensor
    output_change: Tensor
    target: Tensor
    settings: InfidelitySettings

    @property
    def unexplained(self) -> Tensor:
        """`values / output_change` (N,), at most 1 with `scaled`; NaN where the output does not change."""
        return self.values / torch.where(self.output_change > 0, self.output_change, torch.nan)

    def summary(self, statistic: Statistic = "mean", level: float = 0.99) -> Interval:
        """Mean (or median) of the values over images, with its bootstrap interval."""
        seed = self.settings.seed
        return bootstrap_interval(self.values.numpy(), statistic, level=level, seed=seed)


def perturbations(inputs: Tensor, settings: InfidelitySettings) -> Iterator[Tensor]:
    """The perturbations I (N, C, H, W) of a batch, one after another.

    Each is drawn once and used for every image, so that an image's value does not depend on the batch.

    Args:
        inputs: (N, C, H, W).
        settings: what to draw, how often, and the seed.

    Raises:
        ValueError: if the baseline does not fit the channels.
    """
    local = torch.Generator().manual_seed(settings.seed)
    removed = inputs - baseline_images(inputs, settings.baseline)

    def draw() -> Tensor:
        if settings.perturbation == "square":
            return removed * _square(inputs, settings.side, local)
        drawn = torch.randn(inputs.shape[1:], generator=local, dtype=torch.float64) * settings.noise
        return drawn.to(inputs).expand_as(inputs)

    return (draw() for _ in range(settings.samples))


def _square(inputs: Tensor, side: float, local: torch.Generator) -> Tensor:
    """A mask (H, W), 1 in a random square."""
    height, width = inputs.shape[2:]
    largest = max(1, round(side * min(height, width)))

    def below(count: int) -> int:
        return int(torch.randint(count, (), generator=local))

    length = 1 + below(largest)
    top, left = below(height - length + 1), below(width - length + 1)
    mask = inputs.new_zeros(height, width)
    mask[top : top + length, left : left + length] = 1
    return mask


def infidelity(
    model: nn.Module, inputs: Tensor, method: Explainer, *, target: Target = None, **settings: Any
) -> Infidelity:
    """Compare what a map predicts for perturbed images with what the logit of the class does.

    Source: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 2.1.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method; its relevance phi is used value by value, without a channel reduction.
            For `"gaussian"` a map in the units of a gradient is expected, for `"square"` one that also gives
            the change when a square is subtracted; methods of another scale need `scaled`.
        target: explained class; None is the predicted class.
        settings: fields of `InfidelitySettings`: perturbation, noise, side, baseline, samples, scaled, batch,
            seed.

    Returns:
        One value for each image.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range.
    """
    chosen = InfidelitySettings(**settings)
    check_method(method)
    check_inputs(inputs)
    images = inputs.detach()
    drawn = perturbations(images, chosen)
    with evaluation_mode(model):
        with torch.no_grad():
            parts = [check_logits(model(part.clone()), len(part)) for part in images.split(chosen.batch)]
        logits = torch.cat(parts)
        classes = resolve_target(logits, target)
        relevance = explained(model, images, method, classes, chosen.batch)
        clean = logits.double().gather(1, classes[:, None])[:, 0]
        with torch.no_grad():
            outputs = []
            predicted: list[Tensor] = []
            while group := list(islice(drawn, max(1, chosen.batch // len(images)))):
                predicted += [(one * relevance).flatten(1).double().sum(dim=1) for one in group]
                outputs.append(_outputs(model, images, torch.stack(group), classes, chosen.batch))
    return _result(torch.stack(predicted).cpu(), (clean - torch.cat(outputs)).cpu(), classes, chosen)


def _outputs(model: nn.Module, images: Tensor, drawn: Tensor, target: Tensor, batch: int) -> Tensor:
    """Logit of the target (G, N) for each image less each of G perturbations (G, N, C, H, W)."""
    changed = (images - drawn).flatten(0, 1)
    logits = torch.cat([check_logits(model(part), len(part)) for part in changed.split(batch)])
    own = logits.double().gather(1, target.repeat(len(drawn))[:, None])
    return own.reshape(len(drawn), len(images))


def _result(predicted: Tensor, happened: Tensor, target: Tensor, settings: InfidelitySettings) -> Infidelity:
    """From what the maps predict and what happened, both (S, N)."""
    scale = torch.ones(len(target), dtype=torch.float64)
    if settings.scaled:
        scale = safe_divide((predicted * happened).mean(dim=0), predicted.square().mean(dim=0))
    return Infidelity(
        values=(scale * predicted - happened).square().mean(dim=0),
        scale=scale,
        output_change=happened.square().mean(dim=0),
        target=target,
        settings=settings,
    )
