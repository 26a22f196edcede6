"""Dombrowski et al. 2019, figure 6 and supplement figure 2: the gradient map as beta falls."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from veridical.attributions import method, saliency
from veridical.metrics import pearson
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import band, sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell
from veridical.smoothing import beta_smooth

WELL = 0.95
OTHERS = ("lrp-zplus", "guided-backprop")


@dataclass(frozen=True)
class Softer:
    """From almost ReLU to very smooth."""

    betas: tuple[float, ...]


def _cells(given: Given, chosen: Softer) -> Makes:
    def make(index: int, told: Told) -> Cell:
        subject = given.subject
        x = subject.inputs[index : index + 1]
        plain = method("gradient")
        with torch.no_grad():
            target = subject.model(x).argmax(1)
        others = [saliency(method(name)(subject.model, x, target)) for name in OTHERS]
        maps = [saliency(plain(subject.model, x, target))]
        for place, beta in enumerate(chosen.betas):
            maps.append(saliency(beta_smooth(plain, beta)(subject.model, x, target)))
            told((place + 1) / len(chosen.betas))
        stack = torch.cat(maps).detach()
        to_plain = pearson(stack, stack[:1].expand_as(stack))
        to_others = [pearson(stack, other.detach().expand_as(stack)) for other in others]
        return cell({"plain": to_plain, "others": torch.stack(to_others), "maps": stack.float()})

    return {f"image {index}": partial(make, index) for index in range(len(given.subject))}


def _result(given: Given, chosen: Softer, cells: Cells) -> Outcome:
    plain = np.stack([one["plain"] for one in cells.values()], axis=1)  # (1 + betas, images)
    others = np.stack([one["others"] for one in cells.values()], axis=2)  # (methods, 1 + betas, images)
    first = next(iter(cells.values()))["maps"]
    figure, panels = sheet(len(first) + 1, size=(2.4, 2.6))
    band(panels[0, 0], chosen.betas, plain[1:], "gradient, ReLU")
    for name, rows in zip(OTHERS, others, strict=True):
        band(panels[0, 0], chosen.betas, rows[1:], name)
    panels[0, 0].set(xscale="log", xlabel="beta", title="correlation with", ylim=(-0.1, 1.02))
    panels[0, 0].legend(fontsize=6)
    for axes, one, beta in zip(panels[0, 1:], first, (None, *chosen.betas), strict=True):
        axes.imshow(one, cmap="magma", vmax=np.quantile(one, 0.995))
        axes.set(title="ReLU" if beta is None else f"beta {beta:g}", xticks=[], yticks=[])
    return Outcome(
        claims=tuple(_claims(plain, others, chosen, given)),
        figure=figure,
        numbers={
            "betas": list(chosen.betas),
            "correlation with the plain map, ReLU first": plain.tolist(),
            **{f"correlation with {name}": rows.tolist() for name, rows in zip(OTHERS, others, strict=True)},
        },
        notes=(
            "Correlations of maps that sum the channels' absolute values; the supplement's figure 2 has MSE "
            "and SSIM as well.",
        ),
    )


def _claims(plain: np.ndarray, others: np.ndarray, chosen: Softer, given: Given) -> list[Claim]:
    supplement, level = "Dombrowski et al. 2019, supplement A.1, figure 2", given.level
    largest, least = f"beta {chosen.betas[0]:g}", f"beta {chosen.betas[-1]:g}"
    claims = [
        Stated(
            f"for large beta ({chosen.betas[0]:g}) softplus gives the map of ReLU",
            supplement, f"approximate well (read: correlation of {WELL:g})", Expected(low=WELL),
        ).by(plain[1], f"correlation of the maps, {largest}", level),
        Stated(
            "the map leaves that of ReLU as beta falls", supplement, "a falling curve", ABOVE_0,
        ).by(plain[1] - plain[-1], f"correlation at {largest} minus {least}", level),
    ]  # fmt: skip
    claims += [
        Stated(
            f"for small beta gradient maps become similar to those of {name}",
            "Dombrowski et al. 2019, section 4, figure 6", "tend to become similar", ABOVE_0,
        ).by(rows[-1] - rows[0], f"correlation with {name}, {least} minus ReLU", level)
        for name, rows in zip(OTHERS, others, strict=True)
    ]  # fmt: skip
    return claims


FIGURE_6 = Reproduction(
    Softer((1000.0, 100.0, 10.0, 3.0, 1.0)),
    Softer((1000.0, 300.0, 100.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.0)),
    _cells,
    _result,
)
