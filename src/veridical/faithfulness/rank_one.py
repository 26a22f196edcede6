"""How near the matrices of each layer are to rank one, and how well neighboring layers are aligned.

Sixt et al. 2020, section 4.2 and figure 3: a chain of matrices converges to rank one where the largest
singular values dominate and meet each other in the next layer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import check_choice, check_inputs
from veridical.rules import Application, Operation, Trace, applications, record

Quantity = Literal["weight", "pattern", "product"]
"""W, the patterns A, or their elementwise product W * A."""

_CROSSED = frozenset(
    "activation max_pool average_pool structure shift scale normalization batch_norm sum".split()
)
"""Kinds of operations that may lie between two neighboring layers."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one matrix.

    Attributes:
        values: float64 (r,), all of them, the largest first.
    """

    values: Tensor

    @property
    def ratio(self) -> float:
        """sigma_1 / sigma_2: infinite for rank one, NaN for a matrix of zeros."""
        return ratio_of(self.values)

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the singular values as shares of their sum; NaN for zeros.

        Source: Roy and Vetterli 2007, "The effective rank".
        """
        return effective_rank_of(self.values)


@dataclass(frozen=True, eq=False)
class LayerSpectra:
    """The matrices of one affine map, by "weight", and with patterns "pattern" and "product".

    Attributes:
        name: of the operation; of the layer where batch normalization is folded into it.
        full: of the matrix (kh kw cin, cout) of a convolution, (in, out) of a linear layer.
        center: of the center tap (cin, cout), at [kh // 2, kw // 2]; of the central pixel's weights for a
            linear layer that sees a flattened feature map; else of the same matrix as `full`.
    """

    name: str
    full: dict[str, Spectrum]
    center: dict[str, Spectrum]


@dataclass(frozen=True, eq=False)
class LayerPair:
    """Two layers, one above the other, with T = sqrt(S_l) V_l^T U_(l+1) sqrt(S_(l+1)) of their center taps.

    Attributes:
        lower: name of the layer nearer the image.
        upper: name of the layer that sees its output.
        between: the singular values of T, by "weight", and with patterns "pattern" and "product".
    """

    lower: str
    upper: str
    between: dict[str, Spectrum]


@dataclass(frozen=True, eq=False)
class RankOneAnalysis:
    """Spectra of the layers of a network.

    Attributes:
        layers: in the order of execution.
        pairs: the neighbors whose widths fit, in the same order.
        taps: center taps (cin, cout) in float64, one dictionary by quantity for each of `layers`.
    """

    layers: tuple[LayerSpectra, ...]
    pairs: tuple[LayerPair, ...]
    taps: tuple[dict[str, Tensor], ...]

    def ratios(self, quantity: Quantity = "weight", *, center: bool = False) -> dict[str, float]:
        """sigma_1 / sigma_2 of each layer (figure 3a, or 3b for the center taps), by its name."""
        self._check(quantity)
        return {one.name: (one.center if center else one.full)[quantity].ratio for one in self.layers}

    def pair_ratios(self, quantity: Quantity = "weight") -> dict[tuple[str, str], float]:
        """sigma_1 / sigma_2 of the matrices between neighbors (figure 3c), by both names."""
        self._check(quantity)
        return {(pair.lower, pair.upper): pair.between[quantity].ratio for pair in self.pairs}

    def backward_chain(self, quantity: Quantity = "weight") -> list[Tensor]:
        """The transposed center taps (cout, cin), last layer first, for `simulate_given`.

        A layer whose width does not fit that of the one above it, such as one beside the main path, is left
        out.
        """
        self._check(quantity)
        chain: list[Tensor] = []
        for taps in reversed(self.taps):
            matrix = taps[quantity].T
            if not chain or chain[-1].shape[1] == matrix.shape[0]:
                chain.append(matrix)
        return chain

    def _check(self, quantity: str) -> None:
        check_choice("quantity", quantity, get_args(Quantity))
        if quantity not in self.taps[0]:
            raise ValueError(
                f"expected an analysis with patterns for {quantity!r}, got one of the weights alone; pass "
                "patterns=fit_patterns(model, batches).active"
            )


def ratio_of(values: Tensor) -> float:
    """sigma_1 / sigma_2 of descending singular values: infinite for rank one, NaN for a matrix of zeros."""
    if not len(values) or not values[0] > 0:
        return float("nan")
    return float(values[0] / values[1]) if len(values) > 1 else float("inf")


def effective_rank_of(values: Tensor) -> float:
    """exp(entropy) of singular values as shares of their sum (Roy and Vetterli 2007); NaN for zeros."""
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def inter_layer(lower: Tensor, upper: Tensor) -> Tensor:
    """T = sqrt(S_l) V_l^T U_(l+1) sqrt(S_(l+1)) of two layers in the orientation (cin, cout).

    W_l = U_l S_l V_l^T. Zeros with which the spectra could be padded to full size change none of the singular
    values of T but add zeros; they are left out.

    Source: Sixt et al. 2020, section 4.2, and the authors' code.

    Args:
        lower: (a, b), of the layer nearer the image.
        upper: (b, c).

    Returns:
        (min(a, b), min(b, c)).

    Raises:
        ValueError: if the widths do not fit.
    """
    if lower.dim() != 2 or upper.dim() != 2 or lower.shape[1] != upper.shape[0]:
        raise ValueError(
            f"expected matrices (a, b) and (b, c), got {tuple(lower.shape)} and {tuple(upper.shape)}; both "
            "have the orientation (inputs, outputs)"
        )
    _, below, right = torch.linalg.svd(lower, full_matrices=False)
    left, above, _ = torch.linalg.svd(upper, full_matrices=False)
    between: Tensor = below.sqrt()[:, None] * (right @ left) * above.sqrt()
    return between


