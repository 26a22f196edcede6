"""Cosines of many vectors, location by location, and the statistics of all of them together."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veridical.rules import Operation

PERCENTILES = (0, 1, 5, 10, 20, 50, 80, 95, 99, 100)
"""The percentiles that are reported for every layer: those of the code of Sixt et al. 2020."""

Scale = Literal["linear", "log", "sixt2020"]
"""Bins of a histogram: tenths of the cosine; quarters of a decade of 1 - cosine; or tenths up to 0.9 and then
0.99, 0.999, 0.9999 and 1, as in figure 5 of Sixt et al. 2020."""

_TENTHS = np.arange(21) / 10
_QUARTERS = np.concatenate([[0.0], 10.0 ** (np.arange(-64, 1) / 4), [2.0]])
_GRIDS: dict[Scale, NDArray[np.float64]] = {
    "linear": _TENTHS,
    "log": _QUARTERS,
    "sixt2020": np.concatenate([[0.0], 10.0 ** np.arange(-4.0, -1.0), _TENTHS[1:]]),
}
_EDGES = np.unique(np.concatenate([*_GRIDS.values()]))

_BLOCK = 2**17
"""Values in float64 that are compared at once: they stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often cosines lay between two edges.

    Attributes:
        edges: float64 (B + 1,) of 1 - cosine, ascending: the nearest to a cosine of 1 come first. A value at
            an edge belongs to the bin above it.
        counts: int64 (B,), numbers of cosines.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """The counts divided by their sum, float64 (B,); NaN where nothing was measured."""
        total = float(self.counts.sum())
        return self.counts / total if total else np.full(len(self.counts), np.nan)


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of one minus the cosines of a layer.

    Attributes:
        percentiles: float64, of 1 - cosine at 100 - p for each p of `PERCENTILES`; NaN for no values.
        mean: of 1 - cosine; NaN for no values.
        counts: int64, between the edges of all grids.
        missing: share of pairs and locations without a cosine.
        resolution: median 1 - cosine that rounding makes of two parallel vectors; NaN for no values.
        channels: length of the vectors.
    """

    percentiles: NDArray[np.float64]
    mean: float
    counts: NDArray[np.int64]
    missing: float
    resolution: float
    channels: int


@dataclass
class Pool:
    """One minus the cosines of a layer that were collected so far."""

    absolute: bool
    channels: int = 0
    complements: list[NDArray[np.float32]] = field(default_factory=list)
    rounding: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, relevance: Tensor, axis: int) -> None:
        """Add relevance (S + 1, N, ...) with its channels at an axis of (N, ...), 1 or -1.

        The last is that of the first starting vector once more, scaled; it shows the rounding.
        """
        rows = relevance.movedim(axis if axis < 0 else axis + 1, 1).flatten(2)
        self.channels = rows.shape[1]
        for block in rows.split(max(1, _BLOCK // rows[..., 0].numel()), dim=2):
            unit = _unit(block)
            pairs = [_complement(u, v, self.absolute) for u, v in combinations(unit[:-1], 2)]
            self.complements.append(_narrow(torch.stack(pairs)))
            self.rounding.append(_narrow(_complement(unit[0], unit[-1], self.absolute)))

    def summary(self) -> Summary:
        """The statistics of everything."""
        everything, rounding = (np.concatenate(parts) for parts in (self.complements, self.rounding))
        values = np.sort(everything[~np.isnan(everything)])
        levels = [100 - level for level in PERCENTILES]
        inner = np.searchsorted(values, _EDGES[1:-1].astype(np.float32))
        return Summary(
            percentiles=_percentiles(values, levels),
            mean=float(values.mean(dtype=np.float64)) if values.size else np.nan,
            counts=np.diff(np.concatenate([[0], inner, [values.size]])),
            missing=1 - values.size / everything.size,
            resolution=float(_percentiles(rounding[~np.isnan(rounding)], [50])[0]),
            channels=self.channels,
        )


def histogram(counts: NDArray[np.int64], scale: Scale, absolute: bool) -> Histogram:
    """The counts between all edges, summed to the bins of one scale."""
    edges = _GRIDS[scale]
    edges = edges[edges <= (1 if absolute else 2)]
    begins = np.searchsorted(_EDGES, edges[:-1])
    return Histogram(edges, np.add.reduceat(counts, begins))


def channel_axis(operation: Operation) -> int:
    """The axis of the channels of an operation's output (N, ...): 1, or -1 for rows and tokens.

    Linear layers, products of matrices and normalizations over the last axis put features last; what works
    value by value keeps the place that they have in its first input.
    """
    last: int | None = None
    while last is None:
        shape, maker = operation.output.shape, operation.makers[0]
        if operation.kind in ("linear", "matmul", "softmax") or operation.base in ("layer_norm", "rms_norm"):
            last = -1
        elif operation.kind in ("convolution", "batch_norm", "max_pool"):
            last = 1
        elif _keeps_axes(operation) and maker is not None and maker.output.shape == shape:
            operation = maker
        else:
            last = 1 if len(shape) > 3 else -1
    return last if len(shape) > 2 else -1


_ELEMENTWISE = frozenset({"activation", "sum", "shift", "scale", "product", "normalization"})
_COPIES = frozenset({"dropout", "clone", "contiguous"})


def _keeps_axes(operation: Operation) -> bool:
    return operation.kind in _ELEMENTWISE or operation.base in _COPIES


def _unit(rows: Tensor) -> Tensor:
    """Rows (S, C, P) as float64 vectors of length 1 over C; NaN where a vector is zero or not finite."""
    wide = rows.to(torch.float64)
    largest = wide.abs().amax(dim=1, keepdim=True)
    wide = wide / torch.where((largest > 0) & largest.isfinite(), largest, torch.nan)
    lengths: Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    return wide / lengths


def _complement(u: Tensor, v: Tensor, absolute: bool) -> Tensor:
    """1 - cosine, or 1 - |cosine|, of unit vectors (C, P), as (P,) in float64.

    For unit vectors u, v this is |u - v|^2 / 2, and 1 - |cosine| the smaller of that and |u + v|^2 / 2: no
    difference of nearly equal numbers, so that a convergence far below 1e-8 can still be seen.
    """
    apart = (u - v).square_().sum(dim=0)
    if absolute:
        apart = torch.minimum(apart, (u + v).square_().sum(dim=0))
    return apart / 2


def _narrow(values: Tensor) -> NDArray[np.float32]:
    """Single precision keeps the relative error of a complement near 0 below 1e-7."""
    return np.asarray(values.flatten().to("cpu", torch.float32).numpy())


def _percentiles(values: NDArray[np.float32], levels: list[int]) -> NDArray[np.float64]:
    """Percentiles in float64; NaN where nothing was measured."""
    if values.size == 0:
        return np.full(len(levels), np.nan)
    return np.asarray(np.percentile(values, levels), dtype=np.float64)
