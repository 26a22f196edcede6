"""Curves over layers as small PNG pictures (Matplotlib's Agg canvas, no pyplot state)."""

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

from veridical.report import words

INK = "#1f2328"
FAINT = "#6b7280"
LINE = "#1d5fa8"
FLOOR = 1e-8
TICKS = 7
DPI = 180
STROKES = ((LINE, "-"), ("#b3541e", "-"), (FAINT, "--"))


@dataclass(frozen=True)
class Curve:
    """Values over layers with an optional interval and an optional dashed baseline."""

    layers: Sequence[str]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    baseline: Sequence[float] = ()


@dataclass(frozen=True)
class Line:
    """Values over removed shares, with their interval."""

    name: str
    places: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Band:
    """A range of values over layers that is shaded around their median."""

    name: str
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A picture as a data URI with its caption, and what it shows in words."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Axis:
    """How the vertical axis is drawn, and what stands beneath the horizontal one."""

    label: str
    log: bool = False
    limits: tuple[float, float] | None = None
    below: str = ""


def curve_picture(curve: Curve, axis: Axis) -> str:
    """Return the curve as a data URI of a palette PNG (900 x 540 pixels, white background)."""
    figure, axes = _canvas()
    _draw(axes, curve, axis)
    _dress(axes, axis)
    _name_layers(axes, curve.layers)
    return _picture(figure)


def bands_picture(curve: Curve, bands: Sequence[Band], axis: Axis) -> str:
    """Return the curve in its bands, the widest first, as a data URI."""
    figure, axes = _canvas()
    places = np.arange(len(curve.layers))
    for shade, band in zip((0.14, 0.3, 0.45), bands, strict=False):
        low, high = _floored(band.low, axis), _floored(band.high, axis)
        axes.fill_between(places, low, high, color=LINE, alpha=shade, lw=0, label=band.name)
    axes.plot(places, _floored(curve.values, axis), color=LINE, lw=2, label="median")
    if np.isfinite(_floored(curve.baseline, axis)).any():
        axes.plot(places, _floored(curve.baseline, axis), "--", color=FAINT, lw=1.4, label="random vectors")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    _dress(axes, axis)
    _name_layers(axes, curve.layers)
    return _picture(figure)


def bars_picture(names: Sequence[str], shares: Sequence[float], axis: Axis) -> str:
    """Return horizontal bars with their names at the left, the first one on top, as a data URI."""
    figure, axes = _canvas()
    places = np.arange(len(names))
    axes.barh(places, shares, color=LINE, height=0.8)
    _dress(axes, axis)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#d9dde3", lw=0.7)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(axis.below, fontsize=10, color=INK)
    return _picture(figure)


def curve_alt(title: str, curve: Curve) -> str:
    """What a curve shows in words: its ends, and how many layers it is over."""
    first, last = words.number(curve.values[0]), words.number(curve.values[-1])
    return (
        f"Chart. {title}: {first} at {curve.layers[0]}, {last} at {curve.layers[-1]},"
        f" over {words.counted(len(curve.layers), 'layer')}."
    )


def lines_picture(lines: Sequence[Line], axis: Axis) -> str:
    """Return up to three named lines as a data URI, the last one dashed; their intervals are shaded."""
    figure, axes = _canvas()
    for line, (color, style) in zip(lines, STROKES, strict=False):
        axes.fill_between(line.places, line.low, line.high, color=color, alpha=0.12, lw=0)
        axes.plot(line.places, line.values, style, color=color, lw=2, marker="o", ms=3.5, label=line.name)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    axes.set_xlabel(axis.below, fontsize=10, color=INK)
    _dress(axes, axis)
    return _picture(figure)


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    count = len(layers)
    shown = np.unique(np.linspace(0, count - 1, min(count, TICKS)).round().astype(int))
    axes.set_xticks(shown, [_short(layers[place]) for place in shown], rotation=30, ha="right")
    axes.set_xlim(-0.5, max(count - 0.5, 0.5))


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 3.0), dpi=DPI, facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _picture(figure: Figure) -> str:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(pixels[..., :3].copy())
    buffer = io.BytesIO()
    picture.quantize(32, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _draw(axes: Axes, curve: Curve, axis: Axis) -> None:
    places = np.arange(len(curve.layers))
    values = _floored(curve.values, axis)
    if len(curve.low) == len(places) and np.isfinite(_floored(curve.low, axis)).any():
        axes.fill_between(
            places, _floored(curve.low, axis), _floored(curve.high, axis), color=LINE, alpha=0.2, lw=0
        )
    if len(curve.baseline) == len(places) and np.isfinite(_floored(curve.baseline, axis)).any():
        axes.plot(places, _floored(curve.baseline, axis), "--", color=FAINT, lw=1.4, label="random vectors")
        axes.plot([], [], color=LINE, lw=2, label="this method")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    axes.plot(places, values, color=LINE, lw=2, marker="o", ms=3.5 if len(places) < 30 else 2)


def _dress(axes: Axes, axis: Axis) -> None:
    if axis.log:
        axes.set_yscale("log")
    if axis.limits is not None:
        axes.set_ylim(*axis.limits)
    axes.set_ylabel(axis.label, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.minorticks_off()
    axes.grid(axis="y", color="#d9dde3", lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa3ad")


def _floored(values: Sequence[float], axis: Axis) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(numbers < FLOOR, FLOOR, numbers) if axis.log else numbers


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"…{name[-17:]}"
