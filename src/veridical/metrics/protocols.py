"""Named ways to score the likeness of two attribution maps; an unnamed "SSIM" of maps means nothing.

| name | maps before the comparison | window | data range | sign |
|---|---|---|---|---|
| `sixt2020` | percentiles to [0, 1], inverted as in the authors' code | 5 | 2 | larger of both signs |
| `adebayo2018` | divided by their largest magnitude, so within [-1, 1] | 5 | 2 | as it is |
| `plain` | as they are | 7 | joint range of the pair | as it is |
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from veridical.checks import nearest_names
from veridical.metrics._pairs import paired
from veridical.metrics.correlation import mse
from veridical.metrics.structural import Kernel, ssim

Normalization = Literal["percentile", "magnitude", "none"]


@dataclass(frozen=True)
class SimilarityProtocol:
    """How two signed maps are normalized and compared by SSIM.

    Attributes:
        name: the paper or convention.
        normalization: `"percentile"` (see `percentile`), `"magnitude"` (divide by max|map|) or `"none"`.
        percentile: q of the percentile normalization, in (50, 100].
        swapped: with True the map becomes (x - P_q) / (P_(100-q) - P_q), as the code of Sixt et al. computes
            it: 1 for the lowest and 0 for the highest relevance. With False it is (x - P_(100-q)) /
            (P_q - P_(100-q)). Both are clipped to [0, 1].
        flip: take the larger score of the second map and of its negative.
        window: side of the SSIM window.
        data_range: span of the values for SSIM; None is the joint range of the two normalized maps.
        kernel: SSIM window, `"uniform"` or `"gaussian"`.
    """

    name: str
    normalization: Normalization = "none"
    percentile: float = 99.5
    swapped: bool = True
    flip: bool = False
    window: int = 7
    data_range: float | None = None
    kernel: Kernel = "uniform"

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: if one of them does not exist or is out of range.
        """
        if self.normalization not in ("percentile", "magnitude", "none"):
            raise ValueError(
                f"expected normalization 'percentile', 'magnitude' or 'none', got {self.normalization!r}; "
                "choose one of them"
            )
        if not 50 < self.percentile <= 100:
            raise ValueError(
                f"expected a percentile above 50 and up to 100, got {self.percentile}; Sixt et al. use 99.5"
            )


PROTOCOLS: dict[str, SimilarityProtocol] = {
    "sixt2020": SimilarityProtocol(
        "sixt2020", normalization="percentile", flip=True, window=5, data_range=2.0
    ),
    "adebayo2018": SimilarityProtocol("adebayo2018", normalization="magnitude", window=5, data_range=2.0),
    "plain": SimilarityProtocol("plain"),
}
"""The protocols by name."""


class MapSimilarity(NamedTuple):
    """Scores of N pairs of maps.

    Attributes:
        values: float64 (N,), SSIM in [-1, 1]; NaN where a map is constant after normalization.
        flipped: bool (N,), True where the negative of the second map scored higher than the map itself.
    """

    values: Tensor
    flipped: Tensor


def protocol(name: str | SimilarityProtocol, **changes: Any) -> SimilarityProtocol:
    """A protocol by name, with fields changed by keyword, for example `protocol("sixt2020", swapped=False)`.

    Args:
        name: one of `PROTOCOLS`, or a protocol of your own, which is passed through.
        changes: fields of `SimilarityProtocol`.

    Returns:
        The protocol.

    Raises:
        ValueError: if the name is unknown or a changed field is out of range.
        TypeError: if a keyword is no field.
    """
    if isinstance(name, SimilarityProtocol):
        return replace(name, **changes)
    if name not in PROTOCOLS:
        raise ValueError(f"expected a similarity protocol, got {name!r}; {nearest_names(name, PROTOCOLS)}")
    return replace(PROTOCOLS[name], **changes)


def normalize(maps: Tensor, how: SimilarityProtocol) -> Tensor:
    """Maps (N, H, W) as the protocol compares them, in float64; NaN where it is undefined (constant maps)."""
    rows = maps.to(torch.float64).flatten(1)
    constant = rows.amax(dim=1, keepdim=True) == rows.amin(dim=1, keepdim=True)
    if how.normalization == "percentile":
        share = torch.tensor([how.percentile / 100, 1 - how.percentile / 100], dtype=rows.dtype)
        high, low = torch.quantile(rows, share.to(rows.device), dim=1)[:, :, None]
        origin, end = (high, low) if how.swapped else (low, high)
        spread = torch.where(end == origin, torch.nan, end - origin)
        rows = ((rows - origin) / spread).clamp(0.0, 1.0)
    elif how.normalization == "magnitude":
        largest = rows.abs().amax(dim=1, keepdim=True)
        rows = rows / torch.where(largest > 0, largest, torch.nan)
    return torch.where(constant, torch.nan, rows).reshape(maps.shape)


def mirrored(normalized: Tensor, how: SimilarityProtocol) -> Tensor:
    """What `normalize` makes of the negative maps, from what it made of the maps."""
    return 1 - normalized if how.normalization == "percentile" else -normalized


def _score(first: Tensor, second: Tensor, how: SimilarityProtocol) -> Tensor:
    wide: float | Tensor
    if how.data_range is None:
        both = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
        wide = both.amax(dim=1) - both.amin(dim=1)
    else:
        wide = how.data_range
    return ssim(first, second, window=how.window, data_range=wide, kernel=how.kernel)


def map_similarity(
    first: Tensor, second: Tensor, how: str | SimilarityProtocol = "sixt2020"
) -> MapSimilarity:
    """SSIM of pairs of maps under a named protocol.

    Source: Sixt et al. 2020, section 3 and the authors' code; Adebayo et al. 2018.

    Args:
        first: maps (N, H, W), signed.
        second: maps of the same shape.
        how: protocol or its name.

    Returns:
        One score for each pair, and whether the sign flip won.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ, are not (N, H, W), or the protocol is unknown.
    """
    chosen = protocol(how)
    a, b = _pairs_of_maps(first, second)
    first, second = normalize(a, chosen), normalize(b, chosen)
    values = _score(first, second, chosen)
    if not chosen.flip:
        return MapSimilarity(values, torch.zeros_like(values, dtype=torch.bool))
    negative = _score(first, mirrored(second, chosen), chosen)
    return MapSimilarity(torch.maximum(values, negative), negative > values)


def map_error(first: Tensor, second: Tensor, how: str | SimilarityProtocol = "sixt2020") -> Tensor:
    """Mean squared difference of pairs of maps after a protocol's normalization; less is better.

    Where the protocol looks at both signs of the second map it is the smaller of the two.

    Args:
        first: maps (N, H, W), signed.
        second: maps of the same shape.
        how: protocol or its name; window and data range have no effect.

    Returns:
        float64 (N,): at most 1 for `sixt2020` and 4 for `adebayo2018`, in squared units of the maps for
        `plain`; NaN where a map is constant after normalization.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ, are not (N, H, W), or the protocol is unknown.
    """
    chosen = protocol(how)
    a, b = _pairs_of_maps(first, second)
    first, second = normalize(a, chosen), normalize(b, chosen)
    error = mse(first, second)
    return torch.minimum(error, mse(first, mirrored(second, chosen))) if chosen.flip else error


def _pairs_of_maps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    a, b = paired(first, second)
    if a.dim() != 3:
        raise ValueError(f"expected maps of shape (N, H, W), got {tuple(a.shape)}; reduce the channels first")
    return a, b
