"""Principal curvatures of the level sets of a network's output (Dombrowski et al. 2019, section 3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor, nn

from veridical.checks import evaluation_mode
from veridical.geometry.lanczos import largest_eigenpairs
from veridical.geometry.output import Output, Score, ShapeOperator, check_curved, output_of
from veridical.metrics import Box, box
from veridical.smoothing import predicted_target
from veridical.tensors import flushed_denormals
from veridical.values import Target

Progress = Callable[[float], None]
"""Called with the share of the work that is done, in (0, 1]."""


@dataclass(frozen=True)
class CurvatureSettings:
    """How curvatures are computed.

    One image costs one forward and backward pass and at most `steps + top` products with the Hessian, each
    about the price of another forward and backward pass.

    Args:
        top: how many curvatures of largest magnitude.
        steps: most Lanczos steps of an image.
        tolerance: of residuals relative to the image's largest magnitude. The error of an eigenvalue is about
            the square of its residual over the gap to the next one.
        score: g is the class's "logit" or its "probability".
        seed: of the start vectors.
        batch: images at a time; each needs room for `steps` images and for the graph of a double backward.

    Raises:
        ValueError: where a number is out of range.
    """

    top: int = 3
    steps: int = 50
    tolerance: float = 1e-4
    score: Score = "logit"
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("top", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}; leave it out")
        if self.top > self.steps:
            raise ValueError(f"expected top <= steps, got {self.top} > {self.steps}; raise steps")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"expected a tolerance in [0, 1), got {self.tolerance}; 1e-4 is usual")


@dataclass(frozen=True, eq=False)
class Curvature:
    """Principal curvatures of {g = g(x)} at N images: eigenvalues of P H P / ||grad g||.

    A curvature is positive where the set bends away from the gradient, as a sphere does for g = ||x||^2 / 2.
    NaN where the gradient is 0 and there is no normal.

    Attributes:
        top: float64 (N, k), in the order of falling magnitude.
        residuals: float64 (N, k), ||A v - value v||; a curvature lies within it of each value.
        gradient_norm: float64 (N,).
        value: float64 (N,), g.
        steps: LongTensor (N,), Lanczos steps.
        classes: LongTensor (N,).
        beta: of the softplus, or None.
        settings: how they were computed.
    """

    top: Tensor
    residuals: Tensor
    gradient_norm: Tensor
    value: Tensor
    steps: Tensor
    classes: Tensor
    beta: float | None
    settings: CurvatureSettings

    @property
    def largest(self) -> Tensor:
        """float64 (N,), the curvature of largest magnitude, with its sign."""
        return self.top[:, 0]

    @property
    def converged(self) -> Tensor:
        """BoolTensor (N,): whether the residual of the largest is within twice the tolerance."""
        return self.residuals[:, 0] <= 2 * self.settings.tolerance * self.largest.abs()


def curvature(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    beta: float | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Curvature:
    """Principal curvatures of largest magnitude of the level set of the network's output at each image.

    The unit normal n of {g = c} is the normalized gradient map; its derivative along the set has these
    eigenvalues, so the largest says how fast the map can turn while the output stays as it is.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: (N, C, H, W). Use float64 images and network for more than about 5 digits.
        target: the class of g; None for the class that the unmodified network predicts.
        beta: the network is taken with softplus_beta in place of ReLU. A network with ReLU needs one.
        progress: called with the share that is done.
        settings: fields of `CurvatureSettings`: top, steps, tolerance, score, seed, batch.

    Returns:
        One row for each image; it does not depend on the other images of the batch.

    Raises:
        TypeError: if something is of the wrong type or a setting does not exist.
        ValueError: if a network with ReLU gets no beta, the network is piecewise linear, beta is given to a
            network without ReLU, or a value is out of range.

    Source: Dombrowski et al. 2019, section 3 and supplement E.1, equations 19 to 23. The paper's second
    fundamental form has the sign of -P H P / ||grad g|| in one place and this sign in another.
    """
    chosen = CurvatureSettings(**settings)
    with flushed_denormals(), evaluation_mode(model):
        output = _curved_output(model, inputs, target, beta, chosen.score)
        if chosen.top > inputs[0].numel() - 1:
            raise ValueError(
                f"expected top <= {inputs[0].numel() - 1}, the dimension of the level set, got {chosen.top}"
            )
        return curvature_of(output, inputs, chosen, progress)


def _curved_output(
    model: nn.Module, inputs: Tensor, target: Target, beta: float | None, score: Score
) -> Output:
    output = output_of(model, inputs, target, beta, score)
    check_curved(model, inputs, beta)
    return output


def curvature_of(
    output: Output, inputs: Tensor, settings: CurvatureSettings, progress: Progress | None = None
) -> Curvature:
    """The same for a prepared output of a network in evaluation mode; see `curvature`."""
    parts = []
    for start in range(0, len(inputs), settings.batch):
        rows = slice(start, start + settings.batch)
        parts.append(_largest(output.at(rows), inputs[rows], settings))
        if progress is not None:
            progress(min(start + settings.batch, len(inputs)) / len(inputs))
    values, residuals, norms, value, steps = (torch.cat(items) for items in zip(*parts, strict=True))
    flat = _warn_of_flat(norms)[:, None]
    return Curvature(
        values.masked_fill(flat, torch.nan), residuals.masked_fill(flat, torch.nan), norms, value, steps,
        output.classes, output.beta, settings,
    )  # fmt: skip


def _largest(output: Output, images: Tensor, settings: CurvatureSettings) -> tuple[Tensor, ...]:
    """Values, residuals, norms, g and steps of some images; their graph is gone before the next one's."""
    operator = ShapeOperator(output, images)
    pairs = largest_eigenpairs(
        operator, operator.normal, settings.top, settings.steps, settings.tolerance, settings.seed
    )
    return pairs.values, pairs.residuals, operator.gradient_norm, operator.value, pairs.steps


