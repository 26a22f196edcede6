"""Dombrowski et al. 2019, figure 7: pixel flipping by the gradient, plain and smoothed."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from veridical.attributions import method
from veridical.faithfulness import pixel_flipping
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell
from veridical.smoothing import beta_smooth, smoothgrad
from veridical.values import Explainer

SOURCE = "Dombrowski et al. 2019, section 4, figure 7 (supplement D.1)"
BETA, NOISE = 1.0, 0.2
"""As the supplement sets them."""
COMPARABLE = 0.05


@dataclass(frozen=True)
class Flipping:
    """Steps of equal size, random orders, and noisy copies."""

    steps: int
    random: int
    samples: int = 10


def forms(chosen: Flipping, seed: int) -> dict[str, Explainer]:
    """The methods of the figure."""
    plain = method("gradient")
    return {
        "gradient": plain,
        "SmoothGrad": smoothgrad(plain, chosen.samples, NOISE, seed=seed),
        "beta-smoothed": beta_smooth(plain, BETA),
    }


def _cells(given: Given, chosen: Flipping) -> Makes:
    def make(index: int, told: Told) -> Cell:
        subject = given.subject
        x = subject.inputs[index : index + 1]
        target = None if subject.targets is None else subject.targets[index : index + 1]
        curves, reuse = {}, None
        for place, (name, explain) in enumerate(forms(chosen, given.seed).items()):
            found = pixel_flipping(
                subject.model, x, explain, target=target, reuse=reuse, order="morf", steps=chosen.steps,
                random=chosen.random, reduction="sum-abs", seed=given.seed, batch=16,
            )  # fmt: skip
            reuse = found
            for key, one in (("morf", found.morf), ("random", found.random)):
                if one is not None:
                    name_of = name if key == "morf" else "random"
                    curves[f"{name_of} probability"] = one.probability.reshape(-1, 1, chosen.steps + 1).mean(
                        0
                    )
                    right = one.predicted == found.target[:, None].cpu()
                    curves[f"{name_of} right"] = right.double().reshape(-1, 1, chosen.steps + 1).mean(0)
            told((place + 1) / 3)
        return cell({key: value.double() for key, value in curves.items()})

    return {f"image {index}": partial(make, index) for index in range(len(given.subject))}


def _result(given: Given, chosen: Flipping, cells: Cells) -> Outcome:
    names = ("random", "gradient", "SmoothGrad", "beta-smoothed")
    kinds = ("probability", "right")
    curves: dict[tuple[str, str], Any] = {
        (name, kind): np.concatenate([one[f"{name} {kind}"] for one in cells.values()])
        for name in names
        for kind in kinds
    }
    figure, panels = sheet(2)
    shares = np.linspace(0, 1, chosen.steps + 1)
    for axes, kind, label in zip(panels[0], kinds, ("probability of the class", "accuracy"), strict=True):
        for name in names:
            axes.plot(shares, curves[name, kind].mean(0), "k--" if name == "random" else "-", label=name)
        axes.set(xlabel="share of pixels set to zero, most relevant first", title=label)
        axes.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=7)
    areas = {name: np.trapezoid(curves[name, "probability"], dx=1 / chosen.steps) for name in names}
    known = given.subject.targets is not None
    return Outcome(
        claims=tuple(_claims(areas, given)),
        figure=figure,
        numbers={
            **{
                f"{name}: {kind}, mean curve": curve.mean(0).tolist()
                for (name, kind), curve in curves.items()
            },
            **{f"{name}: area of the probability": one.tolist() for name, one in areas.items()},
        },
        notes=(
            "The claims are decided by the area under the probability of the class of each image, which "
            "says more than right or wrong where there are few images.",
            "The class is that of the data." if known else "The class is the predicted one: no labels.",
        ),
    )


def _claims(areas: dict[str, Any], given: Given) -> list[Claim]:
    level, seed = given.level, given.seed
    found = [
        Stated(f"{name} is better than the gradient", SOURCE, "superior to the gradient", ABOVE_0).by(
            areas["gradient"] - areas[name], f"area of the gradient minus {name}", level, "mean", seed
        )
        for name in ("beta-smoothed", "SmoothGrad")
    ]
    found.append(
        Stated(
            "beta-smoothing and SmoothGrad perform alike", SOURCE,
            f"comparable (read: areas within {COMPARABLE:g})", Expected(-COMPARABLE, COMPARABLE),
        ).by(areas["beta-smoothed"] - areas["SmoothGrad"], "area of beta-smoothed minus SmoothGrad", level,
             "mean", seed)
    )  # fmt: skip
    found += [
        Stated(f"{name} is better than random orders", SOURCE, "below the random baseline", ABOVE_0).by(
            areas["random"] - areas[name], f"area of random orders minus {name}", level, "mean", seed
        )
        for name in ("SmoothGrad", "beta-smoothed")
    ]
    return found


FIGURE_7 = Reproduction(Flipping(10, 2), Flipping(50, 5), _cells, _result)
