"""Dombrowski et al. 2019, theorem 1: the change of the map is bounded by curvature, and curvature by beta."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from veridical.geometry import theorem1, walk
from veridical.reproduce.claims import Claim, Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell

SOURCE = "Dombrowski et al. 2019, theorem 1"
TOLERANCE = 1e-3
"""Polygons are shorter than curves, by the square of curvature times step."""


@dataclass(frozen=True)
class Walks:
    """Random networks, walks on their level sets, and the betas."""

    networks: int
    images: int
    steps: int
    betas: tuple[float, ...] = (0.8, 2.0, 10.0, 50.0)
    inputs: int = 12
    width: int = 20
    length: float = 0.5


def network(chosen: Walks, seed: int) -> nn.Module:
    """Three linear layers with ReLU between them, in float64, Gaussian weights of unit gain."""
    generator = torch.Generator().manual_seed(seed)
    widths = (chosen.inputs, chosen.width, chosen.width, 3)
    parts: list[nn.Module] = [nn.Flatten()]
    for place, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        layer = nn.Linear(a, b).double()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(b, a, generator=generator).double() * (2 / a) ** 0.5)
            layer.bias.copy_(torch.randn(b, generator=generator).double() * 0.1)
        parts += [layer] if place == len(widths) - 2 else [layer, nn.ReLU()]
    return nn.Sequential(*parts).eval()


def _cells(given: Given, chosen: Walks) -> Makes:
    def make(number: int, told: Told) -> Cell:
        seed = given.seed * 1000 + number
        model = network(chosen, seed)
        source = torch.Generator().manual_seed(seed)
        x = torch.randn(chosen.images, chosen.inputs // 4, 2, 2, generator=source).double()
        rows = []
        for place, beta in enumerate(chosen.betas):
            rows.append(_chain(model, x, beta, chosen))
            told((place + 1) / len(chosen.betas))
        return cell({"chain": torch.stack(rows)})

    return {f"network {number}": partial(make, number) for number in range(chosen.networks)}


def _chain(model: nn.Module, x: Tensor, beta: float, chosen: Walks) -> Tensor:
    """Change, turning, both bounds, curvature and beta C along one walk: (6, N)."""
    path = walk(model, x, 0, beta=beta, steps=chosen.steps, length=chosen.length)
    found = theorem1(model, path, every=2, factor="paper")
    return torch.stack([
        found.change, found.turning, found.curvature_bound, found.weight_bound,
        found.curvature, found.weight_bound / found.length,
    ])  # fmt: skip


def _result(given: Given, chosen: Walks, cells: Cells) -> Outcome:
    chain = np.concatenate([one["chain"] for one in cells.values()], axis=2)  # (betas, 6, paths)
    figure, panels = sheet(2)
    names = ("change of the unit gradient", "curvature x length", "beta C x length")
    for name, place in zip(names, (0, 2, 3), strict=True):
        low, middle, high = np.nanquantile(chain[:, place], [0.1, 0.5, 0.9], axis=1)
        line = panels[0, 0].plot(chosen.betas, middle, ".-", label=name)[0]
        panels[0, 0].fill_between(chosen.betas, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    panels[0, 0].set(xscale="log", yscale="log", xlabel="beta", title="both sides of the bound")
    panels[0, 0].legend(fontsize=7)
    for place, beta in enumerate(chosen.betas):
        panels[0, 1].plot(chain[place, 2], chain[place, 0], ".", label=f"beta {beta:g}", markersize=4)
    panels[0, 1].axline((1e-2, 1e-2), slope=1, color="k", linewidth=0.8)
    panels[0, 1].set(xscale="log", yscale="log", xlabel="curvature x length", ylabel="change")
    panels[0, 1].legend(fontsize=7)
    for axes in panels[0]:
        axes.grid(alpha=0.3)
    return Outcome(
        claims=tuple(_claims(chain, chosen, given)),
        figure=figure,
        numbers={
            "betas": list(chosen.betas),
            "rows": ["change", "turning", "curvature x length", "beta C x length", "curvature", "beta C"],
            "paths (betas, rows, paths)": chain.tolist(),
        },
        notes=(
            "The curvature is the largest of the path, where the theorem takes that of a whole neighborhood, "
            "which is at least as large.",
            "A path that left its level set is not counted.",
        ),
    )


def _claims(
    chain: np.ndarray[tuple[int, ...], np.dtype[np.float64]], chosen: Walks, given: Given
) -> list[Claim]:
    seen = chain[:, :, ~np.isnan(chain).any(axis=(0, 1))]
    # One value a network: the paths of a network are not independent of each other.
    curved = np.log10(chain[:, 4]).reshape(len(chosen.betas), chosen.networks, chosen.images)
    fall = np.nanmedian(curved[0] - curved[-1], axis=1)
    most = Expected(high=1 + TOLERANCE)
    return [
        Stated(
            "||h(p) - h(p0)|| <= |lambda_max| d", SOURCE, "for all (up to the polygon's 0.1 %)", most, "paths"
        ).by_every((seen[:, 0] / seen[:, 2]).ravel(), "left over right side"),
        Stated("|lambda_max| d <= beta C d", SOURCE, "for all", most, "paths").by_every(
            (seen[:, 2] / seen[:, 3]).ravel(), "left over right side"
        ),
        Stated(
            "a smaller beta reduces the largest curvature", SOURCE + ", and the text below it",
            "reducing beta leads to reduced maximal curvature", Expected(high=0.0, strict=True), "networks",
        ).by(fall, f"log10 |lambda_max|, beta {chosen.betas[0]:g} minus {chosen.betas[-1]:g}", given.level),
    ]  # fmt: skip


THEOREM_1 = Reproduction(Walks(6, 4, 10), Walks(40, 10, 30), _cells, _result)
