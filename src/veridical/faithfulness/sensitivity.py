"""Sensitivity: how far does the explanation move when the image hardly does?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import check_inputs, check_method, check_relevance, evaluation_mode, resolve_target
from veridical.faithfulness._flipping import logits_of
from veridical.faithfulness.maps import explained
from veridical.metrics import Interval, bootstrap_interval
from veridical.metrics.intervals import Statistic
from veridical.values import Explainer, Target, explainer_name


@dataclass(frozen=True)
class SensitivitySettings:
    """How images are moved.

    Attributes:
        radius: largest change of a value, in the units of the network's input; one number, or one a channel,
            of which some may be 0.
        samples: changed copies of each image; the maximum over more of them comes nearer to the true one.
        batch: images in one call of the method; bounds the memory.
        seed: of a local generator.
    """

    radius: float | tuple[float, ...] = 0.02
    samples: int = 10
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is out of range.
        """
        radii = self.radius if isinstance(self.radius, tuple) else (self.radius,)
        if not all(0 <= one < float("inf") for one in radii) or not any(radii):
            raise ValueError(
                f"expected a positive radius, got {self.radius}; try 0.02, and 0 only for some channels"
            )
        if self.samples < 1:
            raise ValueError(f"expected at least one sample, got {self.samples}; 10 is usual")
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least one image, got {self.batch}; 64 is usual")


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How far the relevance of N images moved, by the Euclidean (Frobenius) norm over all values.

    Attributes:
        values: float64 (N,), the largest distance divided by the norm of the relevance of the image itself;
            NaN where that norm is 0.
        largest: float64 (N,), the largest distance itself, max-sensitivity as Yeh et al. define it.
        distances: float64 (S, N), of each sample.
        target: LongTensor (N,), the explained class, that of the image itself for every sample.
        settings: how it was measured.
    """

    values: Tensor
    largest: Tensor
    distances: Tensor
    target: Tensor
    settings: SensitivitySettings

    def summary(self, statistic: Statistic = "mean", level: float = 0.99) -> Interval:
        """Mean (or median) of the values over images, with its bootstrap interval."""
        seed = self.settings.seed
        return bootstrap_interval(self.values.numpy(), statistic, level=level, seed=seed)


def noise_in_ball(inputs: Tensor, settings: SensitivitySettings) -> Iterator[Tensor]:
    """Noise (C, H, W), uniform in the ball of the largest change, one sample after another.

    Args:
        inputs: (N, C, H, W); the same noise is meant for all of them.
        settings: radius, how many samples, and the seed.

    Raises:
        ValueError: if the number of radii is not that of the channels.
    """
    radius = torch.tensor(settings.radius, dtype=torch.float64).reshape(-1, 1, 1)
    if len(radius) not in (1, inputs.shape[1]):
        raise ValueError(f"expected one radius, or {inputs.shape[1]} of them, got {len(radius)}")
    return _drawn(inputs, radius, settings)


def _drawn(inputs: Tensor, radius: Tensor, settings: SensitivitySettings) -> Iterator[Tensor]:
    local = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.samples):
        drawn = 2 * torch.rand(inputs.shape[1:], generator=local, dtype=torch.float64) - 1
        yield (radius * drawn).to(inputs)


def sensitivity(
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    *,
    target: Target = None,
    relevance: Tensor | None = None,
    **settings: Any,
) -> Sensitivity:
    """The largest change of the explanation within a small ball around the image, by random samples.

    A lower bound of the true maximum. It says how rough a method is, not whether it is right: a constant map
    has sensitivity 0.

    Source: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", section 4; the relative
    form is that of Captum's `sensitivity_max`.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method; its relevance is compared value by value, without a channel reduction.
        target: explained class; None is the class predicted for the image itself.
        relevance: what the method has already said about these images and classes; None asks it.
        settings: fields of `SensitivitySettings`: radius, samples, batch, seed.

    Returns:
        One value for each image.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range.
    """
    chosen = SensitivitySettings(**settings)
    check_method(method)
    check_inputs(inputs)
    images, moved = inputs.detach(), []
    noise = noise_in_ball(images, chosen)
    with evaluation_mode(model):
        with torch.no_grad():
            classes = resolve_target(logits_of(model, images, chosen.batch), target)
        if relevance is None:
            relevance = explained(model, images, method, classes, chosen.batch)
        relevance = check_relevance(relevance, images, explainer_name(method)).detach()
        while group := list(islice(noise, max(1, chosen.batch // len(images)))):
            near = (images + torch.stack(group)[:, None]).flatten(0, 1)
            found = explained(model, near, method, classes.repeat(len(group)), chosen.batch)
            moved.append(_norms(found.reshape(len(group), *images.shape) - relevance))
    distances = torch.cat(moved).cpu()
    norm, largest = _norms(relevance).cpu(), distances.amax(dim=0)
    values = largest / torch.where(norm > 0, norm, torch.nan)
    return Sensitivity(values, largest, distances, classes, chosen)


def _norms(relevance: Tensor) -> Tensor:
    """Euclidean norm of each image's relevance (..., C, H, W), in double precision."""
    return relevance.double().square().sum(dim=(-3, -2, -1)).sqrt()
