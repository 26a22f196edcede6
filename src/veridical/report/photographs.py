"""The photographs one by one: the maps of all methods, and what every test measured on this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veridical.records import ImageRecord, Run
from veridical.report import words
from veridical.report.overview import anchor
from veridical.report.reader import RunData
from veridical.report.shown import Shown, Tile
from veridical.verdicts import ScoreTable, TestPolicy


@dataclass(frozen=True)
class Column:
    """One test: its title, and the statistic that the policy judges."""

    title: str
    statistic: str


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        anchor: its identifier on the page.
        order: its place in the run.
        name: of the file.
        label: of the explained class.
        probability: in words.
        sort: the probability for sorting; "" where it was not measured.
        tiles: the photograph and the maps of the methods; none where they are not shown.
        rows: by method, a value for each column.
    """

    anchor: str
    order: int
    name: str
    label: str
    probability: str
    sort: str
    tiles: tuple[Tile, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Photographs:
    """All that are listed, with the columns of their tables; `note` says what was left out."""

    columns: tuple[Column, ...]
    items: tuple[Photograph, ...]
    note: str


def photographs(data: RunData, methods: Sequence[str], shown: Shown) -> Photographs:
    """Put together what is known of each photograph; the pictures come from the stock.

    Args:
        data: the run.
        methods: their order on the page.
        shown: which photographs; its stock has the pictures already.
    """
    rules = _rules(data.run)
    table = ScoreTable(data.run, data.scores)
    values = {
        (method, test): found.values
        for method in methods
        for test, rule in rules.items()
        if (found := table.find(method, test, rule)) is not None
    }
    columns = tuple(
        Column(words.explain_test(test).title, words.statistic(rule.statistic.removeprefix("median_")))
        for test, rule in rules.items()
    )
    items = tuple(_photograph(data.run.images[place], place, (methods, rules, values), shown)
                  for place in shown.listed)  # fmt: skip
    return Photographs(columns, items, note_of(data.run, shown))


def note_of(run: Run, shown: Shown) -> str:
    """What the page leaves out, in words; "" where nothing."""
    count, parts = len(run.images), []
    if len(shown.listed) < count:
        parts.append(f"{len(shown.listed)} of {count} photographs are listed, evenly spaced.")
    if len(shown.mapped) < len(shown.listed):
        parts.append(
            f"Maps are shown for {len(shown.mapped)} of {count} photographs, evenly spaced, so that the page "
            "stays small; the others are in maps/."
        )
    return " ".join(parts)


def photo_alt(image: ImageRecord) -> str:
    """Return the text for readers who do not see the photograph."""
    return f"Photograph {image.name}, predicted class: {image.label or image.target}"


def photo_key(place: int) -> str:
    """The key of a photograph in the stock, and its anchor on the page."""
    return f"photo-{place + 1}"


def map_key(method: str, place: int) -> str:
    """The key of a map in the stock."""
    return f"map-{anchor(method)}-{place + 1}"


def _rules(run: Run) -> dict[str, TestPolicy]:
    """What the stored policy judges of each test; a rule without a statistic judges nothing."""
    found = {}
    for test in run.tests:
        rule = run.policy.get("tests", {}).get(test, {})
        if isinstance(rule, dict) and rule.get("statistic"):
            statistic, layer = str(rule["statistic"]), str(rule.get("layer", ""))
            found[test] = TestPolicy(statistic=statistic, layer=layer, threshold=0.0, source="stored")
    return found


Values = Mapping[tuple[str, str], Mapping[str, float]]


def _photograph(
    image: ImageRecord,
    place: int,
    known: tuple[Sequence[str], Mapping[str, TestPolicy], Values],
    shown: Shown,
) -> Photograph:
    methods, rules, values = known
    label = image.label or f"class {image.target}"
    rows = []
    for method in methods:
        found = (values.get((method, test), {}).get(image.name) for test in rules)
        rows.append((method, tuple("–" if value is None else words.number(value) for value in found)))
    tiles = [
        shown.stock.tile(map_key(method, place), f"Map of {method} for {image.name}, explaining {label}",
                         (method,), anchor(method))
        for method in methods
    ]  # fmt: skip
    present = [tile for tile in tiles if tile is not None]
    photo = shown.stock.tile(photo_key(place), photo_alt(image), ("photograph",))
    known_probability = image.probability == image.probability
    return Photograph(
        anchor=photo_key(place),
        order=place,
        name=image.name,
        label=label,
        probability=words.number(image.probability),
        sort=f"{image.probability:.6g}" if known_probability else "",
        tiles=(photo, *present) if photo is not None and present else tuple(present),
        rows=tuple(rows),
    )
