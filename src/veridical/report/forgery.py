"""The pictures of one attack: what it did to the image, and what it did to the map."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from veridical.report.pictures import CLIP, SEQUENTIAL, Array, amplification, scale

DPI = 150
SMALL = 8


@dataclass(frozen=True)
class AttackPictures:
    """What the figure of an attack shows.

    Args:
        clean: the image before, (C, H, W) in [0, 1].
        manipulated: the image after.
        maps: (H, W) each: "original", "target" and "manipulated"; non-negative.
        title: above everything.
        captions: below the title of a panel: of "clean", "manipulated" and the three maps with the ending
            " map"; a panel without one has only its title.
    """

    clean: Array
    manipulated: Array
    maps: Mapping[str, Array]
    title: str
    captions: Mapping[str, str]

    @property
    def factor(self) -> float:
        """By which the change of the image is multiplied in the figure: 1, 2 or 5 times a power of ten."""
        return amplification((self.manipulated - self.clean).astype(np.float32))

    @property
    def limit(self) -> float:
        """The value with the brightest color in all three maps: the largest of their 99.5th percentiles.

        1 where all maps are zero.
        """
        found = [scale(values) for values in self.maps.values()]
        return (float(np.nanmax(found)) if np.isfinite(found).any() else 0.0) or 1.0


def attack_pictures(shown: AttackPictures) -> dict[str, bytes]:
    """PNG files by their names: the figure, and each of its maps pixel by pixel in the figure's colors.

    The same input gives the same bytes.
    """
    found = {"figure.png": _figure(shown)}
    for name, values in shown.maps.items():
        colors = colormaps[SEQUENTIAL](np.clip(values / shown.limit, 0, 1), bytes=True)
        found[f"map-{name}.png"] = _png(Image.fromarray(np.ascontiguousarray(colors[..., :3])))
    return found


def _figure(shown: AttackPictures) -> bytes:
    height, width = shown.clean.shape[1:]
    tall = 3.0 * min(max(height / width, 0.4), 2.5)
    figure = Figure(figsize=(9.4, 2 * tall + 1.7), dpi=DPI, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3)
    figure.suptitle(shown.title, fontsize=11)
    _images(shown, panels[0])
    _maps(shown, panels[1], figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return _png(Image.fromarray(pixels[..., :3].copy()))


def _images(shown: AttackPictures, panels: NDArray[np.object_]) -> None:
    factor = shown.factor
    difference = 0.5 + factor * (shown.manipulated - shown.clean)
    _panel(panels[0], "image", shown.captions.get("clean"))
    _panel(panels[1], "manipulated image", shown.captions.get("manipulated"))
    _panel(panels[2], f"change of the image, times {factor:g}", "gray: no change")
    for axes, image in zip(panels, (shown.clean, shown.manipulated, difference), strict=True):
        pixels = np.clip(np.nan_to_num(image), 0, 1).transpose(1, 2, 0)
        axes.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)


def _maps(shown: AttackPictures, panels: NDArray[np.object_], figure: Figure) -> None:
    titles = {
        "original": "map of the image", "target": "target map", "manipulated": "map of the manipulated image"
    }  # fmt: skip
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        _panel(axes, title, shown.captions.get(f"{name} map"))
        axes.imshow(shown.maps[name], cmap=SEQUENTIAL, vmin=0, vmax=shown.limit, interpolation="nearest")
    colors = ScalarMappable(Normalize(0, shown.limit), SEQUENTIAL)
    bar = figure.colorbar(
        colors, ax=list(panels), orientation="horizontal", fraction=0.05, pad=0.03, aspect=60, extend="max"
    )  # fmt: skip
    bar.set_ticks([shown.limit * part / 4 for part in range(5)])
    bar.ax.set_xticklabels([f"{shown.limit * part / 4:.3g}" for part in range(5)], fontsize=SMALL)
    bar.set_label(
        f"share of the map in a pixel; one scale for all three, cut at {shown.limit:.3g}, the largest of "
        f"their {CLIP:g}th percentiles",
        fontsize=SMALL,
    )


def _panel(axes: Axes, title: str, caption: str | None) -> None:
    axes.set_axis_off()
    axes.set_title(title if caption is None else f"{title}\n{caption}", fontsize=SMALL + 1)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
