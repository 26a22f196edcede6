"""Random logit: does the map change when another class is explained?

Sixt et al. 2020, section 3: the map of the explained class against the map of a class drawn at random.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import check_inputs, check_method, evaluation_mode
from veridical.faithfulness._rows import Row, Sampling, flips_of, rows_of
from veridical.faithfulness._seeds import generator
from veridical.faithfulness.maps import (
    Reduction,
    check_reduction,
    default_reduction,
    explained_each,
    reduce_channels,
    target_of,
)
from veridical.metrics import SimilarityProtocol, check_measures, compare_maps, protocol
from veridical.values import Explainer, Target


@dataclass(frozen=True)
class RandomLogitSettings:
    """How the other class is drawn and the maps are compared.

    Attributes:
        protocol: how two maps are compared, see `veridical.metrics.SimilarityProtocol`.
        reduction: channel reduction; None is `default_reduction(method)`.
        batch: images in one call of the method, each for two classes. On a CPU 16 are as fast as more; None
            is all at once, which suits a GPU.
        first_index: index of the first image, so that parts of a batch get the classes that they have in
            the whole batch.
        seed: of the drawn classes.
        measures: what `RandomLogit.measures` holds: names out of `veridical.metrics.MEASURES`, all of the
            same maps.
    """

    protocol: str | SimilarityProtocol = "sixt2020"
    reduction: Reduction | None = None
    batch: int | None = 16
    first_index: int = 0
    seed: int = 0
    measures: tuple[str, ...] = ("ssim",)

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            TypeError: if measures is one text.
            ValueError: if a choice does not exist or the index is negative.
        """
        check_measures(self.measures)
        if self.first_index < 0:
            raise ValueError(f"expected a non-negative index, got {self.first_index}; the first image has 0")
        if self.reduction is not None:
            check_reduction(self.reduction)
        protocol(self.protocol)


@dataclass(frozen=True, eq=False)
class RandomLogit:
    """Likeness of the maps of two classes, for N images.

    Attributes:
        target: LongTensor (N,), the explained class.
        other_target: LongTensor (N,), drawn uniformly among the other classes.
        similarity: float64 (N,), SSIM under the protocol; NaN where a map was constant.
        measures: float64 (N,) for each of the settings' measures; NaN where a map was constant.
        flipped: bool (N,), True where the negative of the other map was more like the first.
        relevance: (N, C, H, W) of the explained class.
        other_relevance: (N, C, H, W) of the other class.
        maps: (N, H, W), `relevance` after the channel reduction.
        other_maps: (N, H, W), `other_relevance` after the channel reduction.
        reduction: the channel reduction that was used.
        settings: how it was measured.
    """

    target: Tensor
    other_target: Tensor
    similarity: Tensor
    measures: dict[str, Tensor]
    flipped: Tensor
    relevance: Tensor
    other_relevance: Tensor
    maps: Tensor
    other_maps: Tensor
    reduction: str
    settings: RandomLogitSettings

    @property
    def flips(self) -> Tensor:
        """Float64 (N,): `flipped` as 0 or 1; NaN where not measured, or the protocol does not look."""
        looked_for = protocol(self.settings.protocol).flip
        return flips_of(self.similarity, self.flipped, looked_for=looked_for)

    def table(self, *, level: float = 0.99, resamples: int = 10_000) -> list[Row]:
        """The median of each measure with its bootstrap interval, and the share of sign flips.

        Args:
            level: probability that an interval covers.
            resamples: of the bootstrap.

        Returns:
            Rows with measure, statistic, estimate, low, high, n, missing and level.
        """
        return rows_of(self.measures, self.flips, Sampling(level, resamples, self.settings.seed))


def _other_classes(target: Tensor, classes: int, first_index: int, seed: int) -> Tensor:
    """For each image a class uniform among all but its target, by the image's index alone.

    Raises:
        ValueError: if there is no other class.
    """
    if classes < 2:
        raise ValueError(
            f"expected at least two classes, got {classes}; with one there is no other logit to explain"
        )
    shifts = [
        int(torch.randint(1, classes, (), generator=generator(seed, first_index + image)))
        for image in range(len(target))
    ]
    return (target + torch.tensor(shifts, device=target.device)) % classes


def random_logit(
    model: nn.Module, inputs: Tensor, method: Explainer, *, target: Target = None, **settings: Any
) -> RandomLogit:
    """Compare the map of the explained class with that of another class, drawn uniformly.

    Methods that start from the value of the logit (and not from 1) explain a negative logit with the opposite
    sign; the sign flip of the protocol repairs that for linear rules only.

    Source: Sixt et al. 2020, section 3 (random logit).

    Args:
        model: any module that maps images to logits (N, K), K at least 2.
        inputs: float (N, C, H, W).
        method: an explanation method.
        target: explained class; None is the predicted class.
        settings: fields of `RandomLogitSettings`: protocol, reduction, batch, first_index, seed, measures.

    Returns:
        One similarity for each image, with both relevances.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range, or the model has one class only.
    """
    if isinstance(settings.get("measures"), list):
        settings["measures"] = tuple(settings["measures"])
    chosen = RandomLogitSettings(**settings)
    check_method(method)
    check_inputs(inputs)

    def choose(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        classes = target_of(logits, target, rows, len(inputs))
        first = chosen.first_index + rows.start
        return classes, _other_classes(classes, logits.shape[1], first, chosen.seed)

    with evaluation_mode(model):
        relevance, classes = explained_each(model, inputs.detach(), method, choose, chosen.batch)
    reduction = chosen.reduction or default_reduction(method)
    maps, other_maps = (reduce_channels(one, reduction) for one in relevance)
    similarity, measures = compare_maps(maps, other_maps, chosen.protocol, chosen.measures)
    return RandomLogit(
        target=classes[0],
        other_target=classes[1],
        similarity=similarity.values,
        measures=measures,
        flipped=similarity.flipped,
        relevance=relevance[0],
        other_relevance=relevance[1],
        maps=maps,
        other_maps=other_maps,
        reduction=reduction,
        settings=chosen,
    )
