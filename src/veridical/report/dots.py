"""Dots with intervals, one row a name, as a small PNG picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from veridical.report.curves import DPI, FAINT, INK, LINE

SECOND = "#b3541e"
ROW_HEIGHT = 0.26
LONGEST = 26


@dataclass(frozen=True)
class Dots:
    """Values of all rows under one name, with their intervals; NaN is not drawn."""

    name: str
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """The horizontal axis, and the vertical lines across it: a name with its place."""

    label: str
    limits: tuple[float, float]
    marks: tuple[tuple[str, float], ...] = ()
    log: bool = False


def dots_picture(names: Sequence[str], series: Sequence[Dots], scale: Scale) -> str:
    """One or two series of dots over named rows, the first row on top, as a data URI of a palette PNG."""
    height = 1.1 + ROW_HEIGHT * len(names)
    figure = Figure(figsize=(5.0, height), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    if scale.log:
        axes.set_xscale("log")
    axes.set_xlim(*scale.limits)
    _draw(axes, names, series)
    for (label, place), style in zip(scale.marks, ("--", ":"), strict=False):
        axes.axvline(place, color=FAINT, lw=1.4, ls=style, label=label)
    if len(series) + len(scale.marks) > 1:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)
    _dress(axes, names, scale.label)
    return _uri(figure)


def _draw(axes: Axes, names: Sequence[str], series: Sequence[Dots]) -> None:
    rows = np.arange(len(names))
    for place, (dots, color) in enumerate(zip(series, (LINE, SECOND), strict=False)):
        shift = 0.0 if len(series) == 1 else 0.16 * (2 * place - 1)
        axes.hlines(rows + shift, list(dots.low), list(dots.high), color=color, lw=2.4, alpha=0.45)
        marker = "od"[place]
        axes.plot(list(dots.values), rows + shift, marker, color=color, ms=5, label=dots.name)


def _dress(axes: Axes, names: Sequence[str], label: str) -> None:
    shown = [name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}" for name in names]
    axes.set_yticks(range(len(names)), shown)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#d9dde3", lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#9aa3ad")


def _uri(figure: Figure) -> str:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., :3].copy())
    picture.quantize(32, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
