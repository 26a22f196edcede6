"""The section about the manifold: how much of each method's map lies in its tangent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veridical.records import Score
from veridical.report import pictures, words
from veridical.report.dots import Dots, Scale, dots_picture
from veridical.report.overview import anchor
from veridical.report.reader import RunData

TEST = "tangent-space"
SHOWN = 6


@dataclass(frozen=True)
class FractionRow:
    """One method: its fractions over images, in words."""

    name: str
    anchor: str
    median: str
    interval: str
    mean: str
    mean_interval: str
    other: str
    above: str
    p_value: str
    n: int


@dataclass(frozen=True)
class Reconstruction:
    """A photograph beside its reconstruction."""

    name: str
    photograph: str
    reconstruction: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ManifoldSection:
    """Everything that the page says about the manifold; `bad` is a warning or ""."""

    facts: tuple[tuple[str, str], ...]
    bad: str
    rows: tuple[FractionRow, ...]
    chart: str
    alt: str
    pairs: tuple[Reconstruction, ...]
    images: int


def manifold_section(data: RunData) -> ManifoldSection | None:
    """Build the section; None where the test gave nothing.

    Raises:
        RecordError: A file of maps cannot be read.
    """
    found = [_scores(data, name) for name in data.run.methods]
    measured = {name: one for name, one in zip(data.run.methods, found, strict=True) if one}
    if not measured:
        return None
    facts = data.run.tests[TEST].settings
    first = next(iter(measured.values()))
    chart, alt = _chart(measured)
    return ManifoldSection(
        facts=_facts(facts, first),
        bad=_bad(facts),
        rows=tuple(_row(name, one) for name, one in measured.items()),
        chart=chart,
        alt=alt,
        pairs=_pairs(data, next(iter(measured))),
        images=first["median_tangent_fraction"].n,
    )


def _scores(data: RunData, method: str) -> dict[str, Score]:
    """The values over all images by statistic."""
    rows = [row for row in data.scores if row.method == method and row.test == TEST and not row.image]
    found = {row.statistic: row for row in rows}
    return found if "median_tangent_fraction" in found else {}


def _row(name: str, scores: dict[str, Score]) -> FractionRow:
    median, mean = scores["median_tangent_fraction"], scores["mean_tangent_fraction"]
    above = scores["above_random_share"]
    return FractionRow(
        name=name,
        anchor=anchor(name),
        median=words.number(median.value),
        interval=words.interval(median.ci_low, median.ci_high),
        mean=words.number(mean.value),
        mean_interval=words.interval(mean.ci_low, mean.ci_high),
        other=words.number(scores["mean_other_image_fraction"].value),
        above=f"{above.value:.0%}" if above.n else words.NOT_MEASURED,
        p_value=words.number(scores["sign_test_p_value"].value),
        n=median.n,
    )


def _facts(facts: dict[str, Any], first: dict[str, Score]) -> tuple[tuple[str, str], ...]:
    low, high = facts["lowest_rank"], facts["highest_rank"]
    rank = f"{low}" if low == high else f"{low} to {high}"
    mean, limit = first["mean_random_fraction"].value, first["random_quantile_95"].value
    return (
        ("Manifold", str(facts["source"])),
        ("Latent values", f"{facts['latents']:,} (k), of the {facts['dimension']:,} values of an image (d)"),
        ("Rank of the tangent spaces", rank),
        ("Random directions", f"mean fraction {words.number(mean)}; 95 % stay below {words.number(limit)}"),
        ("Reconstruction error", f"{words.number(facts['reconstruction_error'])} (median of all images)"),
        ("Predicted class kept", f"{facts['class_kept']:.0%} of the reconstructions"),
    )


def _bad(facts: dict[str, Any]) -> str:
    if not facts["bad_manifold"]:
        return ""
    return (
        "This manifold fits these photographs badly: the reconstructions are off by "
        f"{words.number(facts['reconstruction_error'])} of the photographs' contrast, and the network "
        f"predicts the same class for {facts['class_kept']:.0%} of them. What follows is about the "
        "reconstructions and says little about the photographs. Fit a manifold to more images of this kind, "
        "or with more latent values."
    )


def _chart(measured: dict[str, dict[str, Score]]) -> tuple[str, str]:
    rows = [one["median_tangent_fraction"] for one in measured.values()]
    first = next(iter(measured.values()))
    random, limit = first["mean_random_fraction"].value, first["random_quantile_95"].value
    dots = Dots(
        "median", [row.value for row in rows], [row.ci_low for row in rows], [row.ci_high for row in rows]
    )
    highest = max([limit, *(row.ci_high for row in rows if row.ci_high == row.ci_high)])
    marks = (("mean of random directions", random), ("95 % of random directions", limit))
    scale = Scale("fraction in the tangent space", (0.0, min(1.02, 1.15 * highest)), marks)
    alt = ", ".join(f"{row.method} {words.number(row.value)}" for row in rows)
    return (
        dots_picture(list(measured), [dots], scale),
        f"Chart. Median fraction in the tangent space: {alt}; random directions {words.number(random)}.",
    )


def _pairs(data: RunData, method: str) -> tuple[Reconstruction, ...]:
    photographs, moved = data.maps("images").get("images"), data.maps(f"{TEST}/images").get("reconstructions")
    if photographs is None or moved is None:
        return ()
    errors = {
        row.image: row.value
        for row in data.select(method=method, test=TEST, statistic="reconstruction_error")
    }
    kept = {row.image: row.value for row in data.select(method=method, test=TEST, statistic="class_kept")}
    pairs = []
    for image, before, after in zip(data.run.images[:SHOWN], photographs, moved, strict=False):
        error = words.number(errors.get(image.name))
        same = "class kept" if kept.get(image.name) else "another class is predicted"
        pairs.append(
            Reconstruction(
                image.name,
                pictures.photo(before.clip(0, 1)),
                pictures.photo(after.clip(0, 1)),
                (f"error {error}", same),
            )
        )
    return tuple(pairs)
