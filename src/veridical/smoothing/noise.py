"""SmoothGrad over any method: the mean relevance of noisy copies of the image.

Smilkov et al. 2017; Dombrowski et al. 2019, supplement D, use ten copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.checks import check_relevance
from veridical.smoothing.softplus import predicted_target
from veridical.values import Explainer, Target, explainer_name, is_differentiable

_FOLDED_BATCH = 16


@dataclass(frozen=True)
class NoiseAveraged:
    """``mean_i h(x + e_i)`` with ``e_i ~ N(0, sigma^2)`` and ``sigma = noise * range``.

    The same noise is used for every image of a batch, so that a batch of n gives what n batches of one
    give. A target of None is the class predicted for the clean image. The result is differentiable where
    `inputs` requires grad, through the range of the image too.

    Args:
        explainer: the method to average.
        samples: the number of noisy copies.
        noise: the noise level, a fraction of the range.
        seed: of the generator that is made for this call; the global generator is not touched.
        range: "image" for each image's own max - min over all channels, or a number in input units (a
            paper's "values an input can take": 1 for images in [0, 1], 4.76 for ImageNet normalization).
        chunk: noisy copies in one call of `explainer`; None folds up to 16 images into one batch.
        average: "signed" averages the relevance as it comes, "normalized" first turns each map into
            ``|R| / sum |R|``. The paper does not say which of the two it did.
    """

    explainer: Explainer
    samples: int = 10
    noise: float = 0.1
    seed: int = 0
    range: Literal["image"] | float = "image"
    chunk: int | None = None
    average: Literal["signed", "normalized"] = "signed"

    def __post_init__(self) -> None:
        for name, count in (("samples", self.samples), ("chunk", 1 if self.chunk is None else self.chunk)):
            if count < 1:
                raise ValueError(f"expected {name} of at least 1, got {count}; give a positive whole number")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"expected a noise level of 0 or more, got {self.noise}; try noise=0.1")
        known = self.range == "image" if isinstance(self.range, str) else 0 < self.range < math.inf
        if not known:
            raise ValueError(
                f"expected range='image' or a positive number, got {self.range!r}; give the width"
            )
        if self.average not in ("signed", "normalized"):
            raise ValueError(
                f"expected average 'signed' or 'normalized', got {self.average!r}; choose one of them"
            )

    @property
    def name(self) -> str:
        """The name of the averaged method, with the wrapper."""
        return f"smoothgrad({explainer_name(self.explainer)}, samples={self.samples}, noise={self.noise:g})"

    @property
    def differentiable(self) -> bool:
        """Whether the averaged method is."""
        return is_differentiable(self.explainer)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Mean relevance (N, C, H, W) over the noisy copies."""
        batch = len(inputs)
        classes = predicted_target(model, inputs, target)
        noise = self._noise(inputs)
        chunk = self.chunk or max(1, _FOLDED_BATCH // max(1, batch))
        total = torch.zeros_like(inputs)
        for part in torch.split(noise, chunk):
            noisy = (inputs + part.unsqueeze(1) * self._sigma(inputs)).flatten(0, 1)
            found = self.explainer(model, noisy, classes.repeat(len(part)))
            relevance = check_relevance(found, noisy, explainer_name(self.explainer), finite=False)
            total = total + self._weighted(relevance).reshape(len(part), *inputs.shape).sum(0)
        return total / self.samples

    def _noise(self, inputs: Tensor) -> Tensor:
        """Standard normal noise (samples, C, H, W), drawn on the CPU so that every device sees the same."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, *inputs.shape[1:])
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(inputs)

    def _sigma(self, inputs: Tensor) -> Tensor | float:
        if not isinstance(self.range, str):
            return self.noise * self.range
        return self.noise * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))

    def _weighted(self, relevance: Tensor) -> Tensor:
        if self.average == "signed":
            return relevance
        size = relevance.abs()
        return size / size.sum((1, 2, 3), keepdim=True)


def smoothgrad(
    explainer: Explainer,
    samples: int = 10,
    noise: float = 0.1,
    *,
    seed: int = 0,
    range: Literal["image"] | float = "image",
    chunk: int | None = None,
) -> NoiseAveraged:
    """`explainer` averaged over noisy copies of the input; see `NoiseAveraged`.

    Raises:
        ValueError: where a count is below 1, the noise is negative, or the range is not a positive number.
    """
    return NoiseAveraged(explainer, samples, noise, seed, range, chunk)
