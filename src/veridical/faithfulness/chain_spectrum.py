"""The singular values of the whole backward chain of a method, without ever forming its layers' matrices.

Sixt et al. 2020, section 3, name sigma_1 / sigma_2 of the chain as the well-founded measure of convergence,
and turn to cosines for its cost. From the logits the chain has few rows, and all of it can be had.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, nn

from veridical.checks import check_choice, check_inputs, check_method, nearest_names
from veridical.faithfulness._cosines import channel_axis
from veridical.faithfulness._seeds import generator
from veridical.faithfulness.rank_one import effective_rank_of, ratio_of
from veridical.rules import Operation, RuleSet, Trace, propagate, record
from veridical.values import Explainer

Solver = Literal["exact", "iterative"]
"""All unit vectors at the start; or products with the chain and with its transpose."""

EXACT = 1024
"""Up to so many numbers at the start, `solver=None` sends all unit vectors."""


@dataclass(frozen=True)
class SpectrumSettings:
    """Which chain is decomposed, and how.

    Attributes:
        start: name of the operation at whose output the chain begins; None is the logits.
        layer: name of the operation at whose output it ends; None is the image.
        solver: "exact", "iterative", or None for the first up to 1024 numbers at the start.
        count: singular values that the iterative solver finds, at least 2.
        vectors: unit vectors in one pass of the exact solver; bounds the memory.
        first_index: index of the first image, for the iterative solver's own starting vector.
        seed: of that vector.
    """

    start: str | None = None
    layer: str | None = None
    solver: Solver | None = None
    count: int = 4
    vectors: int = 32
    first_index: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: if a number is out of range or the solver is unknown.
        """
        if self.solver is not None:
            check_choice("solver", self.solver, get_args(Solver))
        if self.count < 2:
            raise ValueError(f"expected a count of at least 2, got {self.count}; the ratio needs two values")
        if self.vectors < 1:
            raise ValueError(f"expected at least one vector in a pass, got {self.vectors}; 32 is usual")
        if self.first_index < 0:
            raise ValueError(f"expected a non-negative index, got {self.first_index}; the first image has 0")


@dataclass(frozen=True, eq=False)
class ChainSpectrum:
    """Singular values of the chain at each of N images.

    Attributes:
        start: name of the operation where the chain begins.
        layer: name of the operation where it ends; "input" for the image.
        solver: that was used.
        singular_values: float64 (N, r), the largest first: all, or the first `count` of the iterative solver.
        ratio: float64 (N,), sigma_1 / sigma_2; infinite for rank one, NaN for a chain of zeros.
        effective_rank: float64 (N,), exp(entropy) of all singular values; NaN from the iterative solver.
        residual: float64 (N,), the largest |C v_i - sigma_i u_i| / sigma_1 of the first two, C v_i by a
            product with the chain of its own. Rounding for methods that are linear in the relevance. For
            others (guided-backprop, deconvnet, rectgrad, clipped sums) it is large: the singular values then
            are those of the maps of all unit vectors, and say nothing of other vectors.
        local_ratio: float64 (N, P), sigma_1 / sigma_2 at each of P locations over the channels, what the
            cosines of `cosine_convergence` see; NaN where no relevance arrives and from the iterative solver.
        settings: how it was measured.
    """

    start: str
    layer: str
    solver: Solver
    singular_values: Tensor
    ratio: Tensor
    effective_rank: Tensor
    residual: Tensor
    local_ratio: Tensor
    settings: SpectrumSettings


