"""Integrated gradients and SmoothGrad: averages of the gradient over many inputs."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from veridical.attributions.gradient import Gradient, Output, input_gradient
from veridical.checks import check_choice
from veridical.smoothing import predicted_target, smoothgrad
from veridical.values import Target

Nodes = Literal["gauss-legendre", "right", "midpoint"]
"""Where the path integral is evaluated: Gauss-Legendre nodes, right ends, or midpoints of equal steps."""

_BATCH = 16


@dataclass(frozen=True)
class IntegratedGradients:
    """The mean gradient on the straight path from a baseline, times the difference.

    Sundararajan et al. 2017.
    Complete: the relevance of an image sums to f(image) - f(baseline), up to the integration error.

    Args:
        steps: number of nodes on the path. Dombrowski 2019 used 30, Bordt 2023 used 50.
        nodes: the quadrature.
        baseline: the value of every pixel of the baseline; 0 is the mean image after ImageNet normalization.
        output: the explained score. Dombrowski's code integrates the softmax probability.
        multiply_by_input: False returns the averaged gradient (Bordt 2023, on the MNIST sets).
        batch: inputs in one forward pass; bounds the memory, and does not change the result.
    """

    steps: int = 50
    nodes: Nodes = "gauss-legendre"
    baseline: float = 0.0
    output: Output = "logit"
    multiply_by_input: bool = True
    batch: int = _BATCH

    def __post_init__(self) -> None:
        """Check the counts."""
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"expected steps and batch of at least 1, got {self.steps} and {self.batch}")
        check_choice("nodes", self.nodes, get_args(Nodes))
        check_choice("output", self.output, get_args(Output))

    @property
    def name(self) -> str:
        """The method's name."""
        return "integrated-gradients"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Signed relevance, of the shape of `inputs`; a target of None is the image's predicted class."""
        classes = predicted_target(model, inputs, target)
        positions, weights = self._quadrature()
        difference = inputs - self.baseline
        mean = torch.zeros_like(inputs)
        count = max(1, self.batch // len(inputs))
        for position, weight in zip(positions.split(count), weights.split(count), strict=True):
            scale = position.to(inputs).view(-1, 1, 1, 1, 1)
            points = (self.baseline + scale * difference).flatten(0, 1)
            gradients, _ = input_gradient(model, points, classes.repeat(len(position)), self.output)
            stacked = gradients.unflatten(0, (len(position), len(inputs)))
            mean = mean + torch.einsum("s,snchw->nchw", weight.to(inputs), stacked)
        return mean * difference if self.multiply_by_input else mean

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Positions in [0, 1] and weights that sum to 1, float64."""
        if self.nodes == "gauss-legendre":
            roots, weights = np.polynomial.legendre.leggauss(self.steps)
            return torch.from_numpy((roots + 1) / 2), torch.from_numpy(weights / 2)
        shift = 1.0 if self.nodes == "right" else 0.5
        positions = (torch.arange(self.steps, dtype=torch.float64) + shift) / self.steps
        return positions, torch.full((self.steps,), 1 / self.steps, dtype=torch.float64)


@dataclass(frozen=True)
class SmoothGrad:
    """The mean signed gradient of noisy copies of the image (Smilkov et al. 2017).

    Args:
        samples: noisy copies. Dombrowski 2019: 10; Sixt 2020: 50; Bordt 2023: 25 or 20.
        noise: standard deviation as a fraction of `range`.
        seed: of the noise, which is the same for every image of a batch.
        range: "image" for the image's own maximum - minimum, or a number in input units.
        output: the explained score.
    """

    samples: int = 25
    noise: float = 0.15
    seed: int = 0
    range: Literal["image"] | float = "image"
    output: Output = "logit"

    def __post_init__(self) -> None:
        """Check the options where they are given."""
        smoothgrad(Gradient(self.output), self.samples, self.noise, seed=self.seed, range=self.range)

    @property
    def name(self) -> str:
        """The method's name."""
        return "smoothgrad"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Signed relevance, of the shape of `inputs`; a target of None is the image's predicted class."""
        averaged = smoothgrad(
            Gradient(self.output), self.samples, self.noise, seed=self.seed, range=self.range
        )
        return averaged(model, inputs, target)
