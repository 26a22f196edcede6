"""Dombrowski et al. 2019, figure 4 and supplement figure 14: an attack undone by smoothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from veridical.attacks import AttackedPairs, RecoveryCurve, RecoverySettings, undo
from veridical.attributions import method
from veridical.reproduce.attacked import NEXT, attacked
from veridical.reproduce.claims import ABOVE_0, Claim, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell

SOURCES = {
    "beta": "Dombrowski et al. 2019, section 4, figure 4",
    "noise": "Dombrowski et al. 2019, section 4; supplement, figure 14",
}
LEAST_BETA, MOST_NOISE = 0.8, 0.1
"""The ends of the paper's axes: the beta of its table 5, and 10 %."""


@dataclass(frozen=True)
class Undoing:
    """The attack, and the smoothing afterwards; betas fall, noises grow."""

    steps: int
    betas: tuple[float, ...]
    noises: tuple[float, ...]
    samples: int = 10
    method: str = "gradient"


def _cells(given: Given, chosen: Undoing) -> Makes:
    def make(index: int, told: Told) -> Cell:
        subject, explain = given.subject, method(chosen.method)
        attack, goal = attacked(subject, index, explain, chosen.steps, lambda share: told(share / 2))
        pairs = AttackedPairs(subject.inputs[index : index + 1], attack.inputs, goal)
        settings = RecoverySettings(
            betas=chosen.betas, noises=chosen.noises, samples=chosen.samples, seed=given.seed, batch=1
        )
        found = undo(
            subject.model, pairs, explain, settings=settings, callback=lambda share: told(0.5 + share / 2)
        )
        if found.interrupted:
            raise KeyboardInterrupt
        rows: dict[str, torch.Tensor] = {
            curve.kind: torch.stack([curve.to_target, curve.to_smoothed, curve.to_plain])
            for curve in (found.beta, found.noise)
        }
        return cell(rows)

    return {f"image {index}": partial(make, index) for index in range(len(given.subject))}


def _result(given: Given, chosen: Undoing, cells: Cells) -> Outcome:
    curves = []
    for kind, levels in (("beta", (math.inf, *chosen.betas)), ("noise", (0.0, *chosen.noises))):
        scores = torch.from_numpy(np.concatenate([one[kind] for one in cells.values()], axis=2))
        target, smoothed, plain = scores
        curves.append(RecoveryCurve(kind, levels, target, smoothed, plain, None))  # type: ignore[arg-type]
    figure, panels = sheet(2)
    for axes, curve in zip(panels[0], curves, strict=True):
        draw_recovery(axes, curve, f"{chosen.method}, {curve.kind}")
    numbers: dict[str, Any] = {
        curve.kind: {
            "levels": list(curve.levels),
            "to target (levels, images)": curve.to_target.tolist(),
            "to the original under the same smoothing": curve.to_smoothed.tolist(),
            "to the original of the plain method": curve.to_plain.tolist(),
        }
        for curve in curves
    }
    claims = [claim for curve in curves for claim in _claims(curve, given)]
    return Outcome(tuple(claims), figure, numbers, (
        NEXT,
        "The paper does not say which original the recovered map is compared with: both are here, that under "
        "the same smoothing and that of the plain method.",
        f"{chosen.steps} steps of the default attack on {chosen.method}; the figure has LRP as well.",
    ))  # fmt: skip


def draw_recovery(
    axes: Any, curve: RecoveryCurve, title: str, marks: Sequence[tuple[float, str]] = ()
) -> None:
    """Medians with bands from 10 to 90 %, crossings, and lines at the marked levels."""
    falling = curve.kind == "beta"
    where = list(curve.levels)
    where[0] = where[1] * 3 if falling else where[1] / 3  # no smoothing, off the logarithmic axis
    rows = curve.bands()
    for name, color in (("target", "C3"), ("smoothed original", "C0"), ("plain original", "C2")):
        own = [row for row in rows if row["correlation_with"] == name]
        low, high = ([row[key] for row in own] for key in ("q10", "q90"))
        axes.plot(where, [row["median"] for row in own], color=color, label=name)
        axes.fill_between(where, low, high, color=color, alpha=0.15)
    for reference, color in (("smoothed", "C0"), ("plain", "C2")):
        crossing = curve.crossing(reference).summary.median  # type: ignore[arg-type]
        if not math.isnan(crossing):
            axes.axvline(crossing, color=color, linestyle=":", label=f"crossing, {reference}: {crossing:.3g}")
    for level, label in marks:
        axes.axvline(level, color="k", linestyle="--", linewidth=1, label=label)
    axes.set(title=title, xscale="log", ylim=(-0.55, 1.02), ylabel="correlation",
             xlabel="beta (left: ReLU)" if falling else "noise level (left: none)")  # fmt: skip
    if falling:
        axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="lower left")


def _claims(curve: RecoveryCurve, given: Given) -> list[Claim]:
    source, level, end = SOURCES[curve.kind], given.level, curve.levels[-1]
    last = f"beta {end:g}" if curve.kind == "beta" else f"noise {end:g}"
    words = "the original explanation is recovered"
    found = [
        Stated(f"the target's share falls by {last}", source, "a falling curve", ABOVE_0).by(
            curve.to_target[0] - curve.to_target[-1], f"PCC to the target, unsmoothed minus {last}", level
        ),
        Stated(f"the original under the same smoothing is back by {last}", source, words, ABOVE_0).by(
            curve.to_smoothed[-1] - curve.to_target[-1], f"PCC to original minus to target, {last}", level
        ),
        Stated(f"the map of the plain method comes back at some {curve.kind}", source, words, ABOVE_0).by(
            (curve.to_plain[1:] - curve.to_plain[:1]).amax(0),
            "PCC to the plain original, best level minus unsmoothed", level,
        ),
        Stated(f"at that {curve.kind} it is nearer than the target", source, words, ABOVE_0).by(
            _at_best(curve), "PCC to the plain original minus to target, at the best level", level
        ),
    ]  # fmt: skip
    if curve.kind == "beta":
        attack = Stated("before smoothing the map is the target's", source, "manipulated", ABOVE_0)
        found.insert(
            0, attack.by(curve.to_target[0] - curve.to_plain[0], "PCC to target minus original", level)
        )
    return found


def _at_best(curve: RecoveryCurve) -> Any:
    """Plain original minus target at the level where each image's plain original is nearest (N,)."""
    best = curve.to_plain[1:].nan_to_num(-2.0).argmax(0, keepdim=True)
    ahead = (curve.to_plain - curve.to_target)[1:]
    return ahead.gather(0, best)[0]


FIGURE_4 = Reproduction(
    Undoing(40, (100.0, 30.0, 10.0, 3.0, LEAST_BETA), (0.01, 0.03, MOST_NOISE), samples=5),
    Undoing(
        300,
        (1000.0, 300.0, 100.0, 50.0, 30.0, 20.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.0, LEAST_BETA),
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, MOST_NOISE),
    ),
    _cells,
    _result,
)
