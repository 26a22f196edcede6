"""Sixt et al. 2020, figures 5 and 6: do random vectors become one direction on their way to the image?"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from veridical.faithfulness import cascading_randomization, cosine_convergence
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import band, sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell
from veridical.reproduce.sanity import CLOSE, CONVERGING, OTHERS, explainer

CSC = "Sixt et al. 2020, section 5, figure 5"
CMP = "Sixt et al. 2020, section 5, figure 6"
CONVERGED = 0.99
FLOOR = 1e-8
"""As in the paper's figures."""
LEAST = 1e-33
FAST, SLOW = ("lrp-alpha1-beta0", "deeplift-ablation"), "lrp-alpha2-beta1"


@dataclass(frozen=True)
class Cosines:
    """The methods: those that converge in the paper, and the others."""

    converging: tuple[str, ...]
    others: tuple[str, ...]


def _curves(given: Given, name: str, told: Told) -> dict[str, Any]:
    """1 - median |cosine| of each layer, the logits first: (layers, images); and the names of the layers."""
    subject, rows = given.subject, []
    layers: tuple[str, ...] = ()
    for index in range(len(subject)):
        found = cosine_convergence(
            subject.model, subject.inputs[index : index + 1], explainer(name), first_index=index,
            seed=given.seed,
        )  # fmt: skip
        rows.append(found.one_minus_median)
        layers = found.layers
        told((index + 1) / len(subject))
    return {"curves": torch.from_numpy(np.stack(rows, axis=1)), "layers": list(layers)}


def _cells(given: Given, chosen: Cosines) -> Makes:
    def make(name: str, told: Told) -> Cell:
        found = _curves(given, name, told)
        return cell({"curves": found["curves"]}, layers=found["layers"])

    return {name: partial(make, name) for name in (*chosen.others, *chosen.converging)}


def first_convolution(one: Cell) -> NDArray[np.float64]:
    """1 - median |cosine| at the layer nearest to the image, (N,)."""
    return np.asarray(one["curves"][-2], dtype=np.float64)


def _decades(one: Cell) -> NDArray[np.float64]:
    """log10 of 1 - median |cosine| at the first convolution, (N,); no less than squares of rounding."""
    return np.log10(np.clip(first_convolution(one), LEAST, None))


def draw_cosines(panels: Any, cells: Cells, dashed: tuple[str, ...]) -> None:
    """The median over the layers, as it is and as its distance from 1."""
    for name, one in cells.items():
        steps = list(range(len(one["curves"])))
        style = {"linestyle": "--" if name in dashed else "-"}
        band(panels[0], steps, 1 - one["curves"], name, **style)
        band(panels[1], steps, np.clip(one["curves"], FLOOR, None), name, **style)
    panels[0].set(ylabel="median |cosine|", ylim=(0, 1.02))
    panels[1].set(ylabel="1 - median |cosine|", yscale="log")
    for axes in panels[:2]:
        axes.set(xlabel="layers, from the logits to the image")
        axes.grid(alpha=0.3)
    panels[1].legend(fontsize=6)


def _converges(name: str, cells: Cells, given: Given, source: str) -> Claim:
    return Stated(
        f"{name} converges", source, "at least 0.99 cosine similarity", Expected(high=1 - CONVERGED)
    ).by(first_convolution(cells[name]), "1 - median |cosine| at the first convolution", given.level)


