"""What a method's section says of converging directions: charts, the first convolution, rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from veridical.records import Score
from veridical.report import words
from veridical.report.curves import (
    Axis,
    Band,
    Chart,
    Curve,
    bands_picture,
    bars_picture,
    curve_alt,
    curve_picture,
)
from veridical.report.reader import RunData

TEST = "cosine-convergence"
NAMED = 4
"""Layers that are named in a sentence; more are counted."""

MOST = (5, 95)
BANDS = {"1st to 99th percentile": (1, 99), "5th to 95th": MOST, "20th to 80th": (20, 80)}
"""Percentiles of the cosine between which a chart is shaded."""


@dataclass(frozen=True)
class Convergence:
    """The convergence of one method.

    Attributes:
        charts: the median by layer, the same near to 1 with percentiles, the histogram.
        facts: names and values at the first convolution; none of a run that stored none.
        rounding: what the precision of the run can tell; "" of a run that did not store it.
    """

    charts: tuple[Chart, ...]
    facts: tuple[tuple[str, str], ...]
    rounding: str


def convergence(data: RunData, name: str) -> Convergence | None:
    """Put together what was stored of a method; None where nothing was."""
    found: dict[str, dict[str, Score]] = {}
    for row in data.scores:
        if row.method == name and row.test == TEST and row.layer and not row.image:
            found.setdefault(row.statistic, {})[row.layer] = row
    if not found:
        return None
    settings = data.run.tests[TEST].settings if TEST in data.run.tests else {}
    first = str(settings.get("first_convolution", ""))
    charts = [*_medians(found), *_near_one(found, first), *_histogram(found, first)]
    return Convergence(
        tuple(charts),
        tuple(_facts(found, first, settings.get("channels"))),
        _rounding(found, str(settings.get("precision", "the precision of the run"))),
    )


_Rows = dict[str, dict[str, Score]]
"""By statistic, by layer."""


def _medians(found: _Rows) -> list[Chart]:
    median, baseline = found.get("median_cosine"), found.get("random_baseline", {})
    if not median:
        return []
    curve = _curve(median, [_value(baseline, layer) for layer in median])
    caption = (
        "Median |cosine| by layer, from the start layer (left) to the input (right), with its interval over "
        "the photographs (shaded). High is bad."
    )
    picture = curve_picture(curve, Axis("median |cosine|", limits=(0, 1.03)))
    return [Chart(picture, curve_alt("Median absolute cosine", curve), caption)]


def _curve(rows: dict[str, Score], baseline: Sequence[float] = ()) -> Curve:
    low, high = [row.ci_low for row in rows.values()], [row.ci_high for row in rows.values()]
    return Curve(list(rows), [row.value for row in rows.values()], low, high, baseline)


def _value(rows: dict[str, Score], layer: str) -> float:
    return rows[layer].value if layer in rows else math.nan


def _level(found: _Rows, level: int) -> dict[str, Score]:
    return found.get(f"one_minus_percentile_{level}_cosine", {})


def _near_one(found: _Rows, first: str) -> list[Chart]:
    """1 - median by layer, in its percentiles over pairs and locations or, without them, in its interval."""
    median, baseline = found.get("one_minus_median_cosine"), found.get("random_baseline", {})
    if not median:
        return []
    curve = _curve(median, [1 - _value(baseline, layer) for layer in median])
    axis = Axis("1 − |cosine|", log=True)
    alt = curve_alt("One minus median absolute cosine", curve)
    caption = "The same as 1 − median |cosine|, logarithmic (values below 10⁻⁸ drawn there). Low is bad."
    bands = _bands(found, list(median))
    if not bands or not any(math.isfinite(value) for value in curve.values):
        return [Chart(curve_picture(curve, axis), alt, caption)]
    if first in median:
        alt += f" Its 5th to 95th percentile at {first}: {_range(found, first, MOST)}."
    caption += (
        " Shaded are percentiles over pairs of vectors and locations: how much further the directions have "
        "converged in some places than in others."
    )
    return [Chart(bands_picture(curve, bands, axis), alt, caption)]


def _bands(found: _Rows, layers: list[str]) -> list[Band]:
    bands = []
    for name, (low, high) in BANDS.items():
        near, far = _level(found, high), _level(found, low)
        if near and far:
            ends = ([_value(rows, layer) for layer in layers] for rows in (near, far))
            bands.append(Band(name, *ends))
    return bands


def _range(found: _Rows, layer: str, levels: tuple[int, int]) -> str:
    low, high = levels
    return words.interval(_value(_level(found, high), layer), _value(_level(found, low), layer))


def _histogram(found: _Rows, first: str) -> list[Chart]:
    counts = {name: row.value for name, row in found.get("cosines", {}).items()}
    total = sum(counts.values())
    if not total > 0:
        return []
    shares = {name: count / total for name, count in counts.items()}
    axis = Axis("|cosine|", below="share of the pairs and locations (%)")
    picture = bars_picture(list(shares), [100 * share for share in shares.values()], axis)
    listed = ", ".join(f"{name}: {_percent(share)}" for name, share in shares.items() if share)
    caption = (
        f"All |cosines| at {first}: {total:,.0f} pairs and locations of all photographs. From 0.9 on, every "
        "next bar toward 1 covers a tenth of the range."
    )
    return [Chart(picture, f"Chart. Shares of absolute cosines at {first}: {listed}.", caption)]


def _percent(share: float) -> str:
    return f"{words.number(100 * share)} %"


def _facts(found: _Rows, first: str, channels: object) -> list[tuple[str, str]]:
    """The first convolution in numbers, for those who do not see the charts."""
    if not first or first not in found.get("median_cosine", {}):
        return []
    width = f" of {channels} channels" if channels is not None else ""
    every = [
        ("Median |cosine|", _number(found, "median_cosine", first)),
        ("Median |cosine| of random vectors" + width, _number(found, "random_baseline", first)),
        ("1 − |cosine|, median", _number(found, "one_minus_median_cosine", first)),
        ("1 − |cosine|, 5th to 95th percentile", _range(found, first, MOST)),
        ("Without a cosine (relevance zero or not finite)", _share(found, first)),
        ("1 − |cosine| that rounding alone makes", _number(found, "resolution", first)),
    ]
    return [(name, text) for name, text in every if text]


def _number(found: _Rows, statistic: str, layer: str) -> str:
    """With its interval, where it has one; "" of a statistic that was not stored."""
    row = found.get(statistic, {}).get(layer)
    if row is None:
        return ""
    interval = words.interval(row.ci_low, row.ci_high)
    return words.number(row.value) + (f" ({interval})" if interval else "")


def _share(found: _Rows, layer: str) -> str:
    rows = found.get("nan_fraction", {})
    return _percent(rows[layer].value) if layer in rows else ""


def _rounding(found: _Rows, precision: str) -> str:
    """Where the precision cannot tell a cosine from 1."""
    shares, resolution = found.get("unresolved_fraction", {}), found.get("resolution", {})
    sizes = [row.value for row in resolution.values() if math.isfinite(row.value)]
    if not shares or not sizes:
        return ""
    layers = [layer for layer, row in shares.items() if row.value > 0]
    most = words.number(max(sizes))
    if not layers:
        return (
            f"Resolution: in {precision}, rounding alone makes a median 1 − |cosine| of up to {most} between "
            "parallel vectors. Every photograph's median is more than ten times that of its layer."
        )
    named = words.joined(layers[:NAMED]) if len(layers) <= NAMED else words.counted(len(layers), "layer")
    return (
        f"Not resolved: at {named} (of {words.counted(len(shares), 'layer')}) the median 1 − |cosine| of at "
        f"least one photograph is within ten times of what rounding in {precision} alone makes between "
        f"parallel vectors, up to {most}. How near the cosine is to 1 only a higher precision can tell."
    )
