"""Dombrowski et al. 2019, theorem 2: softplus is SmoothGrad with infinitely many samples, for one layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from veridical.geometry import gate_deviation, gate_probability, smoothgrad_limit
from veridical.geometry.limits import Noise
from veridical.reproduce.claims import Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell

SOURCE = "Dombrowski et al. 2019, theorem 2"
EXACT = 1e-6
CLOSE = 0.05
SAME = 0.005
"""Half of what the noise of the proof deviates by in two dimensions."""
NOISES: Mapping[str, Noise] = {"logistic in 20 coordinates": "coordinates", "normal": "gaussian"}


@dataclass(frozen=True)
class Limit:
    """Random units w, points x and betas, and the noisy copies of each."""

    units: int
    samples: int
    dimensions: tuple[int, ...] = (2, 3, 5, 20, 100)


def _cells(given: Given, chosen: Limit) -> Makes:
    def make(told: Told) -> Cell:
        source = torch.Generator().manual_seed(given.seed)
        rows: list[torch.Tensor] = []
        for number in range(chosen.units):
            size = chosen.dimensions[number % len(chosen.dimensions)]
            weight, point = torch.randn(2, size, generator=source, dtype=torch.float64)
            beta = float(10 ** (2 * torch.rand((), generator=source) - 1))
            point = point / (beta * point.norm()) * 2
            found = smoothgrad_limit(weight, point, beta, samples=chosen.samples, seed=given.seed + number)
            largest = int(weight.abs().argmax())
            gap = (found.mean - found.smoothed)[largest] / weight[largest]
            rows.append(torch.tensor([float(gap), gate_deviation(weight, "coordinates")]))
            told((number + 1) / chosen.units)
        gaussian = gate_deviation(torch.ones(1), "gaussian")  # the same for every w
        return cell({"rows": torch.stack(rows).double(), "gaussian": torch.tensor([gaussian])})

    return {"units": make}


def _result(given: Given, chosen: Limit, cells: Cells) -> Outcome:
    (gap, coordinates), gaussian = cells["units"]["rows"].T, cells["units"]["gaussian"]
    claims = (
        Stated(
            "E grad relu(w (x - e)) = grad softplus with beta / ||w||, noise along w", SOURCE,
            f"equal (read: the mean difference of the gates lies within {SAME:g})", Expected(-SAME, SAME),
            "units",
        ).by(gap, f"difference of the gates, {chosen.samples} copies", given.level, "mean", given.seed),
        Stated(
            "the same with noise that is logistic in every coordinate, as in the proof",
            "Dombrowski et al. 2019, supplement E.2", "equal", Expected(high=EXACT), "units",
        ).by_every(coordinates, "largest difference of the gates"),
        Stated(
            "p_beta closely resembles a normal distribution with sigma = log(2) sqrt(2 pi) / beta",
            "Dombrowski et al. 2019, section 4", f"closely (read: within {CLOSE:g} everywhere)",
            Expected(high=CLOSE), "distributions",
        ).by_every(gaussian, "largest difference of the distribution functions"),
    )  # fmt: skip
    return Outcome(
        claims=claims,
        figure=_drawn(),
        numbers={
            "difference of the gates": gap.tolist(),
            "deviation, logistic coordinates": coordinates.tolist(),
            "deviation, normal": gaussian.tolist(),
            "dimensions": [chosen.dimensions[i % len(chosen.dimensions)] for i in range(chosen.units)],
        },
        notes=(
            "The proof draws each coordinate from the logistic distribution and takes the part along w to be "
            "logistic too, which it is only where w lies along an axis.",
            "The paper calls sigma a variance; it is a standard deviation.",
        ),
    )


def _drawn() -> Figure:
    """The share of noisy copies for which a unit is on, and its distance from the sigmoid."""
    figure, panels = sheet(2)
    margins = torch.linspace(-8, 8, 161, dtype=torch.float64)
    sigmoid, equal = torch.sigmoid(margins), torch.ones(20, dtype=torch.float64)
    panels[0, 0].plot(margins, sigmoid, "k", label="softplus: sigmoid")
    for label, kind in NOISES.items():
        values = gate_probability(equal, margins, 1.0, kind)
        panels[0, 0].plot(margins, values, "--", label=label)
        panels[0, 1].plot(margins, values - sigmoid, "--", label=label)
    for axes, title in zip(panels[0], ("share of copies that are on", "minus the sigmoid"), strict=True):
        axes.set(xlabel="beta w x / ||w||", title=title)
        axes.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=7)
    return figure


THEOREM_2 = Reproduction(Limit(60, 4000), Limit(600, 40_000), _cells, _result)
