"""What a manipulation achieved, measured on the unmodified network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.metrics import mse, pearson, ssim

WINDOW = 7
"""Side of the uniform SSIM window in pixels; smaller where the map is smaller (the paper does not say)."""


@dataclass(frozen=True)
class Similarity:
    """Likeness of two batches of maps or images, one value a pair; NaN means "not measured".

    Args:
        ssim: structural similarity (N,), more is more alike.
        pcc: Pearson correlation over all values (N,), more is more alike.
        mse: mean squared difference (N,), less is more alike.
    """

    ssim: Tensor
    pcc: Tensor
    mse: Tensor


@dataclass(frozen=True)
class MapSimilarity:
    """How the maps of the manipulated images compare.

    Args:
        to_target: manipulated map against the target map.
        to_original: manipulated map against the map of the clean image.
        before: map of the clean image against the target map, for reference.
    """

    to_target: Similarity
    to_original: Similarity
    before: Similarity


@dataclass(frozen=True)
class ImageChange:
    """The perturbation, in [0, 1] of the valid range where bounds are known, else in input units.

    Args:
        linf: largest change of a value (N,).
        l2: Euclidean norm (N,).
        psnr: peak signal-to-noise ratio in dB (N,), infinite where nothing changed. The peak is 1 with
            bounds, else the range of the clean image.
        similarity: manipulated against clean image.
    """

    linf: Tensor
    l2: Tensor
    psnr: Tensor
    similarity: Similarity


@dataclass(frozen=True)
class OutputChange:
    """The network's output, before against after, on the unmodified network.

    Args:
        logits: change of all logits (N, K).
        probability: clean probability of the class predicted for the clean image (N,).
        probability_change: its change (N,), positive where it grew.
        probability_norm: Euclidean norm of the change of all probabilities (N,).
        class_before: class predicted for the clean image (N,).
        class_after: class predicted for the manipulated image (N,).
    """

    logits: Tensor
    probability: Tensor
    probability_change: Tensor
    probability_norm: Tensor
    class_before: Tensor
    class_after: Tensor

    @property
    def class_kept(self) -> Tensor:
        """Whether the predicted class is as before, bool (N,)."""
        return self.class_before == self.class_after


@dataclass(frozen=True)
class Evaluation:
    """One look at the unmodified network during the optimization; NaN loss where none was computed yet.

    Args:
        step: steps done.
        beta: the softplus beta of the last step; infinite without smoothing.
        loss: equation 4 for each pair (N,), at that beta, before the last step.
        pcc: correlation of the map with the target (N,), on the unmodified network.
        class_kept: whether the predicted class is that of the clean image, bool (N,).
    """

    step: int
    beta: float
    loss: Tensor
    pcc: Tensor
    class_kept: Tensor


@dataclass(frozen=True)
class Manipulation:
    """The result of `manipulate`; every map and output is of the unmodified network.

    Args:
        inputs: manipulated images (N, C, H, W).
        saliency: their maps (N, H, W), non-negative, each sums to 1.
        original_saliency: the maps of the clean images.
        target_map: the maps aimed at, each sums to 1.
        similarity: of the maps.
        image_change: size of the perturbation.
        output_change: of the network.
        history: the evaluations, step 0 first.
        step: the iterate that was kept for each pair (N,); 0 is the clean image.
        interrupted: whether a KeyboardInterrupt ended the optimization early.
    """

    inputs: Tensor
    saliency: Tensor
    original_saliency: Tensor
    target_map: Tensor
    similarity: MapSimilarity
    image_change: ImageChange
    output_change: OutputChange
    history: tuple[Evaluation, ...]
    step: Tensor
    interrupted: bool

    def statistics(self) -> dict[str, Tensor]:
        """The measurements by the names under which they are stored, one value a pair, float64 (N,)."""
        similar, image, output = self.similarity, self.image_change, self.output_change
        values = {
            "pcc_to_target": similar.to_target.pcc,
            "pcc_to_original": similar.to_original.pcc,
            "ssim_to_target": similar.to_target.ssim,
            "ssim_to_original": similar.to_original.ssim,
            "mse_to_target": similar.to_target.mse,
            "mse_to_original": similar.to_original.mse,
            "linf": image.linf,
            "l2": image.l2,
            "psnr": image.psnr,
            "probability_change": output.probability_change,
            "probability_norm": output.probability_norm,
            "class_kept": output.class_kept,
        }
        return {name: value.detach().to("cpu", torch.float64) for name, value in values.items()}


def compare(first: Tensor, second: Tensor, data_range: float | None = None) -> Similarity:
    """SSIM, PCC and MSE of maps (N, H, W) or images (N, C, H, W).

    Without a `data_range`, that of SSIM is the width of the values of each pair: for maps that sum to 1 a
    range of 1 would let the stabilizing constants decide.
    """
    side = min(WINDOW, *first.shape[-2:])
    window = side if side % 2 else side - 1
    both = torch.stack((first, second), dim=1).flatten(1).double()
    width: float | Tensor = both.amax(1) - both.amin(1) if data_range is None else data_range
    if window < 3:
        alike = torch.full((len(first),), math.nan, dtype=torch.float64, device=first.device)
    else:
        alike = ssim(first, second, window=window, data_range=width)
    return Similarity(alike, pearson(first, second), mse(first, second))


def image_change(clean: Tensor, manipulated: Tensor, limits: tuple[Tensor, Tensor] | None) -> ImageChange:
    """Size of the perturbation of images (N, C, H, W)."""
    clean, manipulated = clean.double(), manipulated.double()
    if limits is not None:
        lower, upper = limits[0].double(), limits[1].double()
        clean, manipulated = (clean - lower) / (upper - lower), (manipulated - lower) / (upper - lower)
        peak = torch.ones_like(clean[:, 0, 0, 0])
    else:
        peak = clean.flatten(1).amax(1) - clean.flatten(1).amin(1)
    difference = (manipulated - clean).flatten(1)
    error = difference.square().mean(1)
    similarity = compare(clean, manipulated, data_range=None if limits is None else 1.0)
    return ImageChange(
        linf=difference.abs().amax(1),
        l2=difference.norm(dim=1),
        psnr=10 * torch.log10(peak.square() / error),
        similarity=similarity,
    )


def output_change(before: Tensor, after: Tensor) -> OutputChange:
    """What changed between two batches of logits (N, K)."""
    p, q = before.double().softmax(1), after.double().softmax(1)
    winner = before.argmax(1)
    clean = p.gather(1, winner[:, None])[:, 0]
    return OutputChange(
        logits=after - before,
        probability=clean,
        probability_change=q.gather(1, winner[:, None])[:, 0] - clean,
        probability_norm=(q - p).norm(dim=1),
        class_before=winner,
        class_after=after.argmax(1),
    )
