"""The section of one method: its maps, the randomized network, the curves, the manipulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from veridical.records import ImageRecord, Score
from veridical.report import pictures, words
from veridical.report.curves import Axis, Curve, Line, curve_picture, lines_picture
from veridical.report.overview import Badge, Finding, anchor, finding
from veridical.report.reader import Array, Maps, RunData

RANDOMIZATION, CONVERGENCE, OTHER_CLASS = "cascading-randomization", "cosine-convergence", "random-logit"
FLIPPING = "pixel-flipping"
REMOVED = {"morf": "most relevant first", "lerf": "least relevant first", "random": "random order"}
PAIR_LIMIT = 4
UNIT = "share of the relevance in each pixel"


@dataclass(frozen=True)
class Tile:
    """One small picture with what is written beneath it; the first line is its title."""

    source: str
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Colorbar:
    """A colorbar and the numbers at its ends and its middle."""

    source: str
    alt: str
    numbers: tuple[str, ...]
    unit: str


@dataclass(frozen=True)
class Strip:
    """Pictures that are to be compared with one another."""

    title: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Chart:
    """One curve with its caption."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Pair:
    """One manipulated photograph: pictures, maps, the scale of the maps, and numbers."""

    title: str
    images: tuple[Tile, ...]
    maps: tuple[Tile, ...]
    colorbar: Colorbar
    numbers: tuple[tuple[str, str], ...]


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
    convergence: tuple[Chart, ...]
    pairs: tuple[Pair, ...]
    pairs_stored: int


def section(data: RunData, name: str) -> Section:
    """Build the section of one method from what the run stored.

    Raises:
        RecordError: A file of maps cannot be read.
    """
    record, verdict = data.run.methods[name], data.run.verdicts.get(name)
    maps = data.maps(name)
    signed = pictures.is_signed(*(maps.get(key) for key in ("original", "other_logit", "randomized")))
    pairs, stored = _pairs(data, name)
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
        photographs=tuple(_photographs(data, name, maps, signed)),
        randomized=_randomized(data, name, maps, signed),
        randomization_chart=_randomization_chart(data, name),
        flipping=_flipping_chart(data, name),
        convergence=tuple(_convergence(data, name)),
        pairs=pairs,
        pairs_stored=stored,
    )


def shown_images(data: RunData) -> tuple[Array, ...]:
    """Return the stored photographs, each (C, H, W) in [0, 1]."""
    images = data.maps("images").get("images")
    return () if images is None else tuple(images)


def photo_alt(image: ImageRecord) -> str:
    """Return the text for readers who do not see the photograph."""
    return f"Photograph {image.name}, predicted class: {image.label or image.target}"


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


def _photographs(data: RunData, name: str, maps: Maps, signed: bool) -> list[Strip]:
    original, other, photos = maps.get("original"), maps.get("other_logit"), shown_images(data)
    scores = {score.image: score for score in data.select(method=name, test=OTHER_CLASS, statistic="ssim")}
    other_labels = maps.metadata.get("other_labels", [])
    strips = []
    for place, image in enumerate(data.run.images):
        label, tiles = image.label or f"class {image.target}", []
        if place < len(photos):
            tiles.append(Tile(pictures.photo(photos[place]), photo_alt(image), ("photograph",)))
        if original is not None and place < len(original):
            alt = f"Map of {name} for {image.name}, explaining {label}"
            tiles.append(_own_tile(original[place], signed, alt, (label,)))
        if other is not None and place < len(other):
            second = str(other_labels[place]) if place < len(other_labels) else "another class"
            alt = f"Map of {name} for {image.name}, explaining {second}"
            tiles.append(_own_tile(other[place], signed, alt, (second, *_ssim_line(scores.get(image.name)))))
        strips.append(
            Strip(f"{image.name}: {label}, probability {words.number(image.probability)}", tuple(tiles))
        )
    return strips


def _ssim_line(score: Score | None) -> tuple[str, ...]:
    return (f"SSIM {words.number(score.value)}",) if score else ()


def _randomized(data: RunData, name: str, maps: Maps, signed: bool) -> Strip | None:
    steps, original = maps.get("randomized"), maps.get("original")
    if steps is None or original is None or not data.run.images or steps.shape[1] == 0:
        return None
    image = data.run.images[0]
    rows = data.select(method=name, test=RANDOMIZATION, statistic="ssim")
    scores = {score.layer: score for score in rows if score.image == image.name}
    layers = [str(layer) for layer in maps.metadata.get("layers", scores)]
    tiles = [
        _own_tile(
            original[0], signed, f"Map of {name} for {image.name}, trained network", ("trained network",)
        )
    ]
    for place, relevance in enumerate(steps[:, 0]):
        layer = layers[place] if place < len(layers) else f"step {place + 1}"
        alt = f"Map of {name} for {image.name}, network randomized from the top down to {layer}"
        tiles.append(_own_tile(relevance, signed, alt, (f"to {layer}", *_ssim_line(scores.get(layer)))))
    return Strip(image.name, tuple(tiles))


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
    return Chart(curve_picture(curve, axis), _curve_alt("Median SSIM after each step", curve), caption)


