"""Sixt et al. 2020, figure 7 and theorem 1: products of matrices, random and chosen."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veridical.faithfulness import cone_convergence, simulate_chains
from veridical.faithfulness.chains import VARIANTS, VGG16_WIDTHS
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell

CONVERGED = 0.99
"""What section 5 of the paper calls convergence of cosines."""
DOUBLE = 2.0**-52
NON_NEGATIVE = ("stochastic", "positive", "non-negative")
FLOOR = 1e-33
APPENDIX = "Sixt et al. 2020, appendix B, figure 7"


# --- figure 7 -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simulation:
    """Chains of the widths of VGG-16, alpha W+ + (alpha - 1) W- among them."""

    repetitions: int
    alphas: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 10.0)
    widths: tuple[int, ...] = VGG16_WIDTHS


def _chain_cells(given: Given, chosen: Simulation) -> Makes:
    def make(number: int, told: Told) -> Cell:
        found = simulate_chains(
            widths=chosen.widths, alphas=chosen.alphas, repetitions=1, seed=10_000 * given.seed + number
        )
        return cell({"coded": found.coded[:, 0], "worded": found.worded[:, 0]})

    return {f"repetition {number}": partial(make, number) for number in range(chosen.repetitions)}


def _chain_result(given: Given, chosen: Simulation, cells: Cells) -> Outcome:
    names = (*VARIANTS, *(f"alpha {alpha:g} beta {alpha - 1:g}" for alpha in chosen.alphas))
    worded, coded = (np.stack([one[key] for one in cells.values()]) for key in ("worded", "coded"))
    values = {name: worded[:, place] for place, name in enumerate(names)}
    figure, panels = sheet(2)
    for name, rows in values.items():
        axes = panels[0, 1] if name.startswith("alpha") else panels[0, 0]
        clipped = np.clip(rows, FLOOR, None)
        line = axes.plot(np.nanmedian(clipped, axis=0), label=name)[0]
        steps = range(rows.shape[1])
        axes.fill_between(
            steps, clipped.min(0), clipped.max(0), alpha=0.15, color=line.get_color(), linewidth=0
        )
    for axes, title in zip(panels[0], ("random matrices", "alpha W+ + beta W-"), strict=True):
        axes.set(title=title, yscale="log", xlabel="products", ylabel="1 - median |cosine|")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return Outcome(
        claims=tuple(_chain_claims(values, chosen, given)),
        figure=figure,
        numbers={
            name: {"1 - median": worded[:, place].tolist(), "1 - mean, as coded": coded[:, place].tolist()}
            for place, name in enumerate(names)
        },
        notes=(
            "The median over pairs of different rows, as the paper words it; the authors' code averages over "
            "pairs with the diagonal, which is in the numbers as well.",
            "ReLU learned and the pattern chain belong to trained weights: see sixt2020-figure-3.",
        ),
    )


def _chain_claims(values: dict[str, NDArray[np.float64]], chosen: Simulation, given: Given) -> list[Claim]:
    level, unit, last = given.level, "repetitions", len(chosen.widths) - 2
    claims = []
    for name in NON_NEGATIVE:
        claims.append(
            Stated(
                f"{name} matrices have converged to a single vector after 7 products",
                APPENDIX, "up to floating point imprecision (of doubles: 2.2e-16)", Expected(high=DOUBLE),
                unit,
            ).by(values[name][:, min(7, last)], "1 - median |cosine| after 7", level)
        )  # fmt: skip
        claims.append(
            Stated(
                f"{name} matrices decay exponentially",
                APPENDIX, "a linear path on the log plot (read: straighter than on a log-log plot)", ABOVE_0,
                unit,
            ).by([_straightness(row) for row in values[name]], "residual by log n minus by n", level)
        )  # fmt: skip
    slopes = [
        _slope(half) / _slope(whole)
        for half, whole in zip(values["non-negative"], values["positive"], strict=True)
    ]
    claims.append(
        Stated(
            "50 % zeros give only a bit lower slope", APPENDIX,
            "only a bit lower (read: half of it or more, below 1)", Expected(0.5, 1.0, strict=True), unit,
        ).by(slopes, "slope of non-negative over positive", level)
    )  # fmt: skip
    for alpha in chosen.alphas:
        beta = alpha - 1
        near = beta < 4
        claims.append(
            Stated(
                f"alpha {alpha:g}, beta {beta:g}: the chain {'converges' if near else 'does not converge'}",
                APPENDIX, "for small enough beta < 4 the chains still converge (0.99)",
                Expected(high=1 - CONVERGED) if near else Expected(low=1 - CONVERGED, strict=True), unit,
            ).by(values[f"alpha {alpha:g} beta {beta:g}"][:, last], "1 - median |cosine| before the image",
                 level)
        )  # fmt: skip
    return claims


def _range(row: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of products from 1 on, and log10 of what is left, above the rounding of doubles."""
    kept = row[1:] > 1e-30
    return np.arange(1, len(row))[kept].astype(np.float64), np.log10(row[1:][kept])


