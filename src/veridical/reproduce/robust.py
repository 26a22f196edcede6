"""Dombrowski et al. 2019, figure 5 and supplement 15 to 17: smoothed methods under the same attack."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from veridical.attacks import compare_robustness, smoothing_variants
from veridical.attributions import method
from veridical.reproduce.attacked import NEXT, attack_settings, pair
from veridical.reproduce.claims import Claim, Expected, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Cells, Given, Makes, Outcome, Reproduction, Told, cell, joined

SOURCE = "Dombrowski et al. 2019, section 4, figure 5"
SUPPLEMENT = {"pcc": "supplement figure 17", "ssim": "supplement figure 16", "mse": "supplement figure 15"}
FORMS = ("plain", "beta-smoothed", "smoothgrad")
MAJORITY = Expected(low=0.5, strict=True)


@dataclass(frozen=True)
class Robust:
    """The attack, and the smoothing: beta of table 5, noisy copies and their level."""

    steps: int
    samples: int = 10
    noise: float = 0.1
    beta: float = 0.8
    method: str = "gradient"


def _cells(given: Given, chosen: Robust) -> Makes:
    def make(index: int, told: Told) -> Cell:
        subject, explain = given.subject, method(chosen.method)
        forms = smoothing_variants(
            explain, beta=chosen.beta, samples=chosen.samples, noise=chosen.noise, seed=given.seed
        )
        clean = subject.inputs[index : index + 1]
        goals = {name: pair(subject, index, one)[1] for name, one in forms.items()}
        found = compare_robustness(
            subject.model, clean, goals, explainers=forms, settings=attack_settings(subject, chosen.steps),
            callback=told,
        )  # fmt: skip
        if found.interrupted:
            raise KeyboardInterrupt
        values = {}
        for name, one in found.methods.items():
            for metric in SUPPLEMENT:
                values[f"{name} {metric}"] = getattr(one.outcome.similarity.to_target, metric).double()
            values[f"{name} passes"], values[f"{name} seconds"] = one.cost.map_passes, one.cost.map_seconds
        return cell(values)

    return {f"image {index}": partial(make, index) for index in range(len(given.subject))}


def _result(given: Given, chosen: Robust, cells: Cells) -> Outcome:
    values: dict[str, Any] = {key: joined(cells, key) for key in next(iter(cells.values())).arrays}
    figure, panels = sheet(3, size=(4.0, 3.8))
    for axes, metric in zip(panels[0], ("pcc", "ssim"), strict=False):
        scatter(axes, {name: values[f"{name} {metric}"] for name in FORMS}, f"{metric.upper()} to the target")
    seconds = [1000 * float(values[f"{name} seconds"].mean()) for name in FORMS]
    panels[0, 2].bar(FORMS, seconds, color=["k", "C0", "C1"])
    panels[0, 2].set(title="one map", ylabel="milliseconds")
    return Outcome(
        claims=tuple(_claims(values, chosen, given)),
        figure=figure,
        numbers={key: one.tolist() for key, one in values.items()},
        notes=(
            NEXT,
            f"{chosen.steps} steps for every form, the same rate; the paper took fewer and smaller ones for "
            "the smoothed methods (its table 5).",
            "Each form is aimed at its own map of the other image.",
        ),
    )


def scatter(axes: Any, found: dict[str, Any], title: str) -> None:
    """One marker a pair: the smoothed forms to the right, the plain one upwards."""
    for name, one in found.items():
        if name != "plain":
            axes.plot(one, found["plain"], "o", markersize=4, alpha=0.7, label=name)
    axes.axline((0, 0), slope=1, color="k", linewidth=0.8)
    axes.set(title=title, xlabel="smoothed", ylabel="plain")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _claims(values: dict[str, Any], chosen: Robust, given: Given) -> list[Claim]:
    level, found = given.level, []
    for form in FORMS[1:]:
        for metric, figure in SUPPLEMENT.items():
            apart = values[f"plain {metric}"] - values[f"{form} {metric}"]
            farther = (apart < 0) if metric == "mse" else (apart > 0)
            found.append(
                Stated(
                    f"{form}: the attack ends farther from its target than on the plain method, by {metric}",
                    f"{SOURCE}; {figure}", "markers clearly on one side (read: most pairs)",
                    MAJORITY, "pairs",
                ).by_share(farther, "share of pairs", level)
            )  # fmt: skip
    cost = values["smoothgrad seconds"] / values["beta-smoothed seconds"]
    passes = values["beta-smoothed passes"]
    found += [
        Stated(
            "SmoothGrad costs more than beta-smoothing", SOURCE,
            "as many passes as noise samples (read: more time)", Expected(low=1.0, strict=True), "pairs",
        ).by(cost, f"seconds of a map, SmoothGrad ({chosen.samples} copies) over beta", level),
        Stated(
            "beta-smoothing needs a single forward pass", SOURCE, "a single forward and backward pass",
            Expected(1.0, 1.0), "pairs",
        ).by_every(passes, "forward passes of a map"),
    ]  # fmt: skip
    return found


FIGURE_5 = Reproduction(Robust(15, samples=4), Robust(200), _cells, _result)
