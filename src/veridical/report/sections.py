"""The section of one method: its maps, the randomized network, the curves, the manipulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from veridical.records import Score
from veridical.report import pictures, words
from veridical.report.convergence import Convergence, convergence
from veridical.report.curves import Axis, Chart, Curve, Line, curve_alt, curve_picture, lines_picture
from veridical.report.overview import Badge, Finding, anchor, finding
from veridical.report.pairs import Colorbar, Pair, manipulated_pairs
from veridical.report.photographs import map_key, photo_alt, photo_key
from veridical.report.reader import Array, Maps, RunData
from veridical.report.shown import Shown, Tile, chosen

RANDOMIZATION, OTHER_CLASS = "cascading-randomization", "random-logit"


@dataclass(frozen=True)
class Removal:
    """A chart over the share of removed pixels, which is stored as the layer.

    `curves` has the title of each statistic.
    """

    test: str
    curves: dict[str, str]
    label: str
    caption: str


FLIPPING = Removal(
    "pixel-flipping",
    {
        "median_morf_probability": "most relevant first",
        "median_lerf_probability": "least relevant first",
        "median_random_probability": "random order",
    },
    "median probability",
    "Median probability of the class over all photographs as pixels are removed, with its interval "
    "(shaded). A good map falls fast with the most relevant first and slowly with the least relevant.",
)
RETRAINED = Removal(
    "roar",
    {
        "mean_roar_accuracy": "most relevant first",
        "mean_edges_accuracy": "edges first",
        "mean_random_accuracy": "random order",
    },
    "mean accuracy",
    "Mean accuracy of the networks that were trained and tested without these pixels, with its interval over "
    "trainings (shaded). A good map falls fast; edges know no network.",
)


@dataclass(frozen=True)
class Strip:
    """Pictures that are to be compared with one another."""

    title: str
    tiles: tuple[Tile, ...]
    link: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Everything that the page says about one method."""

    name: str
    anchor: str
    badge: Badge
    reason: str
    description: str
    options: str
    findings: tuple[Finding, ...]
    skipped: tuple[tuple[str, str], ...]
    signed: bool
    colorbar: Colorbar
    photographs: tuple[Strip, ...]
    randomized: Strip | None
    randomization_chart: Chart | None
    flipping: Chart | None
    retrained: Chart | None
    convergence: Convergence | None
    pairs: tuple[Pair, ...]
    pairs_stored: int


def section(data: RunData, name: str, shown: Shown) -> Section:
    """Build the section of one method from what the run stored; its maps go into the stock of `shown`.

    Raises:
        RecordError: A file of maps cannot be read.
    """
    record, verdict = data.run.methods[name], data.run.verdicts.get(name)
    maps = data.maps(name)
    signed = pictures.is_signed(*(maps.get(key) for key in ("original", "other_logit", "randomized")))
    pairs, stored = manipulated_pairs(data, name, shown.pairs)
    return Section(
        name=name,
        anchor=anchor(name),
        badge=Badge(*words.VERDICTS[verdict.verdict if verdict else "not decided"]),
        reason=verdict.reason if verdict else "The run ended before this method was judged.",
        description=record.description,
        options=record.options,
        findings=tuple(finding(data.run, entry) for entry in verdict.evidence) if verdict else (),
        skipped=tuple(
            (words.explain_test(entry.test).title, entry.reason)
            for entry in data.run.skipped
            if entry.method == name
        ),
        signed=signed,
        colorbar=_own_units(signed),
        photographs=tuple(_photographs(data, name, maps, (signed, shown))),
        randomized=_randomized(data, name, maps, (signed, shown)),
        randomization_chart=_randomization_chart(data, name),
        flipping=_removal_chart(data, name, FLIPPING),
        retrained=_removal_chart(data, name, RETRAINED),
        convergence=convergence(data, name),
        pairs=pairs,
        pairs_stored=stored,
    )


def shown_images(data: RunData) -> tuple[Array, ...]:
    """Return the stored photographs, each (C, H, W) in [0, 1]."""
    images = data.maps("images").get("images")
    return () if images is None else tuple(images)


def _own_units(signed: bool) -> Colorbar:
    kind = "blue is negative, white is zero, red is positive" if signed else "black is zero, yellow is high"
    numbers = ("−1", "0", "+1") if signed else ("0", "0.5", "1")
    return Colorbar(
        pictures.colorbar(signed=signed),
        f"Colorbar: {kind}",
        numbers,
        "in units of the scale beneath each map",
    )