def chain_spectrum(model: nn.Module, inputs: Tensor, method: Explainer, **settings: Any) -> ChainSpectrum:
    """sigma_1 / sigma_2 and effective rank of the matrix that carries relevance from a layer to the image.

    The matrix C of an image has one column for each number at the start and one row for each number at the
    end. "exact" sends all unit vectors down and decomposes what arrives, without squaring it. "iterative"
    finds the largest singular values (ARPACK) from products with C and with its transpose, the derivative of
    <C v, u> with respect to v; it is refused for methods that are not linear. Products have the precision of
    the model: in float32 a sigma_2 / sigma_1 below 1e-6 is noise, `model.double()` reaches 1e-14.

    C is of rank one exactly where all starting vectors arrive in one direction, as the whole image; CSC
    compares directions location by location, where `local_ratio` is the counterpart.

    Source: Sixt et al. 2020, section 3 (sigma_1(C_k) / sigma_2(C_k)).

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W); one image is worked on at a time.
        method: a method with propagation rules.
        settings: fields of `SpectrumSettings`: start, layer, solver, count, vectors, first_index, seed.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if the method has no rules, a setting is out of range or names no operation, the layer
            does not lie below the start, or an iterative solver meets a method that is not linear or fewer
            numbers than singular values.
    """
    chosen = SpectrumSettings(**settings)
    rules = _rules_of(method)
    check_inputs(inputs)
    found = []
    for index in range(len(inputs)):
        image = inputs[index : index + 1].detach()
        chain = _Chain(record(model, image), rules, chosen)
        iterative = (chosen.solver or ("exact" if chain.size <= EXACT else "iterative")) == "iterative"
        if not iterative:
            found.append(_exact(chain, chosen))
            continue
        # Only where the image requires a gradient is what arrives differentiable in what starts.
        differentiable = _Chain(record(model, image.clone().requires_grad_()), rules, chosen)
        found.append(_iterative(chain, differentiable, chosen.first_index + index))
    values = torch.stack([one.values for one in found])
    nowhere = torch.full((len(inputs),), torch.nan, dtype=torch.float64)
    return ChainSpectrum(
        start=chain.start,
        layer=chosen.layer or "input",
        solver="iterative" if iterative else "exact",
        singular_values=values,
        ratio=torch.tensor([ratio_of(one) for one in values], dtype=torch.float64),
        effective_rank=nowhere if iterative else values.new_tensor([effective_rank_of(v) for v in values]),
        residual=torch.tensor([one.residual for one in found], dtype=torch.float64),
        local_ratio=torch.stack([one.local for one in found]),
        settings=chosen,
    )


@dataclass(frozen=True, eq=False)
class _Decomposition:
    """Singular values, their residual, and sigma_1 / sigma_2 at each location."""

    values: Tensor
    residual: float
    local: Tensor


class _Chain:
    """The linear map from a start's output to the relevance where it ends, for one image."""

    def __init__(self, trace: Trace, rules: RuleSet, settings: SpectrumSettings) -> None:
        self.trace, self.rules, self.settings = trace, rules, settings
        self.top = _named(trace, settings.start)
        self.end = None if settings.layer is None else _named(trace, settings.layer)
        if self.end is not None and not _depends(self.top, self.end):
            raise ValueError(
                f"expected a layer below the start {self.top.name!r}, got {settings.layer!r}; "
                "relevance only flows back"
            )
        self.start, self.like = self.top.name, self.top.output.detach()
        self.size = self.like.numel()

    def down(self, vectors: Tensor) -> Tensor:
        """What arrives, (S, ...) without the axis of images, of float64 vectors (S, size)."""
        return self.relevance(vectors.to(self.like).reshape(-1, *self.like.shape))

    def relevance(self, start: Tensor) -> Tensor:
        """The same for vectors of the start's own shape, differentiable in them where the trace is."""
        at = self.settings.start
        if self.end is None:
            return propagate(self.trace, self.rules, start, at=at).inputs[:, 0]
        result = propagate(self.trace, self.rules, start, at=at, until=self.end.name)
        return result.layers[self.end.name][:, 0]

    def residual(self, values: Tensor, left: Tensor, right: Tensor) -> float:
        """The largest |C v - sigma u| / sigma_1, for (k,), (D, k) and (size, k) with the largest first."""
        count = min(2, len(values))
        with torch.no_grad():
            again = self.down(right.T[:count]).flatten(1).double().cpu()
        apart = torch.linalg.vector_norm(again - (left * values).T[:count], dim=1)
        return float(apart.max() / values[0])


def _exact(chain: _Chain, settings: SpectrumSettings) -> _Decomposition:
    parts = []
    for first in range(0, chain.size, settings.vectors):
        unit = torch.eye(chain.size, dtype=torch.float64)[first : first + settings.vectors]
        with torch.no_grad():
            parts.append(chain.down(unit).double().cpu())
    rows = torch.cat(parts)
    if not rows.isfinite().all():
        values = torch.full((min(len(rows), rows[0].numel()),), torch.nan, dtype=torch.float64)
        return _Decomposition(values, float("nan"), _local_ratio(torch.full_like(rows, torch.nan), chain.end))
    right, values, left = torch.linalg.svd(rows.flatten(1), full_matrices=False)
    return _Decomposition(values, chain.residual(values, left.T, right), _local_ratio(rows, chain.end))


