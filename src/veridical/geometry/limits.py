"""Theorem 2 of Dombrowski et al. 2019: beta-smoothing as the limit of SmoothGrad, for one layer.

g(x) = relu(w x) has the gradient w where w x > 0. Averaged over noise e it is w P(w e < w x). Where the part
of e along w / ||w|| is logistic with scale 1 / beta, that is w sigmoid(beta w x / ||w||), the gradient of
softplus with sharpness beta / ||w||. The proof draws every coordinate of e from that distribution and takes
the part along w to have it too; that is so only where w lies along an axis. It is a weighted sum of
independent logistic variables, and this module says how far its distribution is from the logistic one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, ndtr
from torch import Tensor

from veridical.checks import check_choice
from veridical.smoothing.schedule import check_beta

Noise = Literal["exact", "coordinates", "gaussian"]
"""Logistic along w (and nothing across it); logistic in each coordinate; normal in each coordinate."""

_GRID = 4001
_BLOCK = 1024
_FAR = 150.0


def gaussian_sigma(beta: float) -> float:
    """Standard deviation log(2) sqrt(2 pi) / beta of the normal noise in place of the logistic.

    It makes E relu(e) the same at 0, log(2) / beta. The paper calls it a variance. The standard deviation of
    the logistic distribution itself is pi / (sqrt(3) beta), 4 % more; its distribution function lies further
    away (0.0227 at most, against 0.0136).

    Raises:
        ValueError: if beta is not positive and finite.
    """
    return math.log(2.0) * math.sqrt(2.0 * math.pi) / check_beta(beta)


def draw_noise(weight: Tensor, beta: float, noise: Noise, samples: int, seed: int = 0) -> Tensor:
    """Samples (M, d) in float64 of the noise of theorem 2.

    Args:
        weight: (d,), not 0.
        beta: sharpness.
        noise: which distribution.
        samples: M.
        seed: of a local generator.

    Raises:
        ValueError: if an argument is out of range.
    """
    direction = _direction(weight)
    check_choice("noise", noise, get_args(Noise))
    check_beta(beta)
    if samples < 1:
        raise ValueError(f"expected at least one sample, got {samples}; 100000 is usual")
    generator = np.random.default_rng(seed)
    if noise == "exact":
        along = generator.logistic(scale=1 / beta, size=(samples, 1))
        return torch.from_numpy(along * direction)
    shape = (samples, len(direction))
    if noise == "gaussian":
        return torch.from_numpy(generator.normal(scale=gaussian_sigma(beta), size=shape))
    return torch.from_numpy(generator.logistic(scale=1 / beta, size=shape))


def gate_probability(weight: Tensor, margin: Tensor, beta: float, noise: Noise) -> Tensor:
    """P(w e / ||w|| < margin): the share of noisy copies for which the unit is on, without sampling.

    For "coordinates" by inversion of the characteristic function, the product over i of
    pi u_i t / beta / sinh(pi u_i t / beta) with u = w / ||w||; right to about 1e-9.

    Args:
        weight: (d,), not 0.
        margin: any shape, w x / ||w||.
        beta: sharpness.
        noise: which distribution.

    Returns:
        float64 of the shape of `margin`.

    Raises:
        ValueError: if an argument is out of range.
    """
    direction = _direction(weight)
    check_choice("noise", noise, get_args(Noise))
    scaled = margin.detach().double().cpu().numpy() * check_beta(beta)
    if noise == "exact":
        return torch.from_numpy(np.asarray(expit(scaled)))
    if noise == "gaussian":
        return torch.from_numpy(np.asarray(ndtr(scaled / gaussian_sigma(1.0))))
    return torch.from_numpy(_inverted(direction, scaled))


def gate_deviation(weight: Tensor, noise: Noise) -> float:
    """Largest distance of the gate's probability from the sigmoid, over all margins; the same for every beta.

    Args:
        weight: (d,), not 0.
        noise: "exact" gives 0; "coordinates" the error of the paper's proof; "gaussian" that of the normal.

    Raises:
        ValueError: if an argument is out of range.
    """
    margins = torch.linspace(0, 12, _GRID, dtype=torch.float64)
    gate = gate_probability(weight, margins, 1.0, noise)
    return float((gate - torch.sigmoid(margins)).abs().max())


def _inverted(direction: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distribution function of a sum of independent standard logistic variables with weights `direction`."""
    step = 2.0**-6
    t = (np.arange(1024) + 0.5) * step
    logarithm = np.zeros_like(t)
    for block in np.array_split(np.abs(direction), -(-len(direction) // _BLOCK)):
        scaled = np.pi * block[:, None] * t
        safe = np.where(scaled < 1e-8, 1.0, scaled)
        terms = np.log(2 * safe) - safe - np.log1p(-np.exp(-2 * safe))
        logarithm += np.where(scaled < 1e-8, 0.0, terms).sum(axis=0)
    transform = np.exp(logarithm)
    waves = np.sin(values.reshape(-1, 1).clip(-_FAR, _FAR) * t)  # periodic beyond
    found: NDArray[np.float64] = 0.5 + step / np.pi * (waves @ (transform / t))
    return found.reshape(values.shape)


def _direction(weight: Tensor) -> NDArray[np.float64]:
    if weight.dim() != 1 or weight.numel() == 0:
        raise ValueError(f"expected the weight of one unit, (d,), got shape {tuple(weight.shape)}")
    values: NDArray[np.float64] = weight.detach().double().cpu().numpy()
    length = float(np.linalg.norm(values))
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"expected a weight of finite, positive norm, got {length}; theorem 2 divides by it")
    return values / length


@dataclass(frozen=True, eq=False)
class SmoothGradLimit:
    """Theorem 2 at one point.

    Attributes:
        mean: float64 (d,), the ReLU unit's gradient averaged over the samples.
        error: float64 (d,), standard error of `mean`.
        expected: float64 (d,), what the mean tends to under this noise.
        smoothed: float64 (d,), the gradient of softplus with sharpness beta / ||w||: `expected` for "exact".
        noise: which distribution.
        samples: how many.
        beta: sharpness.
        seed: of the samples.
    """

    mean: Tensor
    error: Tensor
    expected: Tensor
    smoothed: Tensor
    noise: Noise
    samples: int
    beta: float
    seed: int


def smoothgrad_limit(
    weight: Tensor,
    point: Tensor,
    beta: float,
    *,
    noise: Noise = "exact",
    samples: int = 10_000,
    seed: int = 0,
) -> SmoothGradLimit:
    """SmoothGrad of relu(w x) at a point beside the gradient of the smoothed unit.

    Args:
        weight: w (d,), not 0.
        point: x (d,).
        beta: of the noise; the smoothed unit has beta / ||w||.
        noise: which distribution.
        samples: noisy copies.
        seed: of a local generator.

    Raises:
        ValueError: if an argument is out of range.

    Source: Dombrowski et al. 2019, theorem 2 and supplement E.2, equations 30 to 37.
    """
    if point.shape != weight.shape:
        raise ValueError(f"expected a point of shape {tuple(weight.shape)}, got {tuple(point.shape)}")
    noises = draw_noise(weight, beta, noise, samples, seed)
    w, x = weight.detach().double().cpu(), point.detach().double().cpu()
    share = ((x - noises) @ w > 0).double().mean()
    margin = w @ x / w.norm()
    gate = gate_probability(weight, margin, beta, noise)
    error = (gate * (1 - gate) / samples).sqrt()
    return SmoothGradLimit(
        w * share, w.abs() * error, w * gate, w * torch.sigmoid(beta * margin), noise, samples, beta, seed
    )