def rank_one_analysis(
    model: nn.Module,
    inputs: Tensor,
    *,
    patterns: Mapping[str, Tensor] | None = None,
    fold_batch_norm: bool = True,
) -> RankOneAnalysis:
    """Singular values of every affine layer, and of the matrices between neighboring layers.

    All of them are computed in float64 by full decompositions. Grouped convolutions count as the block
    diagonal matrix that they are; batch normalization that is not folded as a diagonal one.

    The neighbor of a layer is the last affine map on whose output its input depends without another between,
    through activations, pooling, reshaping and sums. Pairs of different widths are left out.

    Source: Sixt et al. 2020, sections 4.1 and 4.2, figure 3.

    Args:
        model: any network that the engine can record.
        inputs: (N, C, H, W); only the shape of the first matters.
        patterns: of each operation by name, of the shape of its weight: `fit_patterns(...).active`.
        fold_batch_norm: take a batch normalization and the layer before it as one map, as patterns do.

    Raises:
        ValueError: if the network has no affine layer, or a pattern is missing or has another shape.
    """
    check_inputs(inputs)
    trace = record(model, inputs[:1].detach())
    found = applications(trace, fold_batch_norm)
    if not found:
        raise ValueError("expected a network with convolutions or linear layers, got none of them")
    weights = [_tensors(at, patterns) for at in found]
    layers, taps = [], []
    for at, tensors in zip(found, weights, strict=True):
        center = {name: _center(trace, at, tensor) for name, tensor in tensors.items()}
        layers.append(
            LayerSpectra(
                at.name,
                {name: Spectrum(_values(_full(at, tensor))) for name, tensor in tensors.items()},
                {name: Spectrum(_values(matrix)) for name, matrix in center.items()},
            )
        )
        taps.append(center)
    pairs = [
        LayerPair(found[low].name, found[high].name, _between(taps[low], taps[high]))
        for low, high in _neighbors(trace, found)
        if taps[low]["weight"].shape[1] == taps[high]["weight"].shape[0]
    ]
    return RankOneAnalysis(tuple(layers), tuple(pairs), tuple(taps))


def _tensors(at: Application, patterns: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    weight = at.affine.weight.detach().to("cpu", torch.float64)
    if patterns is None:
        return {"weight": weight}
    if at.name not in patterns or patterns[at.name].shape != weight.shape:
        got = tuple(patterns[at.name].shape) if at.name in patterns else "none"
        raise ValueError(
            f"expected a pattern of shape {tuple(weight.shape)} for {at.name}, got {got}; fit the patterns "
            "for this network, with the same fold_batch_norm"
        )
    pattern = patterns[at.name].detach().to("cpu", torch.float64)
    return {"weight": weight, "pattern": pattern, "product": weight * pattern}


def _full(at: Application, tensor: Tensor) -> list[Tensor]:
    """The blocks (in, out) of a layer's matrix, one for each group."""
    if at.affine.dims < 0:
        return list(tensor.reshape(-1, 1, 1))
    return [group.flatten(1).T for group in tensor.chunk(at.affine.groups)]


def _center(trace: Trace, at: Application, tensor: Tensor) -> Tensor:
    """The center tap (cin, cout)."""
    if at.affine.dims < 0:
        return torch.diag(tensor)
    if at.affine.dims == 0:
        return _central_pixel(trace.operation(at.name), tensor)
    tap = tensor
    for size in tensor.shape[2:]:
        tap = tap.select(2, size // 2)
    blocks: Tensor = torch.block_diag(*(group.T for group in tap.chunk(at.affine.groups)))
    return blocks


def _central_pixel(operation: Operation, weight: Tensor) -> Tensor:
    """The part (C, out) of a linear layer's weights that sees the middle of a flattened map (C, H, W)."""
    seen, maker = operation.sources[0], operation.makers[0]
    while maker is not None and maker.kind == "structure" and seen.dim() != 4:
        seen, maker = maker.sources[0], maker.makers[0]
    if operation.sources[0].dim() != 2 or seen.dim() != 4 or seen[0].numel() != weight.shape[1]:
        return weight.T
    taps = weight.reshape(len(weight), *seen.shape[1:])
    return taps[:, :, seen.shape[2] // 2, seen.shape[3] // 2].T


def _values(matrix: Tensor | list[Tensor]) -> Tensor:
    blocks = matrix if isinstance(matrix, list) else [matrix]
    return torch.cat([torch.linalg.svdvals(block) for block in blocks]).sort(descending=True).values


def _between(lower: dict[str, Tensor], upper: dict[str, Tensor]) -> dict[str, Spectrum]:
    return {name: Spectrum(_values(inter_layer(lower[name], upper[name]))) for name in lower}


def _neighbors(trace: Trace, found: list[Application]) -> Iterator[tuple[int, int]]:
    """Places in `found` of each layer's neighbor below, and of the layer."""
    places = {id(at.operation): place for place, at in enumerate(found)}
    for place, at in enumerate(found):
        below = _affine_below(trace.operation(at.name), places)
        if below:
            yield max(below), place


def _affine_below(operation: Operation, places: dict[int, int]) -> set[int]:
    waiting = list(operation.makers)
    known: set[int] = set()
    reached = set()
    while waiting:
        maker = waiting.pop()
        if maker is None or id(maker) in known:
            continue
        known.add(id(maker))
        if id(maker) in places:
            reached.add(places[id(maker)])
        elif maker.kind in _CROSSED:
            waiting.extend(maker.makers)
    return reached
