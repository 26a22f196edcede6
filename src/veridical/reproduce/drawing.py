"""How the figures of all papers are drawn alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from veridical.metrics import box


def sheet(columns: int = 1, rows: int = 1, size: tuple[float, float] = (5.2, 3.8)) -> tuple[Figure, Any]:
    """A figure with a grid of axes, always (rows, columns), that is not known to pyplot."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def boxes(axes: Any, values: Mapping[str, NDArray[np.float64]]) -> None:
    """A box for each name: 25 and 75 %, whiskers at 10 and 90 %, a notch for the median's interval."""
    drawn = []
    for name, one in values.items():
        found = box(one)
        if found.n:
            drawn.append({
                "label": f"{name}\nn = {found.n}", "med": found.median, "q1": found.q25, "q3": found.q75,
                "whislo": found.q10, "whishi": found.q90,
            })  # fmt: skip
    if drawn:
        axes.bxp(drawn, showfliers=False)
    axes.tick_params(axis="x", labelsize=7, labelrotation=30)
    axes.grid(axis="y", alpha=0.3)


def band(axes: Any, where: Sequence[float], values: NDArray[np.float64], label: str, **style: Any) -> None:
    """The median over the last axis of (L, N), with a band from 10 to 90 %; nothing where all is NaN."""
    seen = [not np.isnan(row).all() for row in values]
    places = np.asarray(where)[seen]
    kept = values[seen]
    if not len(kept):
        return
    low, middle, high = np.nanquantile(kept, [0.1, 0.5, 0.9], axis=1)
    line = axes.plot(places, middle, label=label, **style)[0]
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
