"""Parts of a test, each measured on some of the images, joined into what the whole would have given.

A task measures a part of the images. It hands out values by image, and no summary: medians, shares and their
intervals are made here, once, from the values of all parts in the order of the images. So they do not depend
on how the images were divided.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from veridical.metrics import bootstrap_interval, share_interval
from veridical.records import Arrays, Score
from veridical.verdicts import LEVEL
from veridical.verdicts.intervals import median_interval

Kind = Literal["median", "share", "mean", "middle", "sum", "same"]
"""How values become a summary: the median, or the share of ones, with an interval; without one the mean, the
median ("middle"), the sum, or one of them, where all are equal."""

RESAMPLED = 1000
"""Up to so many images the bootstrap draws; beyond, its limit for infinitely many resamples is computed."""

IMAGE_AXIS = {"randomized": 1}
"""The axis of the images in an array of a task, where it is not the first."""

BY_IMAGE = frozenset({"other_targets", "other_labels", "images", "target_images"})
"""Metadata with one entry for each image; other metadata is the same in all parts."""


@dataclass(frozen=True)
class Outcome:
    """The result of one task; `facts` is added to the settings of the test in `run.json`."""

    scores: list[Score]
    arrays: Arrays = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pooled(Score):
    """A summary in the making: the values of a part of the images, and what is to become of them."""

    values: tuple[float, ...] = ()
    kind: Kind = "median"


def sampled(outcome: Outcome, count: int) -> Outcome:
    """The same scores with the arrays of the first `count` images only; without arrays for 0."""
    if count <= 0:
        return Outcome(outcome.scores, {}, {}, outcome.facts)
    arrays = {
        name: np.ascontiguousarray(_first(array, count, IMAGE_AXIS.get(name, 0)))
        for name, array in outcome.arrays.items()
    }
    metadata = dict(outcome.metadata)
    metadata |= {name: value[:count] for name, value in metadata.items() if name in BY_IMAGE}
    return Outcome(outcome.scores, arrays, metadata, outcome.facts)


def _first(array: NDArray[Any], count: int, axis: int) -> NDArray[Any]:
    return array[:count] if axis == 0 else array[:, :count]


def joined(parts: Sequence[Outcome], seed: int) -> Outcome:
    """One outcome of the parts of a test, in the order of the images, with its summaries.

    Args:
        parts: at least one, as the tasks of one method and test gave them.
        seed: of the bootstrap.
    """
    names = parts[0].arrays
    arrays = {
        name: np.concatenate([one.arrays[name] for one in parts if one.arrays], axis=IMAGE_AXIS.get(name, 0))
        for name in names
    }
    facts = {name: value for one in parts for name, value in one.facts.items()}
    return Outcome(_scores(parts, seed), arrays, _metadata(parts), facts)


def _metadata(parts: Sequence[Outcome]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in parts:
        for name, value in one.metadata.items():
            found[name] = [*found.get(name, []), *value] if name in BY_IMAGE else value
    return found


def _scores(parts: Sequence[Outcome], seed: int) -> list[Score]:
    """Rows of one statistic and layer follow one another, as in the first part; then their summary."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for one in parts:
        for score in one.scores:
            groups.setdefault((score.statistic, score.layer), []).append(score)
    rows: list[Score] = []
    for group in groups.values():
        pooled = [score for score in group if isinstance(score, Pooled)]
        rows += [summarize(pooled, seed)] if pooled else group
    unmeasured = _all_nan(rows, "flipped")
    return [row for row in rows if (row.statistic.removesuffix("_share"), row.layer) not in unmeasured]


def _all_nan(rows: Iterable[Score], statistic: str) -> set[tuple[str, str]]:
    """The statistic with each layer where no image has a value."""
    known: dict[str, bool] = {}
    for row in rows:
        if row.statistic == statistic:
            known[row.layer] = known.get(row.layer, False) or not math.isnan(row.value)
    return {(statistic, layer) for layer, measured in known.items() if not measured}


def summarize(parts: Sequence[Pooled], seed: int) -> Score:
    """The row of a summary from the values of all parts.

    Args:
        parts: of the same method, test, statistic and layer.
        seed: of the bootstrap.
    """
    first = parts[0]
    values = np.array([value for one in parts for value in one.values], dtype=np.float64)
    name = (first.method, first.test, first.statistic)
    if first.kind not in ("median", "share"):
        value, count = _plain(values, first.kind)
        return Score(*name, value, layer=first.layer, n=count)
    estimate, low, high, count = _interval(values, first.kind, seed)
    return Score(*name, estimate, layer=first.layer, ci_low=low, ci_high=high, n=count)


def _plain(values: NDArray[np.float64], kind: Kind) -> tuple[float, int]:
    """A summary without an interval, and the number of values behind it."""
    if kind == "middle":
        measured = values[~np.isnan(values)]
        return float(np.median(measured)) if measured.size else math.nan, measured.size
    if kind == "same":
        return float(values[0]), values.size
    return float(values.mean() if kind == "mean" else values.sum()), values.size


def _interval(values: NDArray[np.float64], kind: Kind, seed: int) -> tuple[float, float, float, int]:
    if kind == "share":
        share = share_interval(values, level=LEVEL)
        return share.estimate, share.low, share.high, share.n
    measured = values[~np.isnan(values)]
    if measured.size <= RESAMPLED:
        found = bootstrap_interval(values, level=LEVEL, seed=seed)
        return found.estimate, found.low, found.high, found.n
    ends = median_interval(measured, LEVEL, "bootstrap")
    return float(np.median(measured)), ends.low, ends.high, int(measured.size)


_INTERVAL = ("ci_low", "ci_high", "n")


def rows_of(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Scores as few dictionaries of columns: neighbors of one statistic and layer share one."""
    found: list[dict[str, Any]] = []
    for score in scores:
        kind = score.kind if isinstance(score, Pooled) else ""
        head = {"statistic": score.statistic, "layer": score.layer, "kind": kind}
        if isinstance(score, Pooled):
            found.append({**head, "values": list(score.values)})
            continue
        columns = ("image", "value", *(_INTERVAL if _has_interval(score) else ()))
        same = found and set(found[-1]) == {*head, *columns}
        if not same or any(found[-1][name] != value for name, value in head.items()):
            found.append({**head, **{name: [] for name in columns}})
        for name in columns:
            found[-1][name].append(getattr(score, name))
    return found


def _has_interval(score: Score) -> bool:
    return score.n != 1 or not (math.isnan(score.ci_low) and math.isnan(score.ci_high))


def scores_of(rows: Iterable[Mapping[str, Any]], method: str, test: str) -> list[Score]:
    """The scores that `rows_of` made columns of.

    Raises:
        KeyError: a column is missing.
        TypeError: one is of the wrong type.
        ValueError: two are of different length.
    """
    found: list[Score] = []
    for row in rows:
        name, layer, kind = row["statistic"], row["layer"], row["kind"]
        if kind:
            values = tuple(row["values"])
            found.append(Pooled(method, test, name, math.nan, layer=layer, values=values, kind=kind))
            continue
        columns = [column for column in ("image", "value", *_INTERVAL) if column in row]
        for values in zip(*(row[column] for column in columns), strict=True):
            found.append(Score(method, test, name, layer=layer, **dict(zip(columns, values, strict=True))))
    return found
