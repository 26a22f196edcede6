"""Sixt et al. 2020, figure 1 (b to e): the maps of two classes of the same image."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from veridical.attributions import method
from veridical.faithfulness import class_difference
from veridical.reproduce.claims import ABOVE_0, Expected, Stated
from veridical.reproduce.drawing import boxes, sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell, joined

SOURCE = "Sixt et al. 2020, figure 1 (b to e)"
PRINTED = 0.000371
LARGEST = 0.001


@dataclass(frozen=True)
class TwoClasses:
    """The method of the figure, and one that depends on the class."""

    method: str = "lrp-alpha1-beta0"
    reference: str = "gradient"
    side: int = 56


def _cells(given: Given, chosen: TwoClasses) -> Makes:
    def make(index: int, told: Told) -> Cell:
        subject = given.subject
        x = subject.inputs[index : index + 1]
        with torch.no_grad():
            first, second = subject.model(x).topk(2, dim=1).indices.unbind(1)
        arrays = {"classes": torch.stack([first, second], 1)}
        for name in (chosen.method, chosen.reference):
            found = class_difference(subject.model, x, method(name), first, second)
            arrays |= {f"{name} absolute": found.mean_absolute, f"{name} relative": found.relative}
            maps = torch.cat([found.first, found.second, found.difference]).sum(1)
            side = min(chosen.side, *maps.shape[1:])
            arrays[f"{name} maps"] = nn.functional.adaptive_avg_pool2d(maps, side).float()
        return cell(arrays)

    return {f"image {index}": partial(make, index) for index in range(len(given.subject))}


def _result(given: Given, chosen: TwoClasses, cells: Cells) -> Outcome:
    names = (chosen.method, chosen.reference)
    absolute, relative = (
        {name: joined(cells, f"{name} {kind}") for name in names} for kind in ("absolute", "relative")
    )
    level = given.level
    claims = (
        Stated(
            f"{chosen.method} is insensitive to the class", SOURCE,
            f"L1 norm of the difference {PRINTED} (read: of that order, below {LARGEST:g})",
            Expected(high=LARGEST, strict=True),
        ).by(absolute[chosen.method], "mean absolute difference of the normalized maps", level),
        Stated(
            f"the maps of {chosen.reference} depend more on the class than those of {chosen.method}",
            "Sixt et al. 2020, section 5", "the rest of the field is sensitive", ABOVE_0,
        ).by(relative[chosen.reference] - relative[chosen.method],
             "difference relative to the maps, of both methods", level),
    )  # fmt: skip
    first = next(iter(cells.values()))
    figure, panels = sheet(4, 2, size=(2.8, 2.6))
    for row, name in enumerate(names):
        maps = first[f"{name} maps"]
        bound = max(float(np.quantile(np.abs(maps[:2]), 0.99)), 1e-12)
        for axes, one, title in zip(
            panels[row], maps, ("first class", "second class", "difference"), strict=False
        ):
            axes.imshow(one, cmap="seismic", vmin=-bound, vmax=bound)
            axes.set(title=f"{name}: {title}", xticks=[], yticks=[])
            axes.title.set_fontsize(7)
    boxes(panels[0, 3], absolute)
    panels[0, 3].set(title="mean absolute difference", yscale="log")
    boxes(panels[1, 3], relative)
    panels[1, 3].set(title="relative to the maps")
    numbers = {f"{name}: mean absolute difference": values.tolist() for name, values in absolute.items()}
    numbers |= {f"{name}: relative": values.tolist() for name, values in relative.items()}
    numbers["classes"] = joined(cells, "classes").astype(int).tolist()
    return Outcome(claims, figure, numbers, (
        "The two most probable classes of each image; the paper took a cat and a dog in one image.",
        "The mean over all values, channels included, as the paper's code has it, is small wherever "
        "relevance is sparse; the second claim takes it relative to the maps.",
    ))  # fmt: skip


FIGURE_1 = Reproduction(TwoClasses(), TwoClasses(), _cells, _result)
