"""Dombrowski et al. 2019, supplement figure 20: level sets of a network of two layers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from veridical.geometry import curvature
from veridical.reproduce.claims import Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell
from veridical.smoothing import SmoothedModel

SOURCE = "Dombrowski et al. 2019, supplement, figure 20"
GRID = 161


@dataclass(frozen=True)
class LevelSets:
    """Networks V sp(W x) with entries uniform in (-1, 1), and where their curvature is measured."""

    networks: int
    points: int
    hidden: int = 50
    betas: tuple[float, ...] = (1.0, 5.0, 100.0)


def two_layers(inputs: int = 2, hidden: int = 50, seed: int = 0) -> nn.Module:
    """V relu(W x) in float64, entries uniform in (-1, 1), no biases, for images of `inputs` values."""
    generator = torch.Generator().manual_seed(seed)
    first, second = nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, 1, bias=False)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second).double().eval()
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator).double() * 2 - 1)
    return model


def contours(model: nn.Module, beta: float | None, axes: object) -> None:
    """Fifteen level sets of a network of two inputs on [-1, 1]^2."""
    axis = torch.linspace(-1, 1, GRID).double()
    shown = model if beta is None else SmoothedModel(model, beta)
    with torch.no_grad():
        grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
        values = shown(grid)[:, 0].view(GRID, GRID).T
    axes.contour(axis.numpy(), axis.numpy(), values.numpy(), 15, linewidths=0.8)  # type: ignore[attr-defined]
    axes.set(title="ReLU" if beta is None else f"softplus, beta = {beta:g}", aspect="equal")  # type: ignore[attr-defined]


def _cells(given: Given, chosen: LevelSets) -> Makes:
    def make(told: Told) -> Cell:
        source = torch.Generator().manual_seed(given.seed)
        points = torch.rand(chosen.points, 1, 1, 2, generator=source).double() * 2 - 1
        rows = []
        for number in range(chosen.networks):
            model = two_layers(hidden=chosen.hidden, seed=given.seed * 1000 + number)
            rows.append(torch.stack([_largest(model, points, beta) for beta in chosen.betas]))
            told((number + 1) / chosen.networks)
        return cell({"largest": torch.stack(rows)})

    return {"curvature": make}


def _largest(model: nn.Module, points: Tensor, beta: float) -> Tensor:
    """The largest |curvature| of the level sets through the points."""
    found = curvature(model, points, 0, beta=beta, top=1, steps=1, batch=len(points))
    return found.largest.abs().max()


def _result(given: Given, chosen: LevelSets, cells: Cells) -> Outcome:
    largest = cells["curvature"]["largest"]
    figure, panels = sheet(4, size=(3.3, 3.3))
    model = two_layers(hidden=chosen.hidden, seed=given.seed * 1000)
    for axes, beta in zip(panels[0], (None, 5.0, 1.0), strict=False):
        contours(model, beta, axes)
    panels[0, 3].plot(chosen.betas, largest.T, color="C0", alpha=0.3, linewidth=0.8)
    panels[0, 3].plot(chosen.betas, np.median(largest, axis=0), "k.-")
    panels[0, 3].set(xscale="log", yscale="log", xlabel="beta", title="largest |curvature|")
    panels[0, 3].grid(alpha=0.3)
    logs = np.log10(largest)
    claim = Stated(
        "softplus with beta = 1 reduces the curvature of the level sets",
        SOURCE, "visibly reduces curvature compared to ReLU, beta to infinity",
        Expected(high=0.0, strict=True), "networks",
    ).by(logs[:, 0] - logs[:, -1],
         f"log10 of largest |curvature|, beta 1 minus beta {chosen.betas[-1]:g}", given.level)  # fmt: skip
    return Outcome(
        claims=(claim,),
        figure=figure,
        numbers={"betas": list(chosen.betas), "largest |curvature|, a row a network": largest.tolist()},
        notes=(
            "ReLU itself has no curvature at almost every point and kinks at the others; "
            f"beta = {chosen.betas[-1]:g} stands for it.",
        ),
    )


FIGURE_20 = Reproduction(LevelSets(12, 400), LevelSets(100, 2000), _cells, _result)