def _result(given: Given, chosen: Cosines, cells: Cells) -> Outcome:
    figure, panels = sheet(2, size=(6.0, 4.2))
    draw_cosines(panels[0], cells, chosen.others)
    claims = [_converges(name, cells, given, CSC) for name in chosen.converging]
    claims += [
        Stated(
            f"{name} does not converge", CSC, "all methods but LRP-z and DeepLIFT reach 0.99",
            Expected(low=1 - CONVERGED, strict=True),
        ).by(first_convolution(cells[name]), "1 - median |cosine| at the first convolution", given.level)
        for name in chosen.others
    ]  # fmt: skip
    claims += [
        Stated(f"{name} converges faster than {SLOW}", CSC, "fastest", ABOVE_0).by(
            _decades(cells[SLOW]) - _decades(cells[name]),
            "decades nearer to 1 at the first convolution", given.level,
        )
        for name in FAST if name in cells and SLOW in cells
    ]  # fmt: skip
    return Outcome(tuple(claims), figure, _numbers(cells), (
        "Vectors start at the logits; one value an image, the median over pairs and locations.",
        "The last of the layers is the image, whose 3 channels make any vectors alike; claims are about the "
        "layer before it.",
    ))  # fmt: skip


def _numbers(cells: Cells) -> dict[str, Any]:
    return {
        f"{name}: 1 - median |cosine| (layers, images)": {
            "layers": one.words["layers"], "values": one["curves"].tolist(),
        }
        for name, one in cells.items()
    }  # fmt: skip


FIGURE_5 = Reproduction(
    Cosines(
        ("guided-backprop", "deep-taylor", "lrp-alpha1-beta0", "lrp-alpha2-beta1", "deeplift-ablation"),
        ("gradient", "lrp-z", "deeplift-rescale"),
    ),
    Cosines(CONVERGING, tuple(name for name in OTHERS if name != "smoothgrad")),
    _cells,
    _result,
)

# --- figure 6: LRP-CMP --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composite:
    """LRP-z in dense layers, alpha-beta in convolutions; steps of the randomization."""

    steps: int
    methods: tuple[str, ...] = ("lrp-cmp-alpha1", "lrp-cmp-alpha2")


def _composite_cells(given: Given, chosen: Composite) -> Makes:
    def make(name: str, told: Told) -> Cell:
        subject = given.subject
        found = _curves(given, name, lambda share: told(share / 2))
        layers = cascading_randomization(
            subject.model, subject.inputs, explainer(name), steps=chosen.steps, seed=given.seed, batch=1
        )
        arrays = {"curves": found["curves"], "similarity": layers.similarity}
        return cell(arrays, layers=found["layers"], steps=list(layers.layers))

    return {name: partial(make, name) for name in chosen.methods}


def _composite_result(given: Given, chosen: Composite, cells: Cells) -> Outcome:
    figure, panels = sheet(3, size=(5.2, 4.0))
    draw_cosines(panels[0], cells, ())
    for name, one in cells.items():
        band(panels[0, 2], list(range(len(one["similarity"]))), one["similarity"], name)
    steps = next(iter(cells.values())).words["steps"]
    panels[0, 2].set_xticks(range(len(steps)), steps, rotation=30, fontsize=7)
    panels[0, 2].set(ylabel="SSIM", title="randomized from the last layer to")
    claims = []
    for name, one in cells.items():
        claims += [
            _converges(name, cells, given, CMP),
            Stated(
                f"{name} has not converged behind the dense layers", CMP,
                "no convergence in dense layers, as LRP-z is used there",
                Expected(low=1 - CONVERGED, strict=True),
            ).by(one["curves"][1], "1 - median |cosine| at the layer after the start", given.level),
            Stated(
                f"{name}: the map changes when parameters are randomized", CMP,
                f"VGG-16: the saliency maps change (read: SSIM below {CLOSE})",
                Expected(high=CLOSE, strict=True),
            ).by(one["similarity"][0], "SSIM after the last layer", given.level),
        ]  # fmt: skip
    numbers = _numbers(cells)
    numbers |= {f"{name}: SSIM (steps, images)": one["similarity"].tolist() for name, one in cells.items()}
    return Outcome(tuple(claims), figure, numbers, (
        "The paper's claims are about VGG-16 with three dense layers; on ResNet-50 with one it finds global "
        "convergence.",
    ))  # fmt: skip


FIGURE_6 = Reproduction(Composite(3), Composite(8), _composite_cells, _composite_result)
