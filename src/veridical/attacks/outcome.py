"""What a manipulation achieved, measured on the unmodified network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from veridical.attacks.settings import ManipulationSettings
from veridical.metrics import box, mse, pearson, ssim

WINDOW = 7
"""Side of the uniform SSIM window in pixels; smaller where the map is smaller (the paper does not say)."""

Values = Literal["sum-1", "unit", "input"]
_Joined = TypeVar("_Joined")


@dataclass(frozen=True)
class Convention:
    """How two batches were compared; it travels with the numbers, which mean nothing without it.

    SSIM has a uniform window, sample covariances and the usual constants 0.01 and 0.03, and is averaged over
    channels and over the places where the window fits. Pearson correlation and MSE run over all values of a
    sample, channels included, in float64.

    Args:
        values: "sum-1" for non-negative maps that sum to 1, "unit" for images in [0, 1] of the valid range,
            "input" for images in the units of the network's input.
        window: side of the SSIM window in pixels, odd; below 3 SSIM is not measured.
        data_range: of SSIM; "pair" is max - min over both members of a pair.
    """

    values: Values
    window: int
    data_range: Literal["pair"] | float


@dataclass(frozen=True)
class Similarity:
    """Likeness of two batches of maps or images, one value a pair; NaN means "not measured".

    Args:
        ssim: structural similarity (N,), more is more alike.
        pcc: Pearson correlation over all values (N,), more is more alike.
        mse: mean squared difference (N,), less is more alike.
        convention: what was compared, and how.
    """

    ssim: Tensor
    pcc: Tensor
    mse: Tensor
    convention: Convention


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
        calls: how often the optimization asked for the map of one image, for each pair (N,).
        settings: the choices that made it, the seed among them.
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
    calls: Tensor
    settings: ManipulationSettings

    @property
    def gradient(self) -> str:
        """How the derivative was taken: "exact", or "estimated", from calls of the method alone."""
        return self.settings.gradient

    def table(self, *, level: float = 0.99, seed: int = 0) -> list[dict[str, Any]]:
        """Box statistics of every measurement; see `outcome_table`."""
        return outcome_table([self], level=level, seed=seed)

    def statistics(self) -> dict[str, Tensor]:
        """The measurements that an audit stores, by name, one value a pair, float64 (N,)."""
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

    def measurements(self) -> dict[str, Tensor]:
        """All measurements by name, one value a pair, float64 (N,): those of `statistics`, and the rest.

        `*_before` compares the clean image's map with the target map, `*_image` the two images. `logit_norm`
        and `logit_linf` are the Euclidean norm and the largest magnitude of the change of the logits,
        `winner_logit_change` the change of the logit of the class predicted for the clean image, and
        `probability` the clean probability of that class.
        """
        before, image, output = self.similarity.before, self.image_change.similarity, self.output_change
        logits = output.logits.double()
        values = {
            "pcc_before": before.pcc,
            "ssim_before": before.ssim,
            "mse_before": before.mse,
            "pcc_image": image.pcc,
            "ssim_image": image.ssim,
            "mse_image": image.mse,
            "logit_norm": logits.norm(dim=1),
            "logit_linf": logits.abs().amax(1),
            "winner_logit_change": logits.gather(1, output.class_before[:, None])[:, 0],
            "probability": output.probability,
        }
        rest = {name: value.detach().to("cpu", torch.float64) for name, value in values.items()}
        return self.statistics() | rest


def outcome_table(
    outcomes: Manipulation | Sequence[Manipulation], *, level: float = 0.99, seed: int = 0
) -> list[dict[str, Any]]:
    """Box statistics over the pairs of one or several manipulations, one row a measurement.

    Args:
        outcomes: several are joined: their pairs count as pairs of one.
        level: of the bootstrap interval of each median.
        seed: of the bootstrap.

    Returns:
        Rows with the same keys: the statistic's name, the fields of `veridical.metrics.Box`, and the
        convention of its comparison (`values`, `window`, `data_range`), None where nothing was compared.

    Raises:
        ValueError: where the manipulations cannot be joined, or the level is out of range.
    """
    joined = outcomes if isinstance(outcomes, Manipulation) else join(outcomes)
    maps = joined.similarity.to_target.convention
    image = joined.image_change.similarity.convention
    rows = []
    for name, values in joined.measurements().items():
        kind, _, what = name.partition("_")
        compared = kind in ("pcc", "ssim", "mse")
        convention = (image if what == "image" else maps) if compared else None
        rows.append(
            {"statistic": name, **box(values, level=level, seed=seed).record(), **_columns(convention)}
        )
    return rows


def _columns(convention: Convention | None) -> dict[str, Any]:
    """The convention as columns of a table; the data range as a text, so that the column has one type."""
    if convention is None:
        return {"values": None, "window": None, "data_range": None}
    return {
        "values": convention.values,
        "window": convention.window,
        "data_range": str(convention.data_range),
    }


def join(results: Sequence[_Joined]) -> _Joined:
    """Results of different pairs as one: tensors are concatenated along the pairs.

    Works on any dataclass of tensors with one row a pair. `interrupted` is set where one of them has it; a
    tuple of evaluations is joined as far as all of them go. Everything else must be equal.

    Raises:
        ValueError: where there is no result, or something else than the pairs differs.
    """
    if not results:
        raise ValueError("expected at least one result to join, got none; run the attack first")
    return cast(_Joined, _join("results", results))


def _join(name: str, parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if name == "interrupted":
        return any(parts)
    if is_dataclass(first) and not isinstance(first, Convention):
        names = [field.name for field in fields(first)]
        kind: Any = type(first)
        return kind(**{n: _join(n, [getattr(part, n) for part in parts]) for n in names})
    if isinstance(first, tuple) and first and is_dataclass(first[0]):
        return tuple(_join(name, entries) for entries in zip(*parts, strict=False))
    if any(part != first for part in parts):
        other = next(part for part in parts if part != first)
        raise ValueError(
            f"expected results of one kind, got {name} {first!r} and {other!r}; join what was made alike"
        )
    return first


def compare(
    first: Tensor, second: Tensor, data_range: float | None = None, values: Values = "sum-1"
) -> Similarity:
    """SSIM, PCC and MSE of maps (N, H, W) or images (N, C, H, W).

    Without a `data_range`, that of SSIM is the width of the values of each pair: for maps that sum to 1 a
    range of 1 would let the stabilizing constants decide.

    Args:
        first: maps or images.
        second: of the same shape.
        data_range: of SSIM; None for that of each pair.
        values: what is compared, for the record: it is not changed here.
    """
    side = min(WINDOW, *first.shape[-2:])
    window = side if side % 2 else side - 1
    both = torch.stack((first, second), dim=1).flatten(1).double()
    width: float | Tensor = both.amax(1) - both.amin(1) if data_range is None else data_range
    if window < 3:
        alike = torch.full((len(first),), math.nan, dtype=torch.float64, device=first.device)
    else:
        alike = ssim(first, second, window=window, data_range=width)
    convention = Convention(values, window, "pair" if data_range is None else data_range)
    return Similarity(alike, pearson(first, second), mse(first, second), convention)


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
    if limits is None:
        similarity = compare(clean, manipulated, values="input")
    else:
        similarity = compare(clean, manipulated, data_range=1.0, values="unit")
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
