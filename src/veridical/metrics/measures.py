"""Several measures of the likeness of the same pairs of maps, by name.

| name | compares | better | sign of the second map |
|---|---|---|---|
| `ssim` | maps as the protocol normalizes them | more | as the protocol says |
| `ssim-sixt2020`, `-adebayo2018`, `-plain` | maps as that protocol normalizes them | more | as it says |
| `mse` | maps as the protocol normalizes them | less | as the protocol says: the smaller of both signs |
| `pcc`, `spearman` | maps as they are | more | as it is |
| `abs-pcc`, `abs-spearman` | maps as they are | more | the better of both: the magnitude |
| `hog`, `hog-8` | maps divided by their largest magnitude | more | without effect |
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from veridical.checks import nearest_names
from veridical.metrics._pairs import check_pairs, paired
from veridical.metrics.correlation import pearson, spearman
from veridical.metrics.orientations import HOGS, hog_similarity
from veridical.metrics.protocols import (
    PROTOCOLS,
    MapSimilarity,
    SimilarityProtocol,
    map_error,
    map_similarity,
    protocol,
)

_AT_ONCE = 2**14
"""Values of the maps that are compared at a time: what lies between them stays in the processor's cache."""

_Measure = Callable[[Tensor, Tensor, SimilarityProtocol], Tensor]


def _always(name: str, first: Tensor, second: Tensor, how: SimilarityProtocol) -> Tensor:
    """SSIM under the named protocol, whatever the one of the others."""
    return map_similarity(first, second, name).values


def _hog(name: str, first: Tensor, second: Tensor, how: SimilarityProtocol) -> Tensor:
    return hog_similarity(first, second, name)


_MEASURES: dict[str, _Measure] = {
    "ssim": lambda first, second, how: map_similarity(first, second, how).values,
    "mse": map_error,
    "pcc": lambda first, second, how: pearson(first, second),
    "abs-pcc": lambda first, second, how: pearson(first, second).abs(),
    "spearman": lambda first, second, how: spearman(first, second),
    "abs-spearman": lambda first, second, how: spearman(first, second).abs(),
    **{name: partial(_hog, name) for name in HOGS},
    **{f"ssim-{name}": partial(_always, name) for name in PROTOCOLS},
}

MEASURES = tuple(_MEASURES)
"""The names of the measures; `ssim` and `mse` follow the protocol, the others do not depend on it."""


def check_measures(names: Sequence[str]) -> None:
    """Check names of measures.

    Raises:
        TypeError: if it is one name instead of several.
        ValueError: if one is unknown or given twice.
    """
    if isinstance(names, str):
        raise TypeError(f"expected names of measures, got the text {names!r}; use a tuple of names")
    for name in names:
        if name not in _MEASURES:
            raise ValueError(f"expected the name of a measure, got {name!r}; {nearest_names(name, MEASURES)}")
    if len(set(names)) < len(names):
        raise ValueError(f"expected different measures, got {', '.join(names)}; name each once")


def compare_maps(
    first: Tensor,
    second: Tensor,
    how: str | SimilarityProtocol = "sixt2020",
    measures: Sequence[str] = ("ssim",),
) -> tuple[MapSimilarity, dict[str, Tensor]]:
    """Every measure of the same pairs of maps.

    Args:
        first: maps (N, H, W), signed.
        second: maps of the same shape.
        how: protocol of `ssim` and `mse`, or its name.
        measures: names out of `MEASURES`.

    Returns:
        SSIM under the protocol with its sign flips, and each measure by its name, float64 (N,); NaN where a
        map is constant or not finite.

    Raises:
        TypeError: if one of the maps is no tensor.
        ValueError: if the shapes differ, are not (N, H, W) or too small, or a name is unknown.
    """
    check_measures(measures)
    check_pairs(first, second)
    chosen = protocol(how)
    count = max(1, _AT_ONCE // first[0].numel())
    pairs = zip(first.split(count), second.split(count), strict=True)
    parts = [_compared(one, other, chosen, measures) for one, other in pairs]
    similarity = MapSimilarity(
        *(torch.cat(values) for values in zip(*(part[0] for part in parts), strict=True))
    )
    return similarity, {name: torch.cat([part[1][name] for part in parts]) for name in measures}


def _compared(
    first: Tensor, second: Tensor, how: SimilarityProtocol, measures: Sequence[str]
) -> tuple[MapSimilarity, dict[str, Tensor]]:
    """`compare_maps` of some of the pairs."""
    similarity = map_similarity(first, second, how)
    a, b = paired(first, second)
    usable = torch.stack([_usable(maps.flatten(1)) for maps in (a, b)]).all(dim=0)
    found = {}
    for name in measures:
        values = similarity.values if name == "ssim" else _MEASURES[name](a, b, how)
        found[name] = torch.where(usable, values, torch.nan)
    return similarity, found


def _usable(rows: Tensor) -> Tensor:
    """Which rows are finite and not constant."""
    return rows.isfinite().all(dim=1) & (rows.amax(dim=1) > rows.amin(dim=1))
