"""Chains of random or given matrices: which of them forget where they started, and how fast?

Sixt et al. 2020, appendix B, figure 7: rows of random numbers are multiplied by one matrix after another, of
the shapes that the backward pass of VGG-16 has, and their cosines are measured after each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from veridical.checks import check_choice
from veridical.faithfulness._seeds import generator

Measure = Literal["coded", "worded"]
"""The mean over the lower triangle with its diagonal, as the authors' code; or the median without it, as the
paper says."""

VGG16_WIDTHS = (1000, 4096, 4096, *[512] * 6, *[256] * 3, 128, 128, 64, 64, 3)
"""Widths of the layers of VGG-16 from the logits to the image, the first dense layer seeing 512 channels."""


@dataclass(frozen=True)
class _Form:
    """The matrix plain W + magnitude |W|, and what is done around the product with it."""

    plain: float
    magnitude: float
    normalized: bool = False
    rectified: bool = False


_FORMS = {
    "vanilla": _Form(1, 0),
    "relu": _Form(1, 0, rectified=True),
    "stochastic": _Form(0, 1, normalized=True),
    "positive": _Form(0, 1),
    "non-negative": _Form(0.5, 0.5),
}

VARIANTS = tuple(_FORMS)
"""What becomes of W ~ N(0, 1): W itself; W, with negative numbers set to 0 after every product; |W| with
columns that sum to 1; |W|; max(0, W)."""


@dataclass(frozen=True)
class ChainSettings:
    """Which chains are simulated.

    Attributes:
        widths: of the rows, before the first product and after each.
        variants: names among `VARIANTS`.
        alphas: one more chain for each, alpha W+ + (alpha - 1) W-; 1 is "non-negative" again.
        vectors: rows at the start, N(0, 1), whose pairs are compared.
        repetitions: of everything.
        batch: repetitions in one pass; bounds the memory.
        seed: of the local generators, one for each repetition; all variants see the same draws.
    """

    widths: tuple[int, ...] = VGG16_WIDTHS
    variants: tuple[str, ...] = VARIANTS
    alphas: tuple[float, ...] = ()
    vectors: int = 32
    repetitions: int = 20
    batch: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check names and numbers.

        Raises:
            ValueError: if one is out of range.
        """
        for name in self.variants:
            check_choice("variant", name, VARIANTS)
        if not self.variants and not self.alphas:
            raise ValueError("expected at least one variant or alpha, got none; name one of VARIANTS")
        if any(not 1 <= alpha < float("inf") for alpha in self.alphas):
            raise ValueError(f"expected alphas of 1 or more, got {self.alphas}; beta is alpha - 1")
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"expected two positive widths or more, got {self.widths}; see VGG16_WIDTHS")
        if self.vectors < 2:
            raise ValueError(f"expected at least 2 vectors, got {self.vectors}; pairs are compared")
        if self.repetitions < 1 or self.batch < 1:
            raise ValueError(
                "expected one repetition and a batch of one or more, got "
                f"{self.repetitions} and {self.batch}; 20 and 2 are usual"
            )


@dataclass(frozen=True, eq=False)
class ChainConvergence:
    """One minus the |cosines| of the rows, for V variants, R repetitions and after 0, 1, ..., L products.

    Attributes:
        variants: V names; "alpha 2 beta 1" for one of `ChainSettings.alphas`.
        coded: float64 (V, R, L + 1), 1 - mean over pairs i >= j. The pairs of a row with itself are among
            them, so that 32 independent long rows start at 0.94 and not at 1.
        worded: float64 (V, R, L + 1), 1 - median over pairs i > j.
        nan_fraction: float64 (V, R, L + 1), share of pairs i > j without a cosine, because a row became 0.
            They are left out; where none is left, `coded` and `worded` are NaN.
        settings: how it was simulated.
    """

    variants: tuple[str, ...]
    coded: Tensor
    worded: Tensor
    nan_fraction: Tensor
    settings: ChainSettings

    def median(self, measure: Measure = "coded") -> Tensor:
        """Median over the repetitions that could be measured, float64 (V, L + 1)."""
        return self._of(measure).nanquantile(0.5, dim=1)

    def range(self, measure: Measure = "coded") -> tuple[Tensor, Tensor]:
        """Smallest and largest over the repetitions that could be measured, each float64 (V, L + 1)."""
        values = self._of(measure)
        return values.nanquantile(0.0, dim=1), values.nanquantile(1.0, dim=1)

    def _of(self, measure: Measure) -> Tensor:
        check_choice("measure", measure, get_args(Measure))
        return self.coded if measure == "coded" else self.worded


def row_complements(rows: Tensor) -> Tensor:
    """1 - |cosine| of all pairs i > j of rows (..., V, C), in float64 (..., V (V - 1) / 2); NaN for zeros.

    As half the squared distance of unit vectors, the second turned towards the first: nothing cancels, so
    values far below the 1e-16 of 1 - cosine are right.
    """
    wide = rows.double()
    largest = wide.abs().amax(dim=-1, keepdim=True)
    wide = wide / torch.where((largest > 0) & largest.isfinite(), largest, torch.nan)
    unit = wide / torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(unit, unit, compute_mode=exact)
    nearer = torch.minimum(apart, torch.cdist(unit, -unit, compute_mode=exact))
    first, second = torch.tril_indices(rows.shape[-2], rows.shape[-2], offset=-1)
    pairs: Tensor = nearer[..., first, second].square() / 2
    return pairs


