"""Dombrowski et al. 2019, figure 3 and supplement figure 6: what an attack does to map, image and output."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from veridical.attacks import Manipulation, ManipulationSettings, manipulate, preset
from veridical.attributions import method, saliency
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import boxes, sheet
from veridical.reproduce.given import (
    Cell,
    Cells,
    Given,
    Makes,
    Outcome,
    Reproduction,
    Subject,
    Told,
    cell,
    joined,
)
from veridical.values import Explainer

MAPS = "Dombrowski et al. 2019, section 2.3, figure 3"
ORDER = 1e-2
"""What is of the order of 1e-3 is below this."""
COLUMNS = ("pcc_to_target", "pcc_to_original", "ssim_to_target", "probability_norm", "class_kept", "psnr")
NEXT = "Each image is aimed at the map of the next one."


@dataclass(frozen=True)
class Attacks:
    """The methods under attack, and the steps of each attack."""

    methods: tuple[str, ...]
    steps: int


def attack_settings(subject: Subject, steps: int) -> ManipulationSettings:
    """The default attack with its last iterate kept, as in the paper."""
    return replace(preset("default", subject.bounds), steps=steps, keep="last", every=max(1, steps // 5))


def pair(subject: Subject, index: int, explain: Explainer) -> tuple[Tensor, Tensor]:
    """An image (1, C, H, W), and the map (1, H, W) of the next one, at which it is aimed.

    Raises:
        ValueError: if there is no other image.
    """
    if len(subject) < 2:
        raise ValueError(
            "expected two images or more, since each is aimed at the map of the next, got 1; give more"
        )
    following = (index + 1) % len(subject)
    goal = saliency(explain(subject.model, subject.inputs[following : following + 1])).detach()
    return subject.inputs[index : index + 1], goal


def attacked(
    subject: Subject, index: int, explain: Explainer, steps: int, told: Callable[[float], None]
) -> tuple[Manipulation, Tensor]:
    """The attack on one image, and the map that it aimed at.

    Raises:
        KeyboardInterrupt: if it was interrupted: half an attack is none.
    """
    clean, goal = pair(subject, index, explain)

    def callback(step: int, losses: Tensor) -> None:
        told(step / steps)

    found = manipulate(
        subject.model, clean, goal, explainer=explain, settings=attack_settings(subject, steps),
        callback=callback,
    )  # fmt: skip
    if found.interrupted:
        raise KeyboardInterrupt
    return found, goal


def _cells(given: Given, chosen: Attacks) -> Makes:
    def make(name: str, index: int, told: Told) -> Cell:
        found, _ = attacked(given.subject, index, method(name), chosen.steps, told)
        values = found.statistics()
        values["pcc_before"] = found.similarity.before.pcc.double()
        values["ssim_images"] = found.image_change.similarity.ssim.double()
        return cell(values)

    return {
        f"{name} image {index}": partial(make, name, index)
        for name in chosen.methods
        for index in range(len(given.subject))
    }


def _result(given: Given, chosen: Attacks, cells: Cells) -> Outcome:
    names = tuple(next(iter(cells.values())).arrays)
    values: dict[str, dict[str, Any]] = {
        name: {key: joined(cells, key, f"{name} image ") for key in names} for name in chosen.methods
    }
    figure, panels = sheet(4, size=(3.6, 3.6))
    shown = {
        "pcc_to_target": "PCC, map and target", "ssim_to_target": "SSIM, map and target",
        "ssim_images": "SSIM, images", "probability_norm": "norm of the probability change",
    }  # fmt: skip
    for axes, (key, title) in zip(panels[0], shown.items(), strict=True):
        boxes(axes, {name: one[key] for name, one in values.items()})
        axes.set(title=title)
    claims = [claim for name, one in values.items() for claim in _claims(name, one, given)]
    numbers = {
        name: {key: one[key].tolist() for key in (*COLUMNS, "pcc_before", "ssim_images")}
        for name, one in values.items()
    }
    return Outcome(tuple(claims), figure, numbers, (
        NEXT, f"{chosen.steps} steps of the default attack; the paper took 500 to 1500, tuned for VGG-16.",
    ))  # fmt: skip


def _claims(name: str, one: dict[str, Any], given: Given) -> list[Claim]:
    level, output = given.level, "Dombrowski et al. 2019, section 2.3; supplement, figure 6"
    return [
        Stated(f"{name}: the map closely resembles the target", MAPS,
               "closely (read: more than the original)", ABOVE_0).by(
            one["pcc_to_target"] - one["pcc_to_original"],
            "PCC of the manipulated map to target minus to original", level,
        ),
        Stated(f"{name}: the map has moved to the target", MAPS, "an arbitrary target map", ABOVE_0).by(
            one["pcc_to_target"] - one["pcc_before"], "PCC to the target, after minus before", level
        ),
        Stated(f"{name}: the images are very similar", MAPS,
               "very similar (read: SSIM of 0.9 and more)", Expected(low=0.9)).by(
            one["ssim_images"], "SSIM of the images", level
        ),
        Stated(f"{name}: the class is unchanged", output, "in all cases", Expected(low=1.0)).by_every(
            one["class_kept"], "class kept (0 or 1)"
        ),
        Stated(f"{name}: the output is approximately the same", output,
               "median norm of the change of order 1e-3 (read: below 1e-2)",
               Expected(high=ORDER, strict=True)).by(
            one["probability_norm"], "norm of the change of all probabilities", level
        ),
    ]  # fmt: skip


FIGURE_3 = Reproduction(
    Attacks(("gradient",), 40),
    Attacks(("gradient", "gradient-x-input", "guided-backprop", "lrp-zplus"), 300),
    _cells,
    _result,
)
