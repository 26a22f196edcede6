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

    R = (x - x0) sum_j w_j df / dx at x0 + a_j (x - x0), with nodes a_j in [0, 1] and weights w_j that sum to
    1. Every operation, pooling, residual sums and BatchNorm included, has its gradient; the bias has no part
    of its own. Complete: the relevance of an image sums to f(x) - f(x0), up to the error of the quadrature.

    Args:
        steps: number of nodes on the path. Dombrowski 2019 used 30, Bordt 2023 used 50.
        nodes: the quadrature.
        baseline: the value of every pixel of the baseline; 0 is the mean image after ImageNet normalization.
        output: the explained score. Dombrowski's code integrates the softmax probability.
        multiply_by_input: False returns the averaged gradient (Bordt 2023, on the MNIST sets).
        batch: inputs in one forward pass; bounds the memory, and does not change the result.

    Source:
        Sundararajan et al. 2017, section 3 (eq. 1; completeness is proposition 1).

    Deviations:
        The paper takes right ends of equal steps; so does Dombrowski's code (30, on the softmax probability,
        differentiated once for all nodes). Gauss-Legendre nodes, the default, need fewer steps. Bordt's code
        leaves out the factor x - x0 on the MNIST sets and keeps it on the medical ones; the convention
        "bordt2023" is the former. The baseline is one value for all pixels, after the preprocessing.

    Peers:
        Captum `IntegratedGradients` with `gausslegendre`, `riemann_right` (`nodes="right"`) and
        `riemann_middle` (`nodes="midpoint"`), float32 and float64; Zennit `IntegratedGradients`
        (`nodes="right"`): equal to 1e-5 of the largest value. In float64 Captum is off by 1e-8, because it
        keeps its nodes in float32.
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

    R = mean over i of df / dx at x + e_i, e_i normal with the standard deviation noise x range. Every
    operation, pooling, residual sums and BatchNorm included, has its gradient; the bias has no part of its
    own. The same mean over another method is `veridical.smoothgrad(method)`.

    Args:
        samples: noisy copies. Dombrowski 2019: 10; Sixt 2020: 50; Bordt 2023: 25 or 20.
        noise: standard deviation as a fraction of `range`.
        seed: of the noise, which is the same for every image of a batch.
        range: "image" for the image's own maximum - minimum, or a number in input units.
        output: the explained score.

    Source:
        Smilkov et al. 2017. Used by Dombrowski et al. 2019 (10 samples), Sixt et al. 2020 (50 samples, 0.15)
        and Bordt et al. 2023 (25 samples, 0.02; 20 samples, 0.2).

    Deviations:
        The range is each image's own; Sixt's code took that of one example image, Bordt's noise is in input
        units (`range=1.0`), and whether Dombrowski's range is that of pixels or of normalized values is not
        known. The mean is over signed gradients, as in the code of Sixt and Bordt. Every image of a batch
        gets the same noise, so that a batch gives what its images give alone.

    Peers:
        Captum `NoiseTunnel` over `Saliency(abs=False)` (`range=1.0`) and Zennit `SmoothGrad`, both handed our
        noise in the place of their draw: equal to 1e-5 of the largest value. Zennit's last sample has no
        noise; the comparison accounts for it.
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
