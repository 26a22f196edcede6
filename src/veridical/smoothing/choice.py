"""Which beta suits a network: chosen from its activations and from the maps of its images, not by hand.

Softplus differs from ReLU where ``|beta z|`` is small, so one beta smooths a network with small
pre-activations z far more than another. Candidates are therefore multiples of one over the network's own
scale of ``|z|``: a network whose activations are twice as large gets half the beta. Among the candidates at
which the smoothed network is still the same one (it keeps its predictions, and its maps correlate with those
of the ReLU network), the one is chosen whose map changes least under random perturbations of a fixed size.
Dombrowski et al. 2019, section 4, set beta = 0.8 for VGG-16 and say nothing about other networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from veridical.checks import check_inputs, check_logits, check_relevance, evaluation_mode, resolve_target
from veridical.smoothing.activations import rectification
from veridical.smoothing.softplus import BetaSmoothed, SmoothedModel
from veridical.values import Explainer, Target, explainer_name

Progress = Callable[[float], None]
"""Called with the share of the work that is done, in (0, 1]."""


@dataclass(frozen=True)
class BetaCriterion:
    """What makes a beta admissible, and what is tried.

    The thresholds are our own choice: the paper gives none.

    Args:
        multiples: candidates for ``beta * scale``; scale is the typical ``|z|``, see `choose_beta`.
        agreement: least median correlation of the smoothed map with the map of the ReLU network.
        kept: least share of images whose predicted class the smoothed network keeps.
        noise: standard deviation of the perturbations, as a fraction of each image's max - min.
        draws: perturbations of each image.
        seed: of the generator of the perturbations.
        batch: images in one call of the method; the result does not depend on it.

    Raises:
        ValueError: where a number is out of range.
    """

    multiples: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(12, -5, -1))
    agreement: float = 0.5
    kept: float = 0.75
    noise: float = 0.02
    draws: int = 3
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.multiples or not all(0 < m < math.inf for m in self.multiples):
            raise ValueError(f"expected positive multiples, got {self.multiples}; try (0.5, 1, 2, 4, 8)")
        if not -1 <= self.agreement <= 1:
            raise ValueError(f"expected an agreement in [-1, 1], got {self.agreement}; it is a correlation")
        if not 0 <= self.kept <= 1:
            raise ValueError(f"expected kept in [0, 1], got {self.kept}; it is a share of the images")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"expected a positive noise, got {self.noise}; 0.02 is 2 % of the range")
        for name, count in (("draws", self.draws), ("batch", self.batch)):
            if count < 1:
                raise ValueError(f"expected {name} of at least 1, got {count}; give a whole number")


@dataclass(frozen=True)
class BetaPoint:
    """What one beta does, over the images.

    Args:
        beta: the sharpness; infinite for the ReLU network itself.
        kept: share of images whose predicted class the smoothed network keeps.
        agreement: median correlation of the smoothed map with the map of the ReLU network.
        sensitivity: median of ``1 - correlation`` of the maps of an image and of the perturbed image.
        missing: correlations that could not be measured (a constant map, NaN), of both kinds.
        admissible: whether `kept` and `agreement` reach what the criterion asks for.
    """

    beta: float
    kept: float
    agreement: float
    sensitivity: float
    missing: int
    admissible: bool


@dataclass(frozen=True)
class BetaChoice:
    """A beta, and the curve behind the choice.

    Args:
        beta: the choice.
        scale: the typical ``|z|`` at the network's rectifiers.
        curve: every candidate, from the largest beta to the smallest.
        plain: the same measurements on the ReLU network.
        images: how many.
        method: the name of the method.
        criterion: what was asked for.
    """

    beta: float
    scale: float
    curve: tuple[BetaPoint, ...]
    plain: BetaPoint
    images: int
    method: str
    criterion: BetaCriterion

    @property
    def chosen(self) -> BetaPoint:
        """The point of the curve that was chosen."""
        return next(point for point in self.curve if point.beta == self.beta)

    @property
    def helps(self) -> bool:
        """Whether smoothing makes the map less sensitive than that of the ReLU network."""
        return self.chosen.sensitivity < self.plain.sensitivity


def choose_beta(
    model: nn.Module,
    images: Tensor,
    explainer: Explainer,
    *,
    target: Target = None,
    criterion: BetaCriterion = BetaCriterion(),  # noqa: B008 - frozen
    callback: Progress | None = None,
) -> BetaChoice:
    """The beta at which the map of a network changes least while network and map are still recognizable.

    1. Scale: the median over rectifiers of the median over images of the median ``|z|``, z being what a ReLU
       or ReLU6 is given. Candidates are ``multiple / scale``.
    2. At each candidate: the share of images that keep their predicted class on the softplus network, the
       median correlation of its map with the ReLU network's, and the median change of its map under Gaussian
       perturbations of fixed size, a measure of the curvature that attacks use.
    3. The admissible candidate with the least change; of equals the largest beta.

    Nothing is random but the perturbations, which are seeded and the same for every image.

    Args:
        model: the network; left as it was.
        images: (N, C, H, W), a few dozen of those that will be explained.
        explainer: the plain method.
        target: the explained class; None for the one that the ReLU network predicts.
        criterion: thresholds and candidates.
        callback: told the progress.

    Raises:
        TypeError: where images or target are of the wrong type.
        ValueError: where they do not fit, the method is smoothed already, the network has no ReLU, or no
            candidate is admissible.

    Source:
        Own method; the smoothing is that of Dombrowski et al. 2019, section 4.
    """
    check_inputs(images)
    if isinstance(explainer, BetaSmoothed):
        raise ValueError(f"expected a plain method, got {explainer.name}; give the method inside it")
    with evaluation_mode(model):
        setup = _setup(model, images.detach(), explainer, target, criterion)
        scale = _scale(model, setup.images, criterion.batch)
        betas = [multiple / scale for multiple in sorted(set(criterion.multiples), reverse=True)]
        points = []
        for index, beta in enumerate([math.inf, *betas]):
            points.append(_point(setup, beta))
            if callback is not None:
                callback((index + 1) / (len(betas) + 1))
    best = _best(points[1:], criterion)
    return BetaChoice(
        beta=best.beta,
        scale=scale,
        curve=tuple(points[1:]),
        plain=points[0],
        images=len(images),
        method=explainer_name(explainer),
        criterion=criterion,
    )


@dataclass(frozen=True)
class _Setup:
    """What all candidates share."""

    model: nn.Module
    images: Tensor
    explainer: Explainer
    targets: Tensor
    predicted: Tensor
    plain: Tensor
    noise: Tensor
    criterion: BetaCriterion


def _setup(
    model: nn.Module, images: Tensor, explainer: Explainer, target: Target, criterion: BetaCriterion
) -> _Setup:
    logits = _logits(model, images, criterion.batch)
    targets = resolve_target(logits, target)
    generator = torch.Generator().manual_seed(criterion.seed)
    shape = (criterion.draws, *images.shape[1:])
    noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(images)
    plain = _maps(explainer, model, (images, targets), criterion.batch)
    return _Setup(model, images, explainer, targets, logits.argmax(1), plain, noise, criterion)


def _point(setup: _Setup, beta: float) -> BetaPoint:
    """All measurements at one beta."""
    criterion, batch = setup.criterion, setup.criterion.batch
    network = setup.model if math.isinf(beta) else SmoothedModel(setup.model, beta)
    kept = (_logits(network, setup.images, batch).argmax(1) == setup.predicted).double().mean().item()
    clean = setup.plain
    if not math.isinf(beta):
        clean = _maps(setup.explainer, network, (setup.images, setup.targets), batch)
    agreement = _correlation(clean, setup.plain)
    sigma = criterion.noise * (setup.images.amax((1, 2, 3)) - setup.images.amin((1, 2, 3)))
    changes = []
    for draw in setup.noise:
        moved = setup.images + sigma.reshape(-1, 1, 1, 1) * draw
        maps = _maps(setup.explainer, network, (moved, setup.targets), batch)
        changes.append(1 - _correlation(clean, maps))
    change = torch.cat(changes)
    middle = agreement.nanmedian().item()
    return BetaPoint(
        beta=beta,
        kept=kept,
        agreement=middle,
        sensitivity=change.nanmedian().item(),
        missing=int(agreement.isnan().sum() + change.isnan().sum()),
        admissible=kept >= criterion.kept and middle >= criterion.agreement,
    )


def _best(points: list[BetaPoint], criterion: BetaCriterion) -> BetaPoint:
    """The admissible point with the least sensitivity, the first of equals."""
    found = [point for point in points if point.admissible and not math.isnan(point.sensitivity)]
    if not found:
        agreement = max((p.agreement for p in points if not math.isnan(p.agreement)), default=math.nan)
        raise ValueError(
            f"expected a beta that keeps {criterion.kept:.0%} of the classes and correlates "
            f"{criterion.agreement:g} with the map of the ReLU network, got at most "
            f"{max(p.kept for p in points):.0%} and {agreement:.2f}; add larger multiples or ask for less"
        )
    return min(found, key=lambda point: point.sensitivity)


def _logits(model: nn.Module, images: Tensor, batch: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([check_logits(model(part.clone()), len(part)) for part in images.split(batch)])


def _maps(explainer: Explainer, model: nn.Module, of: tuple[Tensor, Tensor], batch: int) -> Tensor:
    """``sum_channels |R|`` in float64 (N, H, W)."""
    found = []
    for images, targets in zip(of[0].split(batch), of[1].split(batch), strict=True):
        relevance = explainer(model, images, targets)
        relevance = check_relevance(relevance, images, explainer_name(explainer), finite=False)
        found.append(relevance.detach().double().abs().sum(1))
    return torch.cat(found)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of maps (N, H, W), one value each; NaN where one is constant."""
    rows = []
    for maps in (first, second):
        row = maps.flatten(1)
        row = row / row.amax(1, keepdim=True)
        rows.append(row - row.mean(1, keepdim=True))
    lengths = rows[0].norm(dim=1) * rows[1].norm(dim=1)
    return (rows[0] * rows[1]).sum(1) / torch.where(lengths > 1e-12, lengths, torch.nan)


class _Sizes(TorchFunctionMode):
    """Notes the median size of what every rectifier is given, for each image of the batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.medians: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        found = rectification(func, args, kwargs or {})
        if found is not None and found.input.shape[:1] == (self.batch,):
            self.medians.append(found.input.detach().double().abs().flatten(1).median(1).values.cpu())
        return func(*args, **(kwargs or {}))


def _scale(model: nn.Module, images: Tensor, batch: int) -> float:
    """The median over rectifiers of the median over images of the median ``|z|``."""
    parts = []
    for part in images.split(batch):
        sizes = _Sizes(len(part))
        with torch.no_grad(), sizes:
            model(part.clone())
        if not sizes.medians:
            raise ValueError(
                f"expected a model with a ReLU or ReLU6 to smooth, got {type(model).__name__}, whose "
                "forward pass has none; leave the smoothing off for this model"
            )
        parts.append(torch.stack(sizes.medians))
    scale = torch.cat(parts, dim=1).median(1).values.median().item()
    if not 0 < scale < math.inf:
        raise ValueError(
            f"expected pre-activations with a positive, finite median size, got {scale}; "
            "look at the network's weights and at the images"
        )
    return scale