def _warn_of_flat(norms: Tensor) -> Tensor:
    """Which images have a gradient of 0, with a warning that names them."""
    flat = norms == 0
    if bool(flat.any()):
        warnings.warn(
            f"the gradient is 0 at image(s) {flat.nonzero().flatten().tolist()[:10]}: their level set has no "
            'normal and their curvature is NaN. Take score="logit", another target, or a smaller beta.',
            stacklevel=3,
        )
    return flat


@dataclass(frozen=True, eq=False)
class CurvatureNorm:
    """Frobenius norm of P H P / ||grad g||: the root of the sum of all squared principal curvatures.

    NaN where the gradient is 0.

    Attributes:
        estimate: float64 (N,).
        low: float64 (N,), lower end of the interval.
        high: float64 (N,), upper end.
        dimension: of the level sets, d - 1.
        probes: random vectors.
        level: probability that the interval covers.
        seed: of the probes.
        classes: LongTensor (N,).
        beta: of the softplus, or None.
    """

    estimate: Tensor
    low: Tensor
    high: Tensor
    dimension: int
    probes: int
    level: float
    seed: int
    classes: Tensor
    beta: float | None


@dataclass(frozen=True)
class NormSettings:
    """How the Frobenius norm is estimated.

    Args:
        probes: random vectors; each costs one product with the Hessian.
        level: probability that the interval covers.
        score: g is the class's "logit" or its "probability".
        seed: of the probes, the same for every image.
        batch: images at a time.

    Raises:
        ValueError: where a number is out of range.
    """

    probes: int = 30
    level: float = 0.95
    score: Score = "logit"
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        if self.probes < 1 or self.batch < 1:
            raise ValueError(f"expected probes and batch of at least 1, got {self.probes} and {self.batch}")
        if not 0 < self.level < 1:
            raise ValueError(f"expected a level between 0 and 1, got {self.level}; 0.95 is usual")


