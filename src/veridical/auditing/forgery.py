"""One attack from end to end: optimized, measured, and measured again after the image was stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attacks import Manipulation, ManipulationSettings, load_recipe, manipulate
from veridical.attacks import preset as find_preset
from veridical.attacks.outcome import (
    ImageChange,
    MapSimilarity,
    OutputChange,
    Similarity,
)
from veridical.attacks.storage import FORMATS, Survival, encode_png, survival
from veridical.attributions import method
from veridical.auditing.watching import Sight, Watched
from veridical.checks import check_differentiable, check_method
from veridical.smoothing import beta_smooth, smoothgrad
from veridical.values import Explainer

Bounds = tuple[Sequence[float], Sequence[float]]

EVERY = 10
"""Steps between looks at the unmodified network: an interrupt loses at most this many."""

CONVENTIONS: Mapping[str, str] = {
    "maps": "sum over the channels of |relevance|, divided by its sum; of the unmodified network, for the "
    "class that it predicts for the explained image",
    "pcc": "Pearson correlation over all pixels, for images over all pixels and channels",
    "mse": "mean squared difference over the same",
    "ssim": "uniform window, mean over the places where it fits and over the channels",
    "linf, l2, psnr": "of the change of the image in [0, 1], black to white; psnr in dB with a peak of 1, "
    "null where nothing changed",
    "probability_change": "of the class predicted for the clean image",
    "probability_norm": "Euclidean norm of the change of all probabilities",
    "before": "map of the clean image",
    "stored": "as the image comes back from a file: png-16 and png-8 are rounded to 65535 and 255 steps, "
    "jpeg-95 and jpeg-75 are Pillow's of that quality with 4:2:0 color",
    "control": "map of the clean image, stored in the same way, against its map before",
    "logit_change": "of all logits: the largest magnitude (linf) and the Euclidean norm (l2)",
    "gradient": "that the optimization followed: exact, the derivative of the map; or estimated, from "
    "differences between `calls` maps of images a random step away, a weaker attack",
    "history": "the iterates that were looked at: pcc with the target map on the unmodified network, loss of "
    "the step before on the network with softplus of that beta (null: no softplus)",
}
"""What the figures of a record mean."""


@dataclass(frozen=True)
class Moment:
    """Where an attack is.

    Args:
        step: steps done.
        steps: of all.
        loss: mean over the batch.
        pcc: correlation of the last map with the target, the mean over the batch; NaN before the first.
        smoothed: whether that map was of the softplus network.
        class_kept: whether every image has its class still, in that network; None where it was not asked.
    """

    step: int
    steps: int
    loss: float
    pcc: float
    smoothed: bool
    class_kept: bool | None


@dataclass(frozen=True)
class Forgery:
    """An attack and what storing does to it.

    Args:
        clean: the images before (N, C, H, W).
        attack: what `manipulate` returned.
        stored: the attack measured again, for each format; empty where the bounds are not known.
        settings: the choices of the optimization.
        seconds: of everything, wall clock.
    """

    clean: Tensor
    attack: Manipulation
    stored: tuple[Survival, ...]
    settings: ManipulationSettings
    seconds: float

    def figures(self, index: int = 0, label: Callable[[int], str] = str) -> dict[str, Any]:
        """All figures of one image as plain values for JSON; None for "not measured" and for infinity.

        Args:
            index: of the image in the batch.
            label: what a class is called.
        """
        attack = self.attack
        after = _figures((attack.similarity, attack.image_change, attack.output_change), index, label)
        return {
            "interrupted": attack.interrupted,
            "kept_step": int(attack.step[index]),
            "gradient": {"kind": attack.gradient, "calls": int(attack.calls[index])},
            "before": {"to_target": _alike(attack.similarity.before, index)},
            "after": after,
            "stored": {
                one.format: {
                    **_figures((one.similarity, one.image_change, one.output_change), index, label),
                    "control": _alike(one.control, index),
                }
                for one in self.stored
            },
            "history": [
                {
                    "step": entry.step,
                    "beta": _number(entry.beta),
                    "loss": _number(entry.loss[index]),
                    "pcc": _number(entry.pcc[index]),
                    "class_kept": bool(entry.class_kept[index]),
                }
                for entry in attack.history
            ],
        }

    def conventions(self) -> dict[str, Any]:
        """What the figures mean, and how maps and images were compared."""
        compared = {"maps": self.attack.similarity.to_target, "images": self.attack.image_change.similarity}
        return {
            **CONVENTIONS,
            "compared": {name: asdict(one.convention) for name, one in compared.items()},
        }

    def maps(self) -> dict[str, Tensor]:
        """The maps of the clean image, the target and the manipulated image, each (N, H, W)."""
        attack = self.attack
        return {
            "original": attack.original_saliency, "target": attack.target_map, "manipulated": attack.saliency
        }  # fmt: skip

    def pictures(self, index: int = 0) -> dict[str, bytes]:
        """PNG files of one image by their names: clean and manipulated with 8 bits, manipulated with 16.

        Raises:
            ValueError: where the bounds are not known, or the image has neither 1 nor 3 channels.
        """
        limits = self.settings.limits(self.clean)
        if limits is None:
            raise ValueError("expected settings with bounds, got None; black and white are not known")
        low, high = limits
        clean, changed = (((one - low) / (high - low))[index] for one in (self.clean, self.attack.inputs))
        return {
            "clean.png": encode_png(clean),
            "manipulated.png": encode_png(changed),
            "manipulated-16bit.png": encode_png(changed, bits=16),
        }


def forge(
    model: nn.Module,
    inputs: Tensor,
    target_map: Tensor,
    explainer: Explainer,
    settings: ManipulationSettings,
    *,
    progress: Callable[[Moment], None] | None = None,
) -> Forgery:
    """Attack an explanation, measure it, and measure it again after 16 bits, 8 bits, JPEG 95 and JPEG 75.

    A target map that is uniform correlates with nothing, so that no best iterate can be chosen by
    correlation: the last one is kept then.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_map: maps aimed at (N, H, W), see `veridical.attacks.targets`.
        explainer: the method under attack.
        settings: see `attack_settings`; bounds are black and white of the stored pictures.
        progress: called after every step.

    Returns:
        The attack; with `attack.interrupted` where Ctrl-C ended the optimization early.

    Raises:
        TypeError: see `manipulate`.
        ValueError: see `manipulate`; also where JPEG cannot hold the image's channels.
    """
    started = time.perf_counter()
    settings = _keeping(settings, target_map)
    seen = _Progress(settings, progress)
    watched = explainer if progress is None else Watched(explainer, target_map, seen.saw)
    attack = manipulate(
        model, inputs, target_map, explainer=watched, settings=settings, callback=seen.stepped
    )  # fmt: skip
    clean = inputs.detach()[: len(attack.inputs)]  # an interrupt leaves out pairs that are not finished
    limits = settings.limits(inputs)
    formats = FORMATS if limits is not None else {}
    stored = tuple(
        survival(model, clean, attack, explainer, limits, name) for name in formats if limits is not None
    )
    return Forgery(clean, attack, stored, settings, time.perf_counter() - started)


def attack_settings(  # noqa: PLR0913 - the options of the command line
    preset: str = "default",
    bounds: Bounds | None = None,
    *,
    steps: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    gradient: str = "exact",
    max_linf: float | None = None,
    max_l2: float | None = None,
) -> ManipulationSettings:
    """The settings of an attack on inputs with these bounds, which looks at the network every 10 steps.

    Args:
        preset: one of `veridical.attacks.PRESETS`; its learning rate is converted to the width of the bounds.
        bounds: lowest and highest valid value of each channel.
        steps: instead of the preset's.
        lr: instead of the preset's, as a fraction of the width of the bounds.
        seed: of what is random.
        gradient: "exact", or "estimated" for a method without a derivative.
        max_linf: the most that a value may change, as a fraction of the width of the bounds.
        max_l2: the same for the Euclidean norm of the whole change.

    Raises:
        ValueError: where there is no such preset or gradient, or a number is out of range.
    """
    pair = None if bounds is None else (tuple(bounds[0]), tuple(bounds[1]))
    settings = find_preset(preset, pair)
    changes: dict[str, Any] = {"seed": seed, "every": EVERY, "gradient": gradient}
    changes.update(max_linf=max_linf, max_l2=max_l2)
    if steps is not None:
        changes["steps"] = steps
    if lr is not None:
        changes.update(lr=lr, lr_unit="range")
    return replace(settings, **changes)


@dataclass(frozen=True)
class Published:
    """What a preset's table attacked.

    Args:
        name: of the method, "gradient" where the preset is for any.
        explainer: the method with the options of the paper.
        beta: of the softplus activations that it ran on; None for those of the network.
        samples: noisy copies that it was averaged over; None for the image alone.
    """

    name: str
    explainer: Explainer
    beta: float | None
    samples: int | None


def published(preset: str = "default") -> Published:
    """The method that belongs to a preset, and its form; see `veridical.attacks.load_recipe`.

    Raises:
        ValueError: where there is no such preset.
    """
    find_preset(preset)
    recipe = load_recipe()
    entry = recipe.presets[preset]
    convention = recipe.convention if entry.method else None
    name = entry.method or "gradient"
    return Published(name, method(name, convention=convention or None), entry.smooth_beta, entry.samples)


def defended(
    explainer: Explainer,
    *,
    beta: float | None = None,
    samples: int | None = None,
    seed: int = 0,
    gradient: str = "exact",
) -> Explainer:
    """The method as an attack finds it: smoothed, averaged over noise, both (averaged outside), or neither.

    Args:
        explainer: the method; where it draws random numbers from a seed, it gets this one.
        beta: of the softplus activations that the method runs on; None for those of the network.
        samples: noisy copies of the image; None for the image alone.
        seed: of the noise.
        gradient: "exact" for an attack that follows the derivative of the map, else "estimated".

    Raises:
        TypeError: where it is no method.
        ValueError: where the method says that it has no derivative and the gradient is to be exact, or a
            number is out of range.
    """
    check_method(explainer)
    if gradient == "exact":
        check_differentiable(explainer)
    if is_dataclass(explainer) and type(getattr(explainer, "seed", None)) is int:
        explainer = replace(explainer, seed=seed)
    if beta is not None:
        explainer = beta_smooth(explainer, beta)
    return explainer if samples is None else smoothgrad(explainer, samples, seed=seed)


class _Progress:
    """Joins what the watched explainer saw with the steps that are done."""

    def __init__(self, settings: ManipulationSettings, told: Callable[[Moment], None] | None) -> None:
        self._steps = settings.steps
        self._told = told
        self._sight: Sight | None = None
        self._classes: Tensor | None = None

    def saw(self, sight: Sight) -> None:
        # The first prediction is that of the clean image, before the first step.
        if self._classes is None:
            self._classes = sight.predicted
        self._sight = sight

    def stepped(self, step: int, losses: Tensor) -> None:
        if self._told is None:
            return
        sight = self._sight or Sight(math.nan, False, None)
        kept = None
        if sight.predicted is not None and self._classes is not None:
            kept = bool(torch.equal(sight.predicted, self._classes))
        self._told(Moment(step, self._steps, losses.mean().item(), sight.pcc, sight.smoothed, kept))


def _keeping(settings: ManipulationSettings, target_map: Tensor) -> ManipulationSettings:
    if not isinstance(target_map, Tensor) or target_map.dim() != 3:
        return settings  # refused by the attack, with a better message
    spread = target_map.flatten(1).amax(1) - target_map.flatten(1).amin(1)
    return replace(settings, keep="last") if bool((spread == 0).any()) else settings


def _figures(
    found: tuple[MapSimilarity, ImageChange, OutputChange], index: int, label: Callable[[int], str]
) -> dict[str, Any]:
    maps, image, output = found
    before, after = int(output.class_before[index]), int(output.class_after[index])
    return {
        "to_target": _alike(maps.to_target, index),
        "to_original": _alike(maps.to_original, index),
        "image": {
            "linf": _number(image.linf[index]),
            "l2": _number(image.l2[index]),
            "psnr": _number(image.psnr[index]),
            **_alike(image.similarity, index),
        },
        "output": {
            "class_before": before,
            "label_before": label(before),
            "class_after": after,
            "label_after": label(after),
            "class_kept": bool(output.class_kept[index]),
            "probability": _number(output.probability[index]),
            "probability_change": _number(output.probability_change[index]),
            "probability_norm": _number(output.probability_norm[index]),
            "logit_change_linf": _number(output.logits[index].abs().max()),
            "logit_change_l2": _number(output.logits[index].norm()),
        },
    }


def _alike(found: Similarity, index: int) -> dict[str, float | None]:
    return {name: _number(getattr(found, name)[index]) for name in ("ssim", "pcc", "mse")}


def _number(value: Tensor | float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
