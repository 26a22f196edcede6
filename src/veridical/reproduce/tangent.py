"""Bordt et al. 2023: random directions, maps in the tangent space, and the user study's counts."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from veridical.auditing.alignment import measure_alignment
from veridical.auditing.tangent import put_on_manifold
from veridical.checks import check_choice
from veridical.manifold import RandomFraction
from veridical.manifold.alignment import several_by_k
from veridical.metrics import share_interval
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated
from veridical.reproduce.drawing import boxes, sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell

# --- section 3.3: random directions -------------------------------------------------------------------------

SPACES = {"MNIST32": (10, 1024), "CIFAR10": (144, 3072), "MNIST256": (10, 65536)}
"""k and d."""
NEAR = 0.05
TOGETHER = 50


@dataclass(frozen=True)
class Directions:
    """So many random directions in each data set's space."""

    samples: int


def _random_cells(given: Given, chosen: Directions) -> Makes:
    def make(name: str, told: Told) -> Cell:
        k, d = SPACES[name]
        source = torch.Generator().manual_seed(given.seed)
        # Of an isotropic direction every subspace of k dimensions is as good as the first k axes.
        side = int(round((d / 3) ** 0.5)) if d % 3 == 0 else int(round(d**0.5))
        basis = torch.eye(k, d).view(1, k, d // side**2, side, side)
        found = []
        for begin in range(0, chosen.samples, TOGETHER):
            count = min(TOGETHER, chosen.samples - begin)
            drawn = torch.randn(count, 1, d // side**2, side, side, generator=source)
            found.append(several_by_k(list(drawn), basis)[:, 0, -1])
            told((begin + count) / chosen.samples)
        return cell({"fractions": torch.cat(found).double()})

    return {name: partial(make, name) for name in SPACES}


def _random_result(given: Given, chosen: Directions, cells: Cells) -> Outcome:
    claims = []
    for name, (k, d) in SPACES.items():
        ratio = cells[name]["fractions"] / np.sqrt(k / d)
        claims.append(
            Stated(
                f"{name}: a random direction has the fraction sqrt(k / d) = {np.sqrt(k / d):.4f}",
                "Bordt et al. 2023, section 3.3", "about equal (read: within 5 %)",
                Expected(1 - NEAR, 1 + NEAR), "directions",
            ).by(ratio, "mean fraction over sqrt(k / d)", given.level, "mean", given.seed)
        )  # fmt: skip
    figure, panels = sheet(len(SPACES), size=(3.6, 3.2))
    for axes, (name, (k, d)) in zip(panels[0], SPACES.items(), strict=True):
        axes.hist(cells[name]["fractions"], 40, density=True, alpha=0.6)
        axes.axvline(np.sqrt(k / d), color="k", linestyle="--", label="sqrt(k / d)")
        axes.axvline(RandomFraction(k, d).mean, color="C3", label="exact mean")
        axes.set(title=f"{name}: k = {k}, d = {d}", xlabel="fraction")
    panels[0, 0].legend(fontsize=7)
    numbers = {
        name: {
            "mean": float(cells[name]["fractions"].mean()),
            "exact mean": RandomFraction(k, d).mean,
            "sqrt(k / d)": float(np.sqrt(k / d)),
        }
        for name, (k, d) in SPACES.items()
    }
    return Outcome(tuple(claims), figure, numbers, ("The exact mean is a little below sqrt(k / d).",))


BASELINE = Reproduction(Directions(500), Directions(20_000), _random_cells, _random_result)

# --- figure 3: maps -----------------------------------------------------------------------------------------

IMPROVED = ("smoothgrad", "integrated-gradients", "gradient-x-input")


@dataclass(frozen=True)
class Maps:
    """The settings of the methods are the paper's for MNIST32; all images that are given count."""

    batch: int = 64


def _map_cells(given: Given, chosen: Maps) -> Makes:
    def make(told: Told) -> Cell:
        subject = given.subject
        on = put_on_manifold(given.surface.manifold, subject.model, subject.inputs, subject.bounds)

        def progress(done: int, total: int) -> None:
            told(done / total)

        found = measure_alignment(
            subject.model,
            on.points,
            on.basis,
            batch=chosen.batch,
            level=given.level,
            seed=given.seed,
            progress=progress,
        )
        facts = {"methods": list(found.methods), **on.facts()}
        return cell({"fractions": found.fractions, "random": on.random(), "errors": on.errors}, **facts)

    return {"alignment": make}


def _map_result(given: Given, chosen: Maps, cells: Cells) -> Outcome:
    found = cells["alignment"]
    names, facts = found.words["methods"], dict(found.words)
    rows = {name: found["fractions"][place] for place, name in enumerate(names)}
    claims = _map_claims(rows, found["random"], given)
    figure, panels = sheet(size=(6.5, 4.0))
    boxes(panels[0, 0], rows)
    panels[0, 0].axhline(float(found["random"].mean()), color="gray", linestyle="--", label="random")
    panels[0, 0].set(ylabel="fraction in the tangent space", title=facts["source"].split(",")[0])
    panels[0, 0].legend(fontsize=7)
    notes = [
        "Images are encoded and decoded, and explained there: the reconstructive approach of section 3.2. "
        f"Median reconstruction error {facts['reconstruction_error']:.2f} of the contrast; the class stays "
        f"for {facts['class_kept']:.0%}."
    ]
    if facts["bad_manifold"]:
        notes.append("The manifold is a bad model of these images: the fractions say little about them.")
    numbers: dict[str, Any] = {name: row.tolist() for name, row in rows.items()}
    return Outcome(
        tuple(claims),
        figure,
        {**numbers, "random": found["random"].tolist(), "manifold": facts},
        tuple(notes),
    )


def _map_claims(rows: dict[str, Any], random: Any, given: Given) -> list[Claim]:
    source = "Bordt et al. 2023, section 4.2, figure 3"
    claims = [
        Stated(
            f"{name} lies in the tangent space more than random directions", source,
            "considerably larger than random, on all data sets", ABOVE_0,
        ).by(row - random, "mean fraction minus that of random directions", given.level, "mean", given.seed)
        for name, row in rows.items()
    ]  # fmt: skip
    check_choice("the reference", "gradient", list(rows))
    return claims + [
        Stated(f"{name} improves upon the gradient", source, "on all data sets", ABOVE_0).by(
            rows[name] - rows["gradient"], "mean fraction minus the gradient's", given.level, "mean",
            given.seed,
        )
        for name in IMPROVED if name in rows
    ]  # fmt: skip


FIGURE_3 = Reproduction(Maps(), Maps(), _map_cells, _map_result)

# --- section 4.4: the user study ----------------------------------------------------------------------------

COUNTS = {
    "task 1: tangent part against orthogonal part, MNIST32": (0, 580),
    "task 2: higher against lower fraction, MNIST32": (143, 315),
    "task 3: input x gradient against gradient, CIFAR10": (36, 217),
}
"""Answers for group A and group B as printed; B is what the hypothesis prefers."""


@dataclass(frozen=True)
class Counts:
    """The printed counts have no settings."""

    alternative: str = "two-sided"


def _count_cells(given: Given, chosen: Counts) -> Makes:
    def make(told: Told) -> Cell:
        p_values = [binomtest(b, a + b, 0.5).pvalue for a, b in COUNTS.values()]
        return cell({"p": torch.tensor([float(p) for p in p_values], dtype=torch.float64)})

    return {"tests": make}


def _count_result(given: Given, chosen: Counts, cells: Cells) -> Outcome:
    source, claims = "Bordt et al. 2023, section 4.4", []
    figure, panels = sheet(size=(6.5, 3.0))
    for place, ((name, (a, b)), p) in enumerate(zip(COUNTS.items(), cells["tests"]["p"], strict=True)):
        answers = np.repeat([0.0, 1.0], [a, b])
        claims += [
            Stated(
                f"{name}: people prefer B", source, f"N_A = {a}, N_B = {b}", Expected(low=0.5, strict=True),
                "answers",
            ).by_share(answers, "share of B", given.level),
            Stated(
                f"{name}: p < 0.01", source, "t-test p < 0.01", Expected(high=0.01, strict=True), "tests"
            ).by_every([p], "p of the exact binomial test"),
        ]  # fmt: skip
        one = share_interval(answers, level=given.level)
        panels[0, 0].errorbar(
            one.estimate, place, xerr=[[one.estimate - one.low], [one.high - one.estimate]], fmt="o"
        )
    panels[0, 0].axvline(0.5, color="k", linestyle=":")
    panels[0, 0].set_yticks(range(len(COUNTS)), [name.split(":")[0] for name in COUNTS])
    panels[0, 0].set(xlabel="share of answers for B", xlim=(0, 1.02))
    panels[0, 0].invert_yaxis()
    notes = (
        "Only the printed counts are tested again; nobody was asked. Answers of one person are not "
        "independent of each other, and how many people answered is not known: intervals and p are those of "
        "independent answers. To ask people of your own: `veridical study`.",
    )
    return Outcome(tuple(claims), figure, {name: list(counts) for name, counts in COUNTS.items()}, notes)


STUDY = Reproduction(Counts(), Counts(), _count_cells, _count_result)
