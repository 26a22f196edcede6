"""What `roar` takes and gives: settings, images, accuracies."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from scipy.stats import t as student
from torch import Tensor

from veridical.checks import check_choice, check_inputs
from veridical.faithfulness._removal import RANDOM
from veridical.faithfulness.maps import Reduction, check_reduction
from veridical.metrics import Interval

RoarOrder = Literal["most", "least", "both"]


@dataclass(frozen=True)
class RoarSettings:
    """What is removed, and how often a network is trained.

    Attributes:
        shares: of the pixels that are removed, rising, above 0 and at most 1; Hooker et al. 2019 take 0.1,
            0.3, 0.5, 0.7 and 0.9. Nothing removed is measured besides.
        order: `"most"` removes the most relevant pixels (ROAR), `"least"` the least relevant ones (KAR).
        repetitions: trainings of each cell; Hooker et al. 2019 take 5.
        edges: whether the strength of the image's edges is measured as if it were a method: a map that knows
            no network, which Hooker et al. 2019 compare with too.
        reduction: channel reduction that makes the map; None is `default_reduction(method)`. Of a signed
            map, negative relevance counts as less than none.
        batch: images explained or classified at once.
        seed: of the random orders; the seed of a training is `seed` + repetition, the same for all methods.
    """

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    order: RoarOrder = "most"
    repetitions: int = 5
    edges: bool = True
    reduction: Reduction | None = None
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: if a choice does not exist or a number is out of range.
        """
        check_choice("order", self.order, get_args(RoarOrder))
        rising = all(low < high for low, high in zip((0.0, *self.shares), self.shares, strict=False))
        if not self.shares or not rising or self.shares[-1] > 1:
            raise ValueError(f"expected rising shares above 0 and at most 1, got {self.shares}; sort them")
        if self.repetitions < 1 or self.batch < 1 or self.seed < 0:
            raise ValueError(
                f"expected repetitions and batch of at least 1 and a seed of at least 0, got "
                f"{self.repetitions}, {self.batch} and {self.seed}; 5, 64 and 0 are usual"
            )
        if self.reduction is not None:
            check_reduction(self.reduction)

    @property
    def orders(self) -> tuple[str, ...]:
        """`"most"`, `"least"` or both."""
        return ("most", "least") if self.order == "both" else (self.order,)


@dataclass(frozen=True, eq=False)
class RoarData:
    """Labeled images to train on and to measure on, as the network takes them.

    Attributes:
        images: float (N, C, H, W).
        labels: LongTensor (N,).
        test_images: float (T, C, H, W).
        test_labels: LongTensor (T,).
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __post_init__(self) -> None:
        """Check that images and labels fit.

        Raises:
            TypeError: if images are not floating point or labels not of type int64.
            ValueError: if shapes do not fit or images are not finite.
        """
        for images, labels in ((self.images, self.labels), (self.test_images, self.test_labels)):
            check_inputs(images)
            if not isinstance(labels, Tensor) or labels.dtype != torch.long:
                raise TypeError("expected labels as a LongTensor (N,); convert with labels.long()")
            if labels.shape != (len(images),):
                raise ValueError(f"expected ({len(images)},) labels, got {tuple(labels.shape)}; match them")
        if self.images.shape[1:] != self.test_images.shape[1:]:
            shapes = f"{tuple(self.images.shape[1:])} and {tuple(self.test_images.shape[1:])}"
            raise ValueError(f"expected images of one shape to train and test on, got {shapes}; resize them")

    @property
    def mean(self) -> Tensor:
        """The mean (C,) of each channel over the training images."""
        return self.images.double().mean(dim=(0, 2, 3)).to(self.images.dtype)

    @property
    def chance(self) -> float:
        """The share of the most frequent class among the test images."""
        return float(torch.bincount(self.test_labels).max()) / len(self.test_labels)


@dataclass(frozen=True, eq=False)
class Roar:
    """Accuracies of networks that were trained and tested without some of the pixels.

    Attributes:
        accuracy: (method, order) -> one tuple a share, `shares` order, of one accuracy a repetition; NaN
            where the training gave no network. `("random", "most")` is the comparison for both orders.
        shares: of the removed pixels, 0 first.
        chance: share of the most frequent class among the test images: what a network says that sees nothing;
            NaN where it was read from a folder of an earlier version, which does not tell it.
        n: number of test images behind each accuracy.
        settings: how it was measured.
        failures: (cell, reason) of the trainings that gave no network.
    """

    accuracy: Mapping[tuple[str, str], tuple[tuple[float, ...], ...]]
    shares: tuple[float, ...]
    chance: float
    n: int
    settings: RoarSettings
    failures: tuple[tuple[str, str], ...]

    def mean(self, method: str, order: str = "most", level: float = 0.95) -> tuple[Interval, ...]:
        """The mean accuracy of each share, with Student's interval over the repetitions.

        The interval says how far the mean would move with other trainings on the same images; it has no ends
        (NaN) for a single training.
        """
        return tuple(_student(values, level) for values in self.accuracy[method, order])

    def margin(self, method: str, order: str = "most", level: float = 0.95) -> Interval:
        """The area between the curves of random pixels and of the method, over the largest share.

        It is the mean accuracy that random pixels keep and the method's take (the other way round for the
        least relevant ones): above 0 the method does better than chance. Trainings of one repetition start
        from the same weights and are subtracted from each other.
        """
        sign = 1 if order == "most" else -1
        areas = [
            _area(self.shares, [sign * (by_chance - own) for by_chance, own in zip(*pair, strict=True)])
            for pair in zip(
                zip(*self.accuracy[RANDOM, "most"], strict=True),
                zip(*self.accuracy[method, order], strict=True),
                strict=True,
            )
        ]
        return _student(areas, level)

    def table(self, level: float = 0.95) -> list[dict[str, Any]]:
        """One row a method and order: mean, low and high for each share, and the margin over chance."""
        rows = []
        for method, order in self.accuracy:
            row: dict[str, Any] = {"method": method, "order": order}
            for share, found in zip(self.shares, self.mean(method, order, level), strict=True):
                row |= {
                    f"{share:g}": found.estimate,
                    f"{share:g} low": found.low,
                    f"{share:g} high": found.high,
                }
            margin = self.margin(method, order, level)
            rows.append(
                row | {"margin": margin.estimate, "margin low": margin.low, "margin high": margin.high}
            )
        return rows


def _area(shares: tuple[float, ...], values: list[float]) -> float:
    """The mean height of a curve between its ends."""
    return float(torch.trapezoid(torch.tensor(values).double(), torch.tensor(shares).double())) / shares[-1]


def _student(values: Iterable[float], level: float) -> Interval:
    """The mean of the measured values with Student's interval."""
    measured = [one for one in values if not math.isnan(one)]
    n = len(measured)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(measured)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(student.ppf((1 + level) / 2, n - 1)) * statistics.stdev(measured) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)
