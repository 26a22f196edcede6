"""Infidelity: does the map predict how the output changes when the image is perturbed?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import (
    check_choice,
    check_inputs,
    check_logits,
    check_method,
    check_relevance,
    evaluation_mode,
    resolve_target,
)
from veridical.faithfulness._baselines import Baseline, baseline_images, check_baseline
from veridical.faithfulness._flipping import check_reused, logits_of
from veridical.faithfulness._seeds import generator
from veridical.faithfulness.maps import explained, is_slope
from veridical.metrics import Interval, bootstrap_interval
from veridical.metrics.intervals import Statistic
from veridical.tensors import safe_divide
from veridical.values import Explainer, Target, explainer_name

Perturbation = Literal["gaussian", "square"]
Reading = Literal["slope", "contribution"]


def default_reading(method: str | Explainer) -> Reading:
    """How the map of a method is to be read where squares are removed.

    Args:
        method: built-in name, or a method; see `veridical.faithfulness.maps.is_slope`.

    Returns:
        `"slope"` for the gradient and its modifications, averages of it included, and for integrated
        gradients without the factor of the input; `"contribution"` for every other method.
    """
    return "slope" if is_slope(method) else "contribution"


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
        reading: `"slope"`: a map predicts I^T phi, as Yeh et al. 2019 define it, and a gradient is meant.
            `"contribution"`, for squares only: phi says of every value what it adds to the logit, and a map
            predicts its sum over what is removed (Captum's `multiply_by_inputs`, for a baseline of zero).
        scaled: multiply each map by the number that fits best, so that the scale of the map does not count
            (the option `normalize` of Captum).
        shuffles: how often the same map with its pixels in random order is measured too, for comparison.
        batch: images in one call of the model or the method; bounds the memory.
        seed: of a local generator.
    """

    perturbation: Perturbation = "gaussian"
    noise: float = 0.2
    side: float = 0.5
    baseline: Baseline = "zero"
    samples: int = 100
    reading: Reading = "slope"
    scaled: bool = False
    shuffles: int = 0
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
        check_choice("reading", self.reading, get_args(Reading))
        if self.reading == "contribution" and self.perturbation == "gaussian":
            raise ValueError(
                "expected squares for a map of contributions, got Gaussian noise, which removes nothing; "
                'choose perturbation="square" or reading="slope"'
            )
        if self.samples < 1:
            raise ValueError(f"expected at least one perturbation, got {self.samples}; 100 is usual")
        if self.shuffles < 0:
            raise ValueError(f"expected a number of shuffled maps, got {self.shuffles}; 0 means none")
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
        explained: float64 (N,), the share of the output's change that the map predicts whatever its scale:
            the squared cosine of predictions and changes, in [0, 1]; 0 where the cosine is negative, as a map
            of the wrong sign explains nothing. NaN where the output does not change.
        chance: float64 (N,), the same of the map with its pixels in random order, mean over `shuffles`; NaN
            where there are none.
        changes: float64 (S, N), f(x) - f(x - I) of each perturbation.
        logit: float64 (N,), f(x).
        target: LongTensor (N,), the explained class.
        settings: how it was measured.
    """

    values: Tensor
    scale: Tensor
    explained: Tensor
    chance: Tensor
    changes: Tensor
    logit: Tensor
    target: Tensor
    settings: InfidelitySettings

    @property
    def output_change(self) -> Tensor:
        """Float64 (N,), the mean of (f(x) - f(x - I))^2: the infidelity of a map of zeros."""
        return self.changes.square().mean(dim=0)

    @property
    def unexplained(self) -> Tensor:
        """`values / output_change` (N,), at most 1 with `scaled`; NaN where the output does not change."""
        return self.values / _positive(self.output_change)

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
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    *,
    target: Target = None,
    relevance: Tensor | None = None,
    reuse: Infidelity | None = None,
    **settings: Any,
) -> Infidelity:
    """Compare what a map predicts for perturbed images with what the logit of the class does.

    Source: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 2.1. The share
    that is explained at any scale, and the comparison with shuffled maps, are ours.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method; its relevance phi is used value by value, without a channel reduction.
            See `InfidelitySettings.reading` for what it is taken to mean; methods in other units than the
            logit's need `scaled`.
        target: explained class; None is the predicted class.
        relevance: what the method has already said about these images and classes; None asks it.
        reuse: a result for the same model, images, target and perturbations, of any method, whose perturbed
            images are not predicted again.
        settings: fields of `InfidelitySettings`: perturbation, noise, side, baseline, samples, reading,
            scaled, shuffles, batch, seed.

    Returns:
        One value for each image.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range, or `reuse` was measured otherwise.
    """
    chosen = InfidelitySettings(**settings)
    check_method(method)
    check_inputs(inputs)
    images = inputs.detach()
    drawn = perturbations(images, chosen)
    with evaluation_mode(model):
        with torch.no_grad():
            logits = logits_of(model, images, chosen.batch).double()
        classes = resolve_target(logits, target)
        logit = logits.gather(1, classes[:, None])[:, 0]
        _check_reuse(reuse, chosen, classes, logit.cpu())
        if relevance is None:
            relevance = explained(model, images, method, classes, chosen.batch)
        maps = _with_shuffled(check_relevance(relevance, images, explainer_name(method)).detach(), chosen)
        predicted: list[Tensor] = []
        outputs: list[Tensor] = []
        with torch.no_grad():
            while group := list(islice(drawn, max(1, chosen.batch // len(images)))):
                predicted.append(_predicted(maps, torch.stack(group), chosen.reading))
                if reuse is None:
                    outputs.append(_outputs(model, images, torch.stack(group), classes, chosen.batch))
    changes = reuse.changes if reuse else (logit - torch.cat(outputs)).cpu()
    return _result(torch.cat(predicted).cpu(), changes, (logit.cpu(), classes), chosen)


def _check_reuse(reuse: Infidelity | None, chosen: InfidelitySettings, target: Tensor, logit: Tensor) -> None:
    if reuse is None:
        return
    # The changed outputs do not depend on these.
    other = replace(
        reuse.settings, reading=chosen.reading, scaled=chosen.scaled, shuffles=chosen.shuffles,
        batch=chosen.batch,
    )  # fmt: skip
    same = torch.equal(reuse.target, target) and torch.allclose(reuse.logit, logit, rtol=1e-4, atol=1e-6)
    check_reused(other, chosen, same=same)


def _with_shuffled(relevance: Tensor, settings: InfidelitySettings) -> Tensor:
    """The map and its shuffled forms, float64 (N, 1 + R, D); one order of the pixels for all images."""
    values = relevance.double().flatten(2)
    found = [values]
    for number in range(settings.shuffles):
        order = torch.randperm(values.shape[2], generator=generator(settings.seed, number + 1))
        found.append(values[..., order.to(values.device)])
    return torch.stack(found, dim=1).flatten(2)


def _predicted(maps: Tensor, drawn: Tensor, reading: Reading) -> Tensor:
    """What maps (N, M, D) predict for perturbations (G, N, C, H, W): float64 (G, M, N)."""
    weights = drawn if reading == "slope" else (drawn != 0)
    return torch.einsum("nmd,gnd->gmn", maps, weights.flatten(2).double())


def _outputs(model: nn.Module, images: Tensor, drawn: Tensor, target: Tensor, batch: int) -> Tensor:
    """Logit of the target (G, N) for each image less each of G perturbations (G, N, C, H, W)."""
    changed = (images - drawn).flatten(0, 1)
    logits = torch.cat([check_logits(model(part), len(part)) for part in changed.split(batch)])
    own = logits.double().gather(1, target.repeat(len(drawn))[:, None])
    return own.reshape(len(drawn), len(images))


def _result(
    predicted: Tensor, changes: Tensor, about: tuple[Tensor, Tensor], settings: InfidelitySettings
) -> Infidelity:
    """From what the map and its shuffled forms predict (S, 1 + R, N), and what happened (S, N)."""
    own, scale = predicted[:, 0], torch.ones(predicted.shape[2], dtype=torch.float64)
    if settings.scaled:
        scale = safe_divide((own * changes).mean(dim=0), own.square().mean(dim=0))
    shares = _explained(predicted, changes)
    logit, target = about
    return Infidelity(
        values=(scale * own - changes).square().mean(dim=0),
        scale=scale,
        explained=shares[0],
        chance=shares[1:].mean(dim=0),
        changes=changes,
        logit=logit,
        target=target,
        settings=settings,
    )


def _explained(predicted: Tensor, changes: Tensor) -> Tensor:
    """The squared cosine (M, N) of predictions (S, M, N) and changes (S, N), 0 where it is negative."""
    agreement = (predicted * changes[:, None]).mean(dim=0).clamp(min=0)
    shares = safe_divide(agreement.square(), predicted.square().mean(dim=0))
    return (shares / _positive(changes.square().mean(dim=0))).clamp(max=1)


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.nan)
