"""The section about curvature: how far the gradient map of each photograph can be moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

from veridical.records import Score
from veridical.report import words
from veridical.report.dots import Dots, Scale, dots_picture
from veridical.report.reader import RunData

TEST = "curvature"
SHOWN = 24
RIGHT_ANGLE = math.sqrt(2)
"""Distance of orthogonal vectors of length 1."""

Scores = dict[str, Score]


@dataclass(frozen=True)
class MovementRow:
    """One photograph, in words."""

    name: str
    curvature: str
    residual: str
    largest: str
    expected: str
    expected_interval: str
    worst_levels: str
    random_levels: str


@dataclass(frozen=True)
class MovementSection:
    """Everything that the page says about movement."""

    facts: tuple[tuple[str, str], ...]
    rows: tuple[MovementRow, ...]
    count: int
    chart: str
    alt: str


def movement_section(data: RunData) -> MovementSection | None:
    """Build the section; None where the test gave nothing."""
    found = _by_image(data)
    if not found:
        return None
    settings, shown = data.run.tests[TEST].settings, dict(list(found.items())[:SHOWN])
    softplus = settings.get("softplus")
    network = "as it is, without ReLU"
    if softplus is not None:
        network = f"with softplus, beta = {words.number(float(softplus))}, in place of ReLU"
    radii = dict.fromkeys(words.number(scores["radius"].value) for scores in shown.values())
    step = 255 * float(settings["radius"])
    chart, alt = _chart(shown, step)
    return MovementSection(
        facts=(
            ("Network", network),
            ("Step", f"{words.number(step)} gray levels in every value (of 255)"),
            ("The same in the network's input", f"Euclidean length {', '.join(radii)}"),
            ("Work", f"{settings['products']} products with the Hessian for each photograph"),
        ),
        rows=tuple(_row(name, scores, step) for name, scores in shown.items()),
        count=len(found),
        chart=chart,
        alt=alt,
    )


def angle(change: float) -> str:
    """The distance of two vectors of length 1 with the angle between them.

    >>> angle(1.0), angle(2.0), angle(float("nan"))
    ('1 (60°)', '2 or more', 'not measured')
    """
    if math.isnan(change):
        return words.NOT_MEASURED
    if change >= 2:
        return "2 or more"
    return f"{words.number(change)} ({words.number(math.degrees(2 * math.asin(change / 2)))}°)"


def _by_image(data: RunData) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for row in data.scores:
        if row.test == TEST and row.image:
            # Two methods that are both the gradient have the same values.
            found.setdefault(row.image, {}).setdefault(row.statistic, row)
    return found


def _levels(curvature: float, radius: float, step: float) -> float:
    """Gray levels in every value at which the map has turned by a right angle, to first order.

    Args:
        curvature: not negative, per unit of the network's input.
        radius: length of a step in the network's input.
        step: the same in gray levels.
    """
    turned = curvature * radius
    return RIGHT_ANGLE / turned * step if turned else math.inf


def _row(name: str, scores: Scores, step: float) -> MovementRow:
    expected, radius = scores["expected_movement"], scores["radius"].value
    largest, typical = scores["largest_curvature"].value, scores["typical_curvature"].value
    return MovementRow(
        name=name,
        curvature=words.number(largest),
        residual=words.number(scores["curvature_residual"].value),
        largest=angle(scores["largest_movement"].value),
        expected=angle(expected.value),
        expected_interval=words.interval(expected.ci_low, expected.ci_high),
        worst_levels=words.number(_levels(largest, radius, step)),
        random_levels=words.number(_levels(typical, radius, step)),
    )


def _chart(shown: dict[str, Scores], step: float) -> tuple[str, str]:
    worst, typical, low, high = [], [], [], []
    for scores in shown.values():
        radius, row = scores["radius"].value, scores["typical_curvature"]
        worst.append(_levels(scores["largest_curvature"].value, radius, step))
        typical.append(_levels(row.value, radius, step))
        low.append(_levels(row.ci_high, radius, step))
        high.append(_levels(row.ci_low, radius, step))
    empty = [math.nan] * len(worst)
    series = [
        Dots("most curved direction", worst, empty, empty),
        Dots("random direction", typical, low, high),
    ]
    drawn = [value for value in (*worst, *low, *high, step) if math.isfinite(value) and value > 0]
    marks = (("rounding of an 8-bit file", step),)
    label = "gray levels that turn the map by a right angle"
    scale = Scale(label, (0.5 * min(drawn), 2 * max(drawn)), marks, log=True)
    alt = ", ".join(f"{name} {words.number(value)}" for name, value in zip(shown, typical, strict=True))
    return (
        dots_picture(list(shown), series, scale),
        "Chart. Gray levels in a random direction that turn the map by a right angle, to first order: "
        f"{alt}; the rounding of an 8-bit file is {words.number(step)}.",
    )