def curvature_norm(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    beta: float | None = None,
    **settings: Any,
) -> CurvatureNorm:
    """Frobenius norm of the shape operator A by Hutchinson's estimator, with an interval.

    ||A||_F^2 is the mean of ||A z||^2 over normal z. With m probes, m estimate^2 / ||A||_F^2 is a mean of
    chi-square variables weighted by the squared curvatures. The interval takes it as chi-square with m
    degrees of freedom, which is exact where one curvature dominates and wider than needed elsewhere. The
    estimate is always inside; for levels below about 0.4 chi-square alone would not see to that.

    Args:
        model: see `curvature`, as for all that is not listed.
        inputs: (N, C, H, W).
        target: the class of g.
        beta: of the softplus.
        settings: fields of `NormSettings`: probes, level, score, seed, batch.

    Raises:
        TypeError: see `curvature`.
        ValueError: see `curvature`.

    Source: Hutchinson 1989 for the estimator; Dombrowski et al. 2019, supplement E.1, equation 22.
    """
    chosen = NormSettings(**settings)
    with flushed_denormals(), evaluation_mode(model):
        output = _curved_output(model, inputs, target, beta, chosen.score)
        parts = [
            _squared_norm(ShapeOperator(output.at(rows), inputs[rows]), chosen)
            for start in range(0, len(inputs), chosen.batch)
            for rows in [slice(start, start + chosen.batch)]
        ]
    squares = torch.cat(parts)
    tail = (1 - chosen.level) / 2
    low, high = (chosen.probes / float(chi2.ppf(share, chosen.probes)) for share in (1 - tail, tail))
    low = min(low, 1.0)
    return CurvatureNorm(
        squares.sqrt(), (low * squares).sqrt(), (high * squares).sqrt(), inputs[0].numel() - 1,
        chosen.probes, chosen.level, chosen.seed, output.classes, beta,
    )  # fmt: skip


def _squared_norm(operator: ShapeOperator, settings: NormSettings) -> Tensor:
    generator = torch.Generator().manual_seed(settings.seed)
    normal = operator.normal
    total = torch.zeros_like(operator.value)
    for _ in range(settings.probes):
        drawn = torch.randn(normal.shape[1], generator=generator, dtype=torch.float64)
        image = operator(drawn.to(normal).expand_as(normal))
        total += image.double().square().sum(dim=1)
    return (total / settings.probes).masked_fill(_warn_of_flat(operator.gradient_norm), torch.nan)


@dataclass(frozen=True, eq=False)
class CurvatureProfile:
    """Curvature as a function of the softplus's sharpness.

    Attributes:
        betas: B values, as given.
        curvatures: what `curvature` returned for each.
    """

    betas: tuple[float, ...]
    curvatures: tuple[Curvature, ...]

    @property
    def largest(self) -> Tensor:
        """float64 (B, N), largest magnitude |lambda|."""
        return torch.stack([item.largest.abs() for item in self.curvatures])

    def boxes(self) -> tuple[Box, ...]:
        """For each beta the median of |lambda| over the images, quantiles and a bootstrap interval."""
        return tuple(box(row) for row in self.largest)

    def rising(self) -> Tensor:
        """float64 (N,): the share of neighboring betas (sorted) between which |lambda| grows with beta."""
        order = sorted(range(len(self.betas)), key=lambda index: self.betas[index])
        ordered = self.largest[order]
        return (ordered[1:] > ordered[:-1]).double().mean(dim=0)


def curvature_profile(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    betas: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    progress: Progress | None = None,
    **settings: Any,
) -> CurvatureProfile:
    """Curvature of the network with softplus_beta in place of ReLU, for several betas.

    The class of an image is the same for every beta; the level c is each smoothed network's own g(x).

    Args:
        model: see `curvature`, as for all that is not listed.
        inputs: (N, C, H, W).
        target: the class of g.
        betas: one or more.
        progress: called with the share that is done.
        settings: fields of `CurvatureSettings`.

    Raises:
        TypeError: see `curvature`.
        ValueError: see `curvature`; or if there is no beta.
    """
    if len(betas) == 0:
        raise ValueError("expected at least one beta, got none; leave betas out for 0.5 to 100")
    classes = predicted_target(model, inputs, target)
    found = []
    for index, beta in enumerate(betas):
        found.append(curvature(model, inputs, classes, beta=beta, **settings))
        if progress is not None:
            progress((index + 1) / len(betas))
    return CurvatureProfile(tuple(betas), tuple(found))
