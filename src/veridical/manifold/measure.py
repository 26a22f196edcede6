"""Every method's fraction in the tangent space, image by image, held against random directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from veridical.checks import (
    check_inputs,
    check_logits,
    check_method,
    check_relevance,
    evaluation_mode,
    nearest_names,
    resolve_target,
)
from veridical.manifold.alignment import basis_rank, check_pair, several_by_k
from veridical.manifold.baseline import RandomFraction, random_p_values
from veridical.manifold.tangent import Progress
from veridical.metrics import Interval, bootstrap_interval, share_interval
from veridical.values import Explainer, Target, explainer_name


class Bases(Protocol):
    """Bases of N images (N, k, C, H, W): a tensor, or `StoredTangents` that reads them when asked."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, at: slice, /) -> Tensor:
        """Those of some consecutive images."""


@dataclass(frozen=True)
class AlignmentSettings:
    """How alignment is measured and summarized.

    Attributes:
        batch: images in one call of a method; bounds the memory.
        level: probability that the intervals cover.
        seed: of the bootstrap.
    """

    batch: int = 64
    level: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is out of range.
        """
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least one image, got {self.batch}; 64 is usual")
        if not 0 < self.level < 1:
            raise ValueError(f"expected a level between 0 and 1, got {self.level}; 0.99 means 99 %")


@dataclass(frozen=True)
class AlignmentSummary:
    """One method over all images.

    Attributes:
        method: its name.
        mean: mean fraction with its bootstrap interval; `n` counts the measured images.
        std: standard deviation over images.
        missing: images without a fraction: the map was 0 or not finite.
        random: mean fraction of random directions in the same tangent spaces.
        random_high: mean over images of the fraction that 95 % of random directions stay below.
        other: mean fraction in the tangent space of another image.
        above: share of images above their own 95 % quantile of random directions, 0.05 by chance.
        p_value: of the images above the median of random directions against 1/2, one-sided; exact for any
            number of images and any mixture of ranks.
    """

    method: str
    mean: Interval
    std: float
    missing: int
    random: float
    random_high: float
    other: float
    above: Interval
    p_value: float


@dataclass(frozen=True, eq=False)
class Alignment:
    """Fractions of M methods on N images.

    Attributes:
        methods: their names.
        by_k: float64 (M, N, k), the fraction in the space of the first 1 to k directions.
        others: float64 (M, N), the fraction in the tangent space of the image before (of the last for the
            first): what any map of the kind has in common with any image of the kind. NaN for a single image.
        p_values: float64 (M, N), the probability that a random direction has the image's fraction or more.
        rank: LongTensor (N,), of each tangent space.
        dimension: d = C x H x W.
        target: LongTensor (N,), the explained class.
        predicted: LongTensor (N,), the class that the network predicts.
        settings: how it was measured.
    """

    methods: tuple[str, ...]
    by_k: Tensor
    others: Tensor
    p_values: Tensor
    rank: Tensor
    dimension: int
    target: Tensor
    predicted: Tensor
    settings: AlignmentSettings

    @property
    def fractions(self) -> Tensor:
        """float64 (M, N), in the whole tangent space; NaN means "not measured"."""
        return self.by_k[:, :, -1]

    def of(self, method: str) -> Tensor:
        """float64 (N,), the fractions of one method.

        Raises:
            ValueError: if it was not measured.
        """
        return self.fractions[self._row(method)]

    def summary(self, method: str) -> AlignmentSummary:
        """Mean, spread, interval, and the test against random directions.

        Raises:
            ValueError: if the method was not measured.
        """
        row = self._row(method)
        values, p_values = self.fractions[row], self.p_values[row]
        measured = values[~values.isnan()]
        ranks = [RandomFraction(int(rank), self.dimension) for rank in self.rank]
        return AlignmentSummary(
            method=method,
            mean=self._interval(values),
            std=float(measured.std(correction=0)) if len(measured) else math.nan,
            missing=len(values) - len(measured),
            random=_mean([one.mean for one in _distinct(ranks)], ranks),
            random_high=_mean([one.quantile(0.95) for one in _distinct(ranks)], ranks),
            other=float(self.others[row].nanmean()),
            above=share_interval(_below(p_values, 0.05), level=self.settings.level),
            p_value=_sign_test(p_values),
        )

    def difference(self, method: str, reference: str) -> Interval:
        """Mean of the paired differences of two methods over images, with its interval.

        An interval above 0 says that `method` is better aligned than `reference` on these images.

        Raises:
            ValueError: if one of them was not measured.
        """
        return self._interval(self.of(method) - self.of(reference))

    def mean_by_k(self, method: str, counts: Sequence[int] | None = None) -> list[tuple[Interval, float]]:
        """For each number of directions: mean fraction with its interval, and the mean of random directions.

        An image whose space has fewer dimensions stays at its rank.

        Args:
            method: its name.
            counts: numbers of directions; None for 1 to k, one bootstrap for each.

        Raises:
            ValueError: if the method was not measured, or there are not so many directions.
        """
        values = self.by_k[self._row(method)]
        chosen = range(1, values.shape[1] + 1) if counts is None else counts
        randoms = self.random_by_k(chosen)
        return [
            (self._interval(values[:, count - 1]), random)
            for count, random in zip(chosen, randoms, strict=True)
        ]

    def random_by_k(self, counts: Sequence[int]) -> list[float]:
        """Mean fraction of random directions in the spaces of the first so many directions.

        Raises:
            ValueError: if there are not so many directions.
        """
        most, found = self.by_k.shape[2], []
        for count in counts:
            if not 1 <= count <= most:
                raise ValueError(f"expected 1 to {most} directions, got {count}; choose among these")
            ranks = [RandomFraction(min(int(rank), count), self.dimension) for rank in self.rank]
            found.append(_mean([one.mean for one in _distinct(ranks)], ranks))
        return found

    def table(self) -> str:
        """One row a method, as a Markdown table; best aligned first."""
        rows = sorted((self.summary(name) for name in self.methods), key=_by_mean)
        head = f"{self.settings.level:.0%} interval"
        lines = [
            f"| method | mean fraction | {head} | std | random | other image | above 95 % | p | images |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| `{row.method}` | {row.mean.estimate:.4f} | {row.mean.low:.4f} to {row.mean.high:.4f} | "
            f"{row.std:.4f} | {row.random:.4f} | {row.other:.4f} | {row.above.estimate:.1%} | "
            f"{row.p_value:.1e} | {row.mean.n} |"
            for row in rows
        ]
        return "\n".join(lines)

    def _row(self, method: str) -> int:
        if method not in self.methods:
            raise ValueError(
                f"expected a measured method, got {method!r}; {nearest_names(method, self.methods)}"
            )
        return self.methods.index(method)

    def _interval(self, values: Tensor) -> Interval:
        level, seed = self.settings.level, self.settings.seed
        return bootstrap_interval(values.numpy(), "mean", level=level, seed=seed)


def measure_alignment(
    model: nn.Module,
    inputs: Tensor,
    basis: Bases,
    methods: Mapping[str, Explainer],
    *,
    target: Target = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Alignment:
    """The fraction of every method's map in the tangent space of every image.

    Source: Bordt et al. 2023, sections 3.3, 4.2 and 4.3. The settings of their methods are in the recipe
    `bordt2023`; see `load_recipe`. They explain the predicted class, as is the default here.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: float (N, C, H, W), on the manifold.
        basis: (N, k, C, H, W), the tangent space at each of them: a tensor or `StoredTangents`.
        methods: explanation methods by name.
        target: explained class; None for the predicted one.
        progress: called with images done and images in all.
        settings: fields of `AlignmentSettings`: batch, level, seed.

    Returns:
        One fraction for each method and image.

    Raises:
        TypeError: if a method cannot be called, or something is of the wrong type.
        ValueError: if there is no method, shapes do not match, or the rows of the basis are not orthonormal.
    """
    chosen = AlignmentSettings(**settings)
    check_inputs(inputs)
    if not methods:
        raise ValueError("expected at least one method, got none; pass a dictionary of names and methods")
    for name, explainer in methods.items():
        check_method(explainer, name)
    if len(basis) != len(inputs):
        raise ValueError(
            f"expected one basis an image, got {len(basis)} for {len(inputs)} images; select the same ones"
        )
    check_pair(inputs[:1], basis[:1])
    with evaluation_mode(model):
        with torch.no_grad():
            parts = [
                check_logits(model(part.clone()), len(part)) for part in inputs.detach().split(chosen.batch)
            ]
        logits = torch.cat(parts)
        classes = resolve_target(logits, target)
        found = _measured(model, inputs.detach(), basis, methods, classes, (chosen, progress))
    by_k, others, rank = found
    dimension = math.prod(inputs.shape[1:])
    return Alignment(
        methods=tuple(methods),
        by_k=by_k,
        others=others,
        p_values=random_p_values(by_k[:, :, -1], rank, dimension),
        rank=rank,
        dimension=dimension,
        target=classes.cpu(),
        predicted=logits.argmax(1).cpu(),
        settings=chosen,
    )


def _measured(
    model: nn.Module,
    inputs: Tensor,
    basis: Bases,
    methods: Mapping[str, Explainer],
    classes: Tensor,
    how: tuple[AlignmentSettings, Progress | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Fractions by k (M, N, k), fractions in the space of the image before (M, N), and ranks (N,)."""
    settings, progress = how
    before = basis[len(inputs) - 1 : len(inputs)]
    by_k, others, ranks = [], [], []
    for begin in range(0, len(inputs), settings.batch):
        at = slice(begin, begin + settings.batch)
        images, spaces = inputs[at], basis[at]
        previous = torch.cat([before, spaces[:-1]])
        before = spaces[-1:]
        maps = [_explained(one, model, images, classes[at]).to(spaces.device) for one in methods.values()]
        by_k.append(several_by_k(maps, spaces).cpu())
        others.append(several_by_k(maps, previous)[:, :, -1].cpu())
        ranks.append(basis_rank(spaces).cpu())
        if progress is not None:
            progress(begin + len(images), len(inputs))
    elsewhere = torch.cat(others, dim=1)
    alone = len(inputs) == 1
    return torch.cat(by_k, dim=1), elsewhere * math.nan if alone else elsewhere, torch.cat(ranks)


def _explained(explainer: Explainer, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    found = explainer(model, images.clone(), classes)
    return check_relevance(found, images, explainer_name(explainer), finite=False).detach()


def _distinct(ranks: Sequence[RandomFraction]) -> list[RandomFraction]:
    return sorted(set(ranks), key=lambda one: one.rank)


def _mean(values: Sequence[float], ranks: Sequence[RandomFraction]) -> float:
    """Mean over images of a value that is known for each distinct rank."""
    known = dict(zip(_distinct(ranks), values, strict=True))
    return sum(known[one] for one in ranks) / len(ranks)


def _below(p_values: Tensor, limit: float) -> Tensor:
    return torch.where(p_values.isnan(), math.nan, (p_values < limit).double())


def _sign_test(p_values: Tensor) -> float:
    """The probability of as many images above the median of random directions, or more, by chance."""
    measured = p_values[~p_values.isnan()]
    if not len(measured):
        return math.nan
    above = int((measured < 0.5).sum())
    return float(binomtest(above, len(measured), 0.5, alternative="greater").pvalue)


def _by_mean(row: AlignmentSummary) -> tuple[bool, float]:
    """Best aligned first, what was not measured last."""
    return math.isnan(row.mean.estimate), -row.mean.estimate
