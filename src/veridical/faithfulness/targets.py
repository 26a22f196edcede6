"""Random logit: does the map change when another class is explained?

Sixt et al. 2020, section 3: the map of the explained class against the map of a class drawn at random.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import check_inputs, check_logits, check_method, evaluation_mode, resolve_target
from veridical.faithfulness._seeds import generator
from veridical.faithfulness.maps import (
    Reduction,
    check_reduction,
    default_reduction,
    explained,
    reduce_channels,
)
from veridical.metrics import SimilarityProtocol, map_similarity, protocol
from veridical.values import Explainer, Target


@dataclass(frozen=True)
class RandomLogitSettings:
    """How the other class is drawn and the maps are compared.

    Attributes:
        protocol: how two maps are compared, see `veridical.metrics.SimilarityProtocol`.
        reduction: channel reduction; None is `default_reduction(method)`.
        batch: images in one call of the method; None is all at once.
        first_index: index of the first image, so that parts of a batch get the classes that they have in
            the whole batch.
        seed: of the drawn classes.
    """

    protocol: str | SimilarityProtocol = "sixt2020"
    reduction: Reduction | None = None
    batch: int | None = None
    first_index: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: if a choice does not exist or the index is negative.
        """
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
    flipped: Tensor
    relevance: Tensor
    other_relevance: Tensor
    maps: Tensor
    other_maps: Tensor
    reduction: str
    settings: RandomLogitSettings


def _other_classes(target: Tensor, classes: int, settings: RandomLogitSettings) -> Tensor:
    """For each image a class uniform among all but its target, by the image's index alone."""
    shifts = [
        int(torch.randint(1, classes, (), generator=generator(settings.seed, settings.first_index + image)))
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
        settings: fields of `RandomLogitSettings`: protocol, reduction, batch, first_index, seed.

    Returns:
        One similarity for each image, with both relevances.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range, or the model has one class only.
    """
    chosen = RandomLogitSettings(**settings)
    check_method(method)
    check_inputs(inputs)
    images = inputs.detach()
    with evaluation_mode(model):
        with torch.no_grad():
            logits = check_logits(model(images), len(images))
        if logits.shape[1] < 2:
            raise ValueError(
                f"expected at least two classes, got {logits.shape[1]}; "
                "with one there is no other logit to explain"
            )
        classes = resolve_target(logits, target)
        others = _other_classes(classes, logits.shape[1], chosen)
        relevance = explained(model, images, method, classes, chosen.batch)
        other = explained(model, images, method, others, chosen.batch)
    reduction = chosen.reduction or default_reduction(method)
    maps, other_maps = reduce_channels(relevance, reduction), reduce_channels(other, reduction)
    score = map_similarity(maps, other_maps, chosen.protocol)
    return RandomLogit(
        target=classes,
        other_target=others,
        similarity=score.values,
        flipped=score.flipped,
        relevance=relevance,
        other_relevance=other,
        maps=maps,
        other_maps=other_maps,
        reduction=reduction,
        settings=chosen,
    )