def _slope(row: NDArray[np.float64]) -> float:
    steps, logs = _range(row)
    return float(np.polyfit(steps, logs, 1)[0]) if len(steps) > 1 else np.nan


def _straightness(row: NDArray[np.float64]) -> float:
    """How much better a straight line fits the logarithm over n than over log n: squared residuals."""
    steps, logs = _range(row)
    if len(steps) < 3:
        return float("nan")
    left = [
        float(np.square(np.polyval(np.polyfit(x, logs, 1), x) - logs).sum()) for x in (steps, np.log(steps))
    ]
    return left[1] - left[0]


FIGURE_7 = Reproduction(Simulation(6), Simulation(20), _chain_cells, _chain_result)


# --- theorem 1 ----------------------------------------------------------------------------------------------

CHOSEN: dict[str, list[list[float]]] = {
    "[[1, 0], [1, 1]]": [[1, 0], [1, 1]],
    "[[2, 0, 0], [0, 2, 0], [1, 1, 1]]": [[2, 0, 0], [0, 2, 0], [1, 1, 1]],
}
"""Both meet every condition of the theorem."""


@dataclass(frozen=True)
class Products:
    """Random non-negative chains, and the chosen ones."""

    chains: int
    length: int = 40
    excluded: int = 1000
    sizes: tuple[int, ...] = (2, 3, 5, 8, 16)


def _product_cells(given: Given, chosen: Products) -> Makes:
    def make(told: Told) -> Cell:
        source = torch.Generator().manual_seed(given.seed)
        found = [_measured(_random_chain(source, chosen, number)) for number in range(chosen.chains)]
        cases = [_measured([torch.tensor(rows, dtype=torch.float64)] * chosen.length)
                 for rows in CHOSEN.values()]  # fmt: skip
        excluded = [
            torch.tensor([[1, 0], [1 / n, 1]], dtype=torch.float64) for n in range(1, chosen.excluded + 1)
        ]
        slow = cone_convergence(excluded).measured
        return cell({"random": torch.stack(found), "chosen": torch.stack(cases), "excluded": slow})

    return {"products": make}


def _random_chain(source: torch.Generator, chosen: Products, number: int) -> list[Tensor]:
    """Square matrices, uniform on [0.1, 1], every other with zeros that leave pairs a common row."""
    size = chosen.sizes[number % len(chosen.sizes)]
    chain = []
    for _ in range(chosen.length):
        matrix = 0.1 + 0.9 * torch.rand(size, size, generator=source, dtype=torch.float64)
        if number % 2:
            matrix[1:] *= (torch.rand(size - 1, size, generator=source) > 0.3).double()
        chain.append(matrix)
    return chain


def _measured(chain: list[Tensor]) -> Tensor:
    """1 - s_n, and the bound that the paper states: (2, n + 1)."""
    found = cone_convergence(chain)
    return torch.stack([found.measured, found.stated])


