"""Sixt et al. 2020, figure 3: how near the matrices of the layers are to rank one."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.attributions import fit_patterns
from veridical.faithfulness import RankOneAnalysis, rank_one_analysis
from veridical.faithfulness.rank_one import Quantity
from veridical.metrics import Interval
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told

SOURCE = "Sixt et al. 2020, section 4, figure 3"
RATIO = 6.0
MOST = Expected(low=0.8)
QUANTITIES: dict[Quantity, str] = {"weight": "W", "pattern": "A", "product": "W * A"}
PARTS = {"full": "full matrices", "center": "center taps", "between": "between layers"}


@dataclass(frozen=True)
class Ranks:
    """Images in one pass of the fit of the patterns."""

    batch: int = 8


def _cells(given: Given, chosen: Ranks) -> Makes:
    def make(told: Told) -> Cell:
        subject = given.subject
        patterns = fit_patterns(subject.model, subject.inputs.split(chosen.batch))
        told(0.5)
        found = rank_one_analysis(subject.model, subject.inputs[:1], patterns=patterns.active)
        arrays = {
            f"{part} {quantity}": _ratios(found, part, quantity) for part in PARTS for quantity in QUANTITIES
        }
        return Cell(arrays, {"layers": [one.name for one in found.layers]})

    return {"singular values": make}


def _ratios(found: RankOneAnalysis, part: str, quantity: Quantity) -> NDArray[np.float64]:
    """sigma_1 / sigma_2 of each layer, or of each pair of neighbors; infinite for rank one."""
    if part == "between":
        return np.array(list(found.pair_ratios(quantity).values()))
    return np.array(list(found.ratios(quantity, center=part == "center").values()))


def _result(given: Given, chosen: Ranks, cells: Cells) -> Outcome:
    found = cells["singular values"]
    figure, panels = sheet(3, size=(4.2, 3.6))
    for axes, (part, title) in zip(panels[0], PARTS.items(), strict=True):
        for quantity, label in QUANTITIES.items():
            axes.plot(found[f"{part} {quantity}"], label=label)
        axes.set(title=title, yscale="log", xlabel="layer", ylabel="sigma1 / sigma2")
        axes.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=7)
    numbers: dict[str, Any] = {"layers": found.words["layers"]}
    for part in PARTS:
        numbers |= {
            f"{part}, {label}": found[f"{part} {name}"].tolist() for name, label in QUANTITIES.items()
        }
    return Outcome(tuple(_claims(found, given)), figure, numbers, (
        f"Patterns of the {len(given.subject)} images that were given; few images make patterns of low rank. "
        "The paper took those of VGG-16 of an ImageNet subset.",
        "Layers of one network are no independent draws: the intervals say how the layers scatter.",
    ))  # fmt: skip


def _claims(found: Cell, given: Given) -> list[Claim]:
    level, claims = given.level, []
    pattern = found["full pattern"]
    claims.append(
        Stated(
            "patterns have a dominant singular value", "Sixt et al. 2020, section 4.1, figure 3a",
            "sigma1 / sigma2 > 6 for almost all layers (read: for 80 %)", MOST, "layers",
        ).by_share(np.where(np.isnan(pattern), np.nan, pattern > RATIO), "share of layers above 6", level)
    )  # fmt: skip
    for part, title in PARTS.items():
        gap = _logs(found[f"{part} product"]) - _logs(found[f"{part} weight"])
        claims.append(
            Stated(
                f"W * A is nearer to rank one than W, {title}", SOURCE,
                "considerably larger than for the plain weights", ABOVE_0, "layers",
            ).by(gap, "log10 of the ratio of W * A minus that of W", level)
        )  # fmt: skip
    taps, between = (_logs(found[f"{part} weight"]) for part in ("center", "between"))
    fall = float(np.nanmean(taps) - np.nanmean(between))
    error = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(_variance(taps) + _variance(between))
    claims.append(
        Stated(
            "the ratios of W shrink between layers", SOURCE, "interestingly, they shrink", ABOVE_0, "pairs"
        ).by_interval(
            Interval(fall, fall - error, fall + error, int((~np.isnan(between)).sum())),
            "mean log10, center taps minus between layers", level,
        )
    )  # fmt: skip
    return claims


def _logs(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10, NaN for rank one and for zeros."""
    return np.log10(np.where(np.isfinite(ratios) & (ratios > 0), ratios, np.nan))


def _variance(values: NDArray[np.float64]) -> float:
    """Of the mean."""
    kept = values[~np.isnan(values)]
    return float(kept.var(ddof=1) / len(kept)) if len(kept) > 1 else math.nan


FIGURE_3 = Reproduction(Ranks(), Ranks(), _cells, _result)