def _own_tile(relevance: Array, signed: bool, alt: str, lines: tuple[str, ...]) -> Tile:
    own = pictures.scale(relevance)
    source = pictures.map_tile(relevance, limit=own, signed=signed)
    return Tile(source, alt, (*lines, f"scale {words.number(own)}"))


def _photographs(data: RunData, name: str, maps: Maps, how: tuple[bool, Shown]) -> list[Strip]:
    signed, shown = how
    original, other = maps.get("original"), maps.get("other_logit")
    scores = {score.image: score for score in data.select(method=name, test=OTHER_CLASS, statistic="ssim")}
    other_labels = maps.metadata.get("other_labels", [])
    strips = []
    for place in shown.mapped:
        image, key = data.run.images[place], map_key(name, place)
        label = image.label or f"class {image.target}"
        found = [shown.stock.tile(photo_key(place), photo_alt(image), ("photograph",))]
        if original is not None and place < len(original):
            own = pictures.scale(original[place])
            shown.stock.put(key, pictures.map_tile(original[place], limit=own, signed=signed))
            lines = (label, f"scale {words.number(own)}")
            found.append(shown.stock.tile(key, f"Map of {name} for {image.name}, explaining {label}", lines))
        if other is not None and place < len(other):
            second = str(other_labels[place]) if place < len(other_labels) else "another class"
            alt = f"Map of {name} for {image.name}, explaining {second}"
            found.append(_own_tile(other[place], signed, alt, (second, *_ssim_line(scores.get(image.name)))))
        title = f"{image.name}: {label}, probability {words.number(image.probability)}"
        strips.append(Strip(title, tuple(tile for tile in found if tile is not None), photo_key(place)))
    return strips


def _ssim_line(score: Score | None) -> tuple[str, ...]:
    return (f"SSIM {words.number(score.value)}",) if score else ()


def _randomized(data: RunData, name: str, maps: Maps, how: tuple[bool, Shown]) -> Strip | None:
    signed, shown = how
    steps, original = maps.get("randomized"), maps.get("original")
    if steps is None or original is None or not data.run.images or steps.shape[1] == 0:
        return None
    image = data.run.images[0]
    rows = data.select(method=name, test=RANDOMIZATION, statistic="ssim")
    scores = {score.layer: score for score in rows if score.image == image.name}
    layers = [str(layer) for layer in maps.metadata.get("layers", scores)]
    layers += [f"step {place + 1}" for place in range(len(layers), len(steps))]
    trained = f"Map of {name} for {image.name}, trained network"
    tiles = [_own_tile(original[0], signed, trained, ("trained network",))]
    for place, layer in chosen(layers[: len(steps)], shown.steps).items():
        alt = f"Map of {name} for {image.name}, network randomized from the top down to {layer}"
        tiles.append(_own_tile(steps[place, 0], signed, alt, (f"to {layer}", *_ssim_line(scores.get(layer)))))
    left = len(steps) + 1 - len(tiles)
    note = f" Shown are {len(tiles) - 1} of {len(steps)} steps, evenly spaced." if left else ""
    return Strip(image.name, tuple(tiles), note=note)


def _randomization_chart(data: RunData, name: str) -> Chart | None:
    rows = [row for row in data.select(method=name, test=RANDOMIZATION, statistic="median_ssim") if row.layer]
    if not rows:
        return None
    values = [row.value for row in rows]
    curve = Curve(
        [row.layer for row in rows], values, [row.ci_low for row in rows], [row.ci_high for row in rows]
    )
    lowest = min([0.0, *(bound for bound in (*values, *curve.low) if np.isfinite(bound))])
    axis = Axis("median SSIM", limits=(lowest * 1.05, 1.02))
    caption = "Median similarity to the original map over all photographs, with its interval (shaded)."
    return Chart(curve_picture(curve, axis), curve_alt("Median SSIM after each step", curve), caption)


def _removal_chart(data: RunData, name: str, removal: Removal) -> Chart | None:
    lines = []
    for statistic, title in removal.curves.items():
        rows = [row for row in data.select(method=name, test=removal.test, statistic=statistic) if row.layer]
        if rows:
            places = [float(row.layer.rstrip("%")) for row in rows]
            low, high = [row.ci_low for row in rows], [row.ci_high for row in rows]
            lines.append(Line(title, places, [row.value for row in rows], low, high))
    if not lines:
        return None
    axis = Axis(removal.label, limits=(0, 1.02), below="removed pixels (%)")
    ends = ", ".join(f"{words.number(line.values[-1])} {line.name}" for line in lines)
    removed = words.number(lines[0].places[-1])
    alt = f"Chart. {removal.label.capitalize()} with {removed} % of the pixels removed: {ends}."
    return Chart(lines_picture(lines, axis), alt, removal.caption)