def _product_result(given: Given, chosen: Products, cells: Cells) -> Outcome:
    found = cells["products"]
    random, cases, excluded = found["random"], found["chosen"], found["excluded"]
    every = np.concatenate([random, cases])
    figure, panels = sheet(2 + len(CHOSEN), size=(4.0, 3.4))
    for row in random[: 2 * len(chosen.sizes)]:
        panels[0, 0].plot(np.clip(row[0], FLOOR, None), color="C0", alpha=0.6)
        panels[0, 0].plot(np.clip(row[1], FLOOR, None), color="C1", alpha=0.6, linestyle="--")
    for axes, (name, row) in zip(panels[0, 1:], zip(CHOSEN, cases, strict=True), strict=False):
        axes.plot(np.clip(row[0], FLOOR, None), label="measured")
        axes.plot(np.clip(row[1], FLOOR, None), "--", label="the paper's bound")
        axes.set_title(name, fontsize=8)
    panels[0, -1].plot(excluded)
    panels[0, 0].set_title("random chains", fontsize=8)
    panels[0, -1].set_title("[[1, 0], [1/n, 1]], excluded", fontsize=8)
    panels[0, -1].set_xscale("symlog")
    for axes in panels[0]:
        axes.set(yscale="log", xlabel="matrices", ylabel="1 - s")
        axes.grid(alpha=0.3)
    panels[0, 1].legend(fontsize=7)
    return Outcome(
        claims=tuple(_product_claims(random, every, excluded, given)),
        figure=figure,
        numbers={
            "random chains: 1 - s at the end": random[:, 0, -1].tolist(),
            "random chains: the stated bound at the end": random[:, 1, -1].tolist(),
            **{f"{name}: 1 - s": row[0].tolist() for name, row in zip(CHOSEN, cases, strict=True)},
            **{f"{name}: the stated bound": row[1].tolist() for name, row in zip(CHOSEN, cases, strict=True)},
            f"[[1, 0], [1/n, 1]]: 1 - s after {chosen.excluded}": float(excluded[-1]),
        },
        notes=("Why the bound fails, and one that is proven: docs/convergence.md, theorem 1.",),
    )


def _product_claims(random: Any, every: Any, excluded: Any, given: Given) -> list[Claim]:
    proof, speed = "Sixt et al. 2020, appendix A", "Sixt et al. 2020, appendix B, equation 36"
    last, tenth = len(excluded) - 1, (len(excluded) - 1) // 10
    rises = [float(np.diff(row[0]).max()) for row in every]
    above = [float((row[0] - row[1]).max()) for row in every]
    typical = [float((row[0] - row[1]).max() <= 1e-12) for row in random]
    unit = "chains"
    return [
        Stated(
            "the smallest cosine of the columns of the product never decreases", proof,
            "s_n is monotonically increasing", Expected(high=1e-12), unit,
        ).by_every(rises, "largest rise of 1 - s in a step"),
        Stated(
            "the product tends to rank one wherever the conditions hold", "Sixt et al. 2020, theorem 1",
            "in the limit (read: 0.99 at the end)", Expected(high=1 - CONVERGED), unit,
        ).by_every([float(row[0, -1]) for row in every], "1 - s at the end, random and chosen chains"),
        Stated(
            "products of typical random matrices become rank one", proof + "; appendix B",
            "up to floating point imprecision in a few steps", Expected(high=DOUBLE), unit,
        ).by([float(row[0, -1]) for row in random], "1 - s at the end, random chains", given.level,
             seed=given.seed),
        Stated(
            "s_n >= 1 - (1 - lambda)^n (1 - s_0) for typical matrices", speed,
            "proven for all (read: for more than half)", Expected(low=0.5, strict=True), unit,
        ).by_share(typical, "share of random chains within the bound", given.level),
        Stated(
            "s_n >= 1 - (1 - lambda)^n (1 - s_0) wherever the conditions hold", speed, "proven for all",
            Expected(high=1e-12), unit,
        ).by_every(above, "largest excess of 1 - s over its bound, random and chosen chains"),
        Stated(
            "[[1, 0], [1/n, 1]] does not converge and had to be excluded", proof + ", update",
            "now excluded as an edge case (read: 1 - s does not go on falling)", Expected(low=0.0), unit,
        ).by_every([float(excluded[-1] - excluded[tenth])], f"1 - s after {last} minus after {tenth}"),
    ]  # fmt: skip


THEOREM_1 = Reproduction(Products(60), Products(600), _product_cells, _product_result)