def _iterative(chain: _Chain, differentiable: _Chain, index: int) -> _Decomposition:
    settings = chain.settings
    start = torch.zeros((1, *chain.like.shape), dtype=chain.like.dtype, device=chain.like.device)
    arriving = differentiable.relevance(start.requires_grad_())
    shape = (arriving.numel(), chain.size)
    if settings.count >= min(shape):
        raise ValueError(
            f"expected fewer singular values than the shorter side of {shape}, got {settings.count}; "
            'take solver="exact"'
        )
    local = generator(settings.seed, index)
    first, second = torch.randn(2, chain.size, generator=local, dtype=torch.float64)
    with torch.no_grad():
        one, other, both = chain.down(torch.stack([first, second, first + second])).flatten(1)
    if (both - one - other).norm() > 1e-2 * both.norm():
        raise ValueError(
            f"expected rules that are linear in the relevance, got {chain.rules.name}; the transpose of its "
            'chain does not exist: solver="exact" decomposes the maps of all unit vectors'
        )

    def down(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            return _flat(chain.down(torch.from_numpy(vector.reshape(1, -1).copy())))

    def up(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = torch.from_numpy(vector.copy()).to(arriving).reshape(arriving.shape)
        (back,) = torch.autograd.grad(arriving, start, weights, retain_graph=True)
        return _flat(back)

    operator = _operator(shape, down, up)
    left, values, right = svds(operator, k=settings.count, v0=_starting(operator, first))
    order = np.argsort(-values)
    found = [torch.from_numpy(part.copy()) for part in (values[order], left[:, order], right[order].T)]
    return _Decomposition(found[0], chain.residual(*found), torch.full((1,), torch.nan, dtype=torch.float64))


def _operator(
    shape: tuple[int, int],
    down: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    up: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> LinearOperator:
    return LinearOperator(shape, matvec=down, rmatvec=up, dtype=np.float64)


def _starting(operator: LinearOperator, vector: Tensor) -> NDArray[np.float64]:
    """ARPACK works on the shorter side; its vector follows from ours, so that nothing is random."""
    values = vector.numpy()
    return np.asarray(values if operator.shape[0] >= operator.shape[1] else operator.matvec(values))


def _flat(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().double().cpu().numpy().ravel())


def _local_ratio(rows: Tensor, end: Operation | None) -> Tensor:
    """sigma_1 / sigma_2 over the channels at each location, (P,), of what arrived (S, ...)."""
    channel = 1 if end is None else channel_axis(end)
    located = rows.movedim(channel, -1).reshape(len(rows), -1, rows.shape[channel])
    if located.isnan().any():
        return torch.full((located.shape[1],), torch.nan, dtype=torch.float64)
    values = torch.linalg.svdvals(located.movedim(1, 0))
    return torch.tensor([ratio_of(one) for one in values], dtype=torch.float64)


def _rules_of(method: Explainer) -> RuleSet:
    check_method(method)
    rules = getattr(method, "rules", None)
    if not isinstance(rules, RuleSet):
        raise ValueError(
            f"expected a method with propagation rules, got {method!r}; only methods that hand relevance "
            "from layer to layer (gradient, guided-backprop, lrp-*, deep-taylor) are a chain"
        )
    return rules


def _named(trace: Trace, name: str | None) -> Operation:
    """The operation of that name, or the one that computed the logits."""
    if name is None:
        return next(one for one in trace.operations if any(out is trace.logits for out in one.outputs))
    if name not in trace.names:
        raise ValueError(
            f"expected the name of an operation, got {name!r}; {nearest_names(name, trace.names)}"
        )
    return trace.operation(name)


def _depends(top: Operation, below: Operation) -> bool:
    """Whether one operation's result follows from that of another."""
    waiting: list[Operation | None] = list(top.makers)
    known: set[int] = set()
    while waiting:
        maker = waiting.pop()
        if maker is below:
            return True
        if maker is not None and id(maker) not in known:
            known.add(id(maker))
            waiting.extend(maker.makers)
    return False
