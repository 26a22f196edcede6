"""The maps of two classes of the same image, and what differs between them.

Sixt et al. 2020, figure 1 (b to e): an image with a cat and a dog, explained for both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veridical.checks import check_inputs, check_method, evaluation_mode
from veridical.faithfulness.maps import explained_each, target_of
from veridical.values import Explainer, Target


@dataclass(frozen=True, eq=False)
class ClassDifference:
    """The normalized relevance of two classes of N images, and its difference.

    Attributes:
        first: float64 (N, C, H, W) in [-1, 1], the relevance of the first class as `display_scale` scales it
            (all-positive relevance may exceed 1); NaN for a map of zeros.
        second: the same for the second class.
        first_target: LongTensor (N,).
        second_target: LongTensor (N,).
        percentile: of the normalization.
    """

    first: Tensor
    second: Tensor
    first_target: Tensor
    second_target: Tensor
    percentile: float

    @property
    def difference(self) -> Tensor:
        """First minus second, signed, (N, C, H, W)."""
        return self.first - self.second

    @property
    def mean_absolute(self) -> Tensor:
        """Mean of the absolute difference over all values (N,), channels included; 0 for equal maps.

        The paper calls it the L1 norm and reports 0.000371 for LRP-alpha1-beta0 on VGG-16; its code takes the
        mean over the 3 x 224 x 224 values.
        """
        return self.difference.abs().flatten(1).mean(dim=1)

    @property
    def relative(self) -> Tensor:
        """The mean absolute difference over the mean magnitude of the two maps (N,), in [0, 2].

        0 for equal maps, 2 where they have no pixel, or no sign, in common. Unlike `mean_absolute` it does
        not become small because relevance is sparse. Our own.
        """
        size = (self.first.abs() + self.second.abs()).flatten(1).mean(dim=1) / 2
        return self.mean_absolute / size


def display_scale(relevance: Tensor, percentile: float = 99.5) -> Tensor:
    """Relevance as Sixt et al. 2020 scale it for display and for the difference of two classes.

    Positive values are divided by the percentile q of all values of the image and negative ones by the
    magnitude of the percentile 100 - q, then clipped to [-1, 1]. Relevance without negative (or without
    positive) values is divided by the percentile q of its magnitude and not clipped. Where the percentile of
    a sign is not of that sign (sparse relevance), the largest magnitude of the sign takes its place.

    Source: Sixt et al. 2020, figure 1, and the authors' code.

    Args:
        relevance: (N, C, H, W).
        percentile: q, in (50, 100]; the code takes 100 for rectgrad.

    Returns:
        float64 (N, C, H, W); NaN for a map of zeros.

    Raises:
        ValueError: if the percentile is out of range.
    """
    _check_percentile(percentile)
    rows = relevance.detach().to(torch.float64).flatten(1)
    scaled = torch.stack([_scaled_row(row, percentile / 100) for row in rows])
    return scaled.reshape(relevance.shape)


def _check_percentile(percentile: float) -> None:
    if not 50 < percentile <= 100:
        raise ValueError(
            f"expected a percentile above 50 and up to 100, got {percentile}; Sixt et al. use 99.5"
        )


def _scaled_row(row: Tensor, share: float) -> Tensor:
    low, high = row.min(), row.max()
    if bool(low == high) and bool(low == 0):
        return torch.full_like(row, torch.nan)
    if bool(low >= 0) or bool(high <= 0):
        bound = torch.quantile(row.abs(), share)
        return row / torch.where(bound > 0, bound, row.abs().max())
    above, below = torch.quantile(row, share), -torch.quantile(row, 1 - share)
    above, below = torch.where(above > 0, above, high), torch.where(below > 0, below, -low)
    return torch.where(row > 0, row / above, row / below).clamp(-1.0, 1.0)


def class_difference(
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    first: Target,
    second: Target,
    *,
    percentile: float = 99.5,
) -> ClassDifference:
    """Explain two classes of the same images and compare the maps value by value.

    Methods that can share a forward pass need one for both classes.

    Source: Sixt et al. 2020, figure 1 (b to e).

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method.
        first: a class; None is the predicted one.
        second: another class.
        percentile: of the normalization, see `display_scale`.

    Returns:
        Both normalized maps, and their difference.

    Raises:
        TypeError: if the method is no callable or a target is of the wrong type.
        ValueError: if a class does not exist, both are the same for an image, or the percentile is out of
            range.
    """
    _check_percentile(percentile)
    check_method(method)
    check_inputs(inputs)

    def choose(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        pair = target_of(logits, first, rows, len(inputs)), target_of(logits, second, rows, len(inputs))
        if bool((same := pair[0] == pair[1]).any()):
            place = rows.start + int(same.nonzero()[0])
            raise ValueError(
                f"expected two different classes, got {int(pair[0][same][0])} twice for image {place}; "
                "name another one"
            )
        return pair

    with evaluation_mode(model):
        relevance, classes = explained_each(model, inputs.detach(), method, choose)
    maps = [display_scale(one, percentile) for one in relevance]
    return ClassDifference(maps[0], maps[1], classes[0], classes[1], percentile)