def _flipping_chart(data: RunData, name: str) -> Chart | None:
    """The probability of the class over the share of removed pixels, which is stored as the layer."""
    lines = []
    for order, title in REMOVED.items():
        rows = data.select(method=name, test=FLIPPING, statistic=f"median_{order}_probability")
        rows = [row for row in rows if row.layer]
        if rows:
            places = [float(row.layer.rstrip("%")) for row in rows]
            low, high = [row.ci_low for row in rows], [row.ci_high for row in rows]
            lines.append(Line(title, places, [row.value for row in rows], low, high))
    if not lines:
        return None
    axis = Axis("median probability", limits=(0, 1.02), below="removed pixels (%)")
    caption = (
        "Median probability of the class over all photographs as pixels are removed, with its interval "
        "(shaded). A good map falls fast with the most relevant first and slowly with the least relevant."
    )
    ends = ", ".join(f"{words.number(line.values[-1])} {line.name}" for line in lines)
    alt = (
        f"Chart. Median probability with {words.number(lines[0].places[-1])} % of the pixels removed: {ends}."
    )
    return Chart(lines_picture(lines, axis), alt, caption)


def _convergence(data: RunData, name: str) -> list[Chart]:
    def values(statistic: str) -> list[Score]:
        rows = data.select(method=name, test=CONVERGENCE, statistic=statistic)
        return [row for row in rows if row.layer and not row.image]

    median, rest = values("median_cosine"), values("one_minus_median_cosine")
    known = {row.layer: row.value for row in values("random_baseline")}
    charts = []
    if median:
        curve = _curve(median, [known.get(row.layer, float("nan")) for row in median])
        caption = "Median |cosine| by layer, from the start layer (left) to the input (right). High is bad."
        picture = curve_picture(curve, Axis("median |cosine|", limits=(0, 1.03)))
        charts.append(Chart(picture, _curve_alt("Median absolute cosine", curve), caption))
    if rest:
        curve = _curve(rest, [1 - known.get(row.layer, float("nan")) for row in rest])
        caption = "The same as 1 − median |cosine|, logarithmic (values below 10⁻⁸ drawn there). Low is bad."
        picture = curve_picture(curve, Axis("1 − median |cosine|", log=True))
        charts.append(Chart(picture, _curve_alt("One minus median absolute cosine", curve), caption))
    return charts


def _curve(rows: list[Score], baseline: list[float]) -> Curve:
    low, high = [row.ci_low for row in rows], [row.ci_high for row in rows]
    return Curve([row.layer for row in rows], [row.value for row in rows], low, high, baseline)


def _curve_alt(title: str, curve: Curve) -> str:
    first, last = words.number(curve.values[0]), words.number(curve.values[-1])
    return (
        f"Chart. {title}: {first} at {curve.layers[0]}, {last} at {curve.layers[-1]},"
        f" over {words.counted(len(curve.layers), 'layer')}."
    )


def _pairs(data: RunData, name: str) -> tuple[tuple[Pair, ...], int]:
    maps = data.maps(f"manipulation/{name}")
    stored = maps.get("manipulated_map")
    if stored is None:
        return (), 0
    named = [score.image for score in data.scores if score.method == name and score.test == "manipulation"]
    names = maps.metadata.get("images") or list(dict.fromkeys(image for image in named if image))
    count = min(len(stored), PAIR_LIMIT)
    return tuple(_pair(data, name, maps, (place, names)) for place in range(count)), len(stored)


def _pair(data: RunData, name: str, maps: Maps, where: tuple[int, list[str]]) -> Pair:
    place, names = where
    title = names[place] if place < len(names) else f"pair {place + 1}"
    targets = maps.metadata.get("target_images", [])
    lines = {"target": (str(targets[place]),)} if place < len(targets) else {}
    keys = {"original": "original", "target": "target", "manipulated": "manipulated"}
    images = {key: _at(maps.get(f"{key}_image"), place) for key in keys}
    tiles = [
        Tile(pictures.photo(image), f"The {key} photograph of {title}", (key, *lines.get(key, ())))
        for key, image in images.items()
        if image is not None
    ]
    before, after = images["original"], images["manipulated"]
    if before is not None and after is not None and before.shape == after.shape:
        factor = pictures.amplification(after - before)
        line = f"change × {words.number(factor)}"
        alt = f"The change of {title}, amplified {words.number(factor)} times; gray is no change"
        tiles.append(Tile(pictures.amplified(after - before, factor), alt, (line,)))
    found = {key: _at(maps.get(f"{key}_map"), place) for key in keys}
    present = {key: relevance for key, relevance in found.items() if relevance is not None}
    signed = pictures.is_signed(*present.values())
    limit = float(np.nanmax([pictures.scale(relevance) for relevance in present.values()]))
    drawn = tuple(
        Tile(
            pictures.map_tile(part, limit=limit, signed=signed),
            f"Map of {name}: {key}, {title}",
            (f"{key} map",),
        )
        for key, part in present.items()
    )
    ends = (-limit if signed else 0.0, 0.0 if signed else limit / 2, limit)
    bar = Colorbar(
        pictures.colorbar(signed=signed), "Colorbar of the maps above", tuple(map(words.number, ends)), UNIT
    )
    return Pair(title, tuple(tiles), drawn, bar, tuple(_numbers(data, name, title)))


def _at(array: Array | None, place: int) -> Array | None:
    return array[place] if array is not None and place < len(array) else None


def _numbers(data: RunData, name: str, image: str) -> list[tuple[str, str]]:
    rows = [
        row for row in data.scores if row.method == name and row.test == "manipulation" and row.image == image
    ]
    texts = []
    for row in rows:
        text = words.number(row.value)
        if row.statistic == "class_kept" and np.isfinite(row.value):
            text = "yes" if row.value >= 1 else "no"
        texts.append((words.statistic(row.statistic), text))
    return texts