def simulate_chains(**settings: Any) -> ChainConvergence:
    """Multiply rows of random numbers by random matrices, and measure how parallel they become.

    Everything is in float64, and rows are scaled after each product (cosines and ReLU do not notice), so that
    chains of any length neither overflow nor vanish.

    Source: Sixt et al. 2020, appendix B, figure 7, and the authors' code, which compares rows by the measure
    "coded"; the paper speaks of the median between columns.

    Args:
        settings: fields of `ChainSettings`: widths, variants, alphas, vectors, repetitions, batch, seed.

    Raises:
        TypeError: if a setting does not exist.
        ValueError: if a setting is out of range.
    """
    chosen = ChainSettings(**settings)
    # alpha W+ + (alpha - 1) W-, with W+ = (W + |W|) / 2 and W- = (W - |W|) / 2
    signed = [_Form(alpha - 0.5, 0.5) for alpha in chosen.alphas]
    forms = [*(_FORMS[name] for name in chosen.variants), *signed]
    swept = [f"alpha {alpha:g} beta {alpha - 1:g}" for alpha in chosen.alphas]
    parts = []
    for first in range(0, chosen.repetitions, chosen.batch):
        indices = range(first, min(first + chosen.batch, chosen.repetitions))
        sources = [generator(chosen.seed, index) for index in indices]
        start = _draw(sources, chosen.vectors, chosen.widths[0])
        drawn = (_draw(sources, *shape) for shape in pairwise(chosen.widths))
        parts.append(_measure(start, drawn, forms))
    return _assemble((*chosen.variants, *swept), parts, chosen)


def simulate_given(
    matrices: Sequence[Tensor], *, rectified: bool = False, name: str = "given", **settings: Any
) -> ChainConvergence:
    """Multiply rows of random numbers by given matrices; only the rows are drawn anew in each repetition.

    Sixt et al. 2020, figure 7: "ReLU learned" are the center taps of VGG-16 in the order of the backward pass
    with `rectified`, "pattern" those of the products of weights and patterns without.
    `RankOneAnalysis.backward_chain` gives both for any network.

    Args:
        matrices: (a, b), (b, c), ...; multiplied from the right.
        rectified: set negative numbers to 0 after every product.
        name: of the one variant in the result.
        settings: the fields vectors, repetitions, batch and seed of `ChainSettings`.

    Raises:
        TypeError: if a setting does not exist.
        ValueError: if the matrices do not fit, or a setting is out of range.
    """
    shapes = [tuple(matrix.shape) for matrix in matrices]
    fits = all(len(shape) == 2 for shape in shapes)
    if not shapes or not fits or any(left[1] != right[0] for left, right in pairwise(shapes)):
        raise ValueError(
            f"expected matrices (a, b), (b, c), ..., got shapes {shapes}; rows are multiplied from the right"
        )
    widths = (shapes[0][0], *(shape[1] for shape in shapes))
    chosen = replace(ChainSettings(**settings), widths=widths, variants=("relu" if rectified else "vanilla",))
    parts = []
    for first in range(0, chosen.repetitions, chosen.batch):
        indices = range(first, min(first + chosen.batch, chosen.repetitions))
        start = _draw([generator(chosen.seed, index) for index in indices], chosen.vectors, widths[0])
        given = (matrix.detach().to("cpu", torch.float64) for matrix in matrices)
        parts.append(_measure(start, given, [_FORMS[chosen.variants[0]]]))
    return _assemble((name,), parts, chosen)


def _draw(sources: Sequence[torch.Generator], rows: int, columns: int) -> Tensor:
    drawn = [torch.randn(rows, columns, generator=source, dtype=torch.float64) for source in sources]
    return torch.stack(drawn)


def _measure(start: Tensor, drawn: Iterator[Tensor], forms: Sequence[_Form]) -> Tensor:
    """Statistics (V, R, L + 1, 3) of all variants; each matrix is drawn once and then forgotten."""
    states = start.expand(len(forms), *start.shape)
    found = [_statistics(states)]
    for matrix in drawn:
        states = _products(states, matrix, forms)
        found.append(_statistics(states))
    return torch.stack(found, dim=2)


def _products(states: Tensor, matrix: Tensor, forms: Sequence[_Form]) -> Tensor:
    """The rows (V, R, rows, b) of all variants, by one product with W and one with |W|, each of (R, a, b)."""
    stacked = states.movedim(0, 1).flatten(1, 2)
    shape = (-1, len(forms), states.shape[2], matrix.shape[-1])
    plain, magnitudes = stacked @ matrix, matrix.abs()
    positive = stacked @ magnitudes if any(form.magnitude for form in forms) else plain
    signed, unsigned = (part.reshape(shape).movedim(1, 0) for part in (plain, positive))
    results = []
    for index, form in enumerate(forms):
        rows = form.plain * signed[index] + form.magnitude * unsigned[index]
        if form.normalized:
            rows = rows / magnitudes.sum(dim=-2, keepdim=True)
        results.append(rows.clamp(min=0) if form.rectified else rows)
    rows = torch.stack(results)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    return rows / torch.where(largest > 0, largest, 1)


def _statistics(rows: Tensor) -> Tensor:
    """For rows (..., rows, C): the two measures and the share of pairs without a cosine, (..., 3)."""
    pairs = row_complements(rows)
    alive = (rows != 0).any(dim=-1).sum(dim=-1)
    measured = (~pairs.isnan()).sum(dim=-1)
    # A row with itself has the complement 0, and counts where the row is not 0.
    coded = pairs.nansum(dim=-1) / torch.where(alive > 0, measured + alive, torch.nan)
    worded = pairs.nanquantile(0.5, dim=-1)
    return torch.stack([coded, worded, 1 - measured / pairs.shape[-1]], dim=-1)


def _assemble(
    variants: tuple[str, ...], parts: Sequence[Tensor], settings: ChainSettings
) -> ChainConvergence:
    coded, worded, missing = torch.cat(list(parts), dim=1).unbind(dim=-1)
    return ChainConvergence(variants, coded, worded, missing, settings)
