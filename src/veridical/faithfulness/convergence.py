"""Cosine similarity convergence: does the backward pass forget where it started?

Sixt et al. 2020, section 3: if the matrices that a rule multiplies converge to rank one, any two starting
vectors end in the same direction, and the map cannot depend on the explained class or the later layers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.checks import check_inputs, check_method, nearest_names
from veridical.faithfulness._seeds import generator
from veridical.rules import RuleSet, Trace, propagate, record
from veridical.values import Explainer

PERCENTILES = (0, 1, 5, 10, 20, 50, 80, 95, 99, 100)
"""The percentiles that are reported for every layer."""

INPUT = "input"
"""Name of the last layer of a result: the image itself."""


@dataclass(frozen=True)
class ConvergenceSettings:
    """How the convergence is measured.

    Attributes:
        start: name of the operation at whose output the vectors start; None is the logits. Sixt et al. start
            behind the ReLU of a convolution: name the activation to do so.
        vectors: random starting vectors for each image, at least 2; all pairs are compared.
        absolute: compare |cosine|, as the authors' code does; the paper does not say so.
        kinds: kinds of operations whose output relevance is read besides the start and the input.
        layers: names of the operations to read instead of all those of `kinds`.
        batch: images in one forward pass; None is all at once.
        first_index: index of the first image, so that parts of a batch get the vectors that they have in the
            whole batch.
        seed: of the local generators.
    """

    start: str | None = None
    vectors: int = 5
    absolute: bool = True
    kinds: tuple[str, ...] = ("convolution", "linear")
    layers: tuple[str, ...] | None = None
    batch: int | None = None
    first_index: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if there are fewer than two vectors, or a batch or index is out of range.
        """
        if self.vectors < 2:
            raise ValueError(f"expected at least 2 starting vectors, got {self.vectors}; pairs are compared")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"expected a batch of at least one image, got {self.batch}; None means all")
        if self.first_index < 0:
            raise ValueError(f"expected a non-negative index, got {self.first_index}; the first image has 0")


@dataclass(frozen=True, eq=False)
class CosineConvergence:
    """Cosines of relevance vectors, pooled over images, pairs of vectors and locations, for each of L layers.

    Attributes:
        start: name of the operation where the vectors started.
        layers: names, the start first, `"input"` last, in the order of the backward pass.
        median: float64 (L,) of the (absolute) cosine.
        mean: float64 (L,).
        percentiles: percentile (0, 1, 5, ..., 100) to float64 (L,).
        one_minus_median: float64 (L,), 1 - median computed without cancellation.
        random_baseline: float64 (L,), the median for independent Gaussian vectors with the layer's channels.
        nan_fraction: float64 (L,), share of pairs and locations where a vector was zero or not finite, so
            that there is no cosine; they are in no other statistic.
        channels: length of the vectors that are compared in each layer.
        settings: how it was measured.
    """

    start: str
    layers: tuple[str, ...]
    median: NDArray[np.float64]
    mean: NDArray[np.float64]
    percentiles: dict[int, NDArray[np.float64]]
    one_minus_median: NDArray[np.float64]
    random_baseline: NDArray[np.float64]
    nan_fraction: NDArray[np.float64]
    channels: tuple[int, ...]
    settings: ConvergenceSettings


@dataclass
class _Pool:
    """One minus the cosines of a layer that were collected so far."""

    channels: int = 0
    complements: list[NDArray[np.float32]] = field(default_factory=list)
    missing: int = 0
    total: int = 0

    def add(self, vectors: Tensor, absolute: bool) -> None:
        """Add the pairs of unit vectors of one image, (S, L, C)."""
        self.channels = vectors.shape[-1]
        for complement in _complements(vectors, absolute):
            measured = complement[~complement.isnan()]
            self.total += complement.numel()
            self.missing += complement.numel() - measured.numel()
            # Single precision keeps the relative error of a complement near 0 below 1e-7.
            self.complements.append(measured.to(torch.float32).cpu().numpy())

    def percentiles(self, levels: tuple[int, ...]) -> NDArray[np.float64]:
        """Percentiles of the complements; NaN where nothing was measured."""
        values = np.concatenate(self.complements)
        if values.size == 0:
            return np.full(len(levels), np.nan)
        return np.asarray(np.percentile(values, levels), dtype=np.float64)

    def mean(self) -> float:
        """Mean complement; NaN where nothing was measured."""
        values = np.concatenate(self.complements)
        return float(values.mean(dtype=np.float64)) if values.size else math.nan


def _complements(vectors: Tensor, absolute: bool) -> Iterator[Tensor]:
    """1 - cosine, or 1 - |cosine|, of every pair of S unit vectors (S, L, C), as (L,) in float64.

    For unit vectors u, v this is |u - v|^2 / 2, and 1 - |cosine| is the same after v is turned towards u: no
    difference of nearly equal numbers, so that a convergence far below 1e-8 can still be seen.
    """
    for first, second in combinations(range(len(vectors)), 2):
        u, v = vectors[first], vectors[second]
        if absolute:
            v = torch.where((u * v).sum(dim=-1, keepdim=True) < 0, -v, v)
        yield (u - v).square().sum(dim=-1) / 2


def _unit_vectors(relevance: Tensor, channel: int) -> Tensor:
    """Relevance (S, ...) of one image as float64 unit vectors (S, L, C); NaN where a vector is not usable."""
    rows = relevance.to(torch.float64).movedim(channel, -1)
    rows = rows.reshape(len(rows), -1, rows.shape[-1])
    largest = rows.abs().amax(dim=-1, keepdim=True)
    rows = rows / torch.where((largest > 0) & largest.isfinite(), largest, torch.nan)
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / lengths


def random_cosine(channels: int, absolute: bool = True) -> float:
    """Median (absolute) cosine of two independent Gaussian vectors with that many channels.

    The angle t in [0, pi/2] has the density proportional to sin(t)^(channels - 2); its median is found by
    quadrature. Sixt et al. draw the same number from 1000 x 1000 random vectors.

    Args:
        channels: length of the vectors, at least 1.
        absolute: of |cosine|; without it the median is 0.

    Returns:
        A number in [0, 1]; 1 for one channel, about 0.674 / sqrt(channels) for many.

    Raises:
        ValueError: if there is no channel.
    """
    if channels < 1:
        raise ValueError(f"expected at least one channel, got {channels}; pass the length of the vectors")
    if not absolute:
        return 0.0
    if channels == 1:
        return 1.0
    latitude = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(latitude) ** (channels - 2)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sin(np.interp(mass[-1] / 2, mass, latitude)))


def _starting_vectors(settings: ConvergenceSettings, index: int, like: Tensor) -> Tensor:
    """N(0, 1) vectors (S, ...) for the image with that index, the same in every batch, dtype and device."""
    local = generator(settings.seed, index)
    drawn = torch.randn((settings.vectors, *like.shape), generator=local, dtype=torch.float64)
    return drawn.to(device=like.device, dtype=like.dtype)


def _rules_of(method: Explainer) -> RuleSet:
    check_method(method)
    rules = getattr(method, "rules", None)
    if not isinstance(rules, RuleSet):
        raise ValueError(
            f"expected a method with propagation rules, got {method!r}; starting vectors can only be sent "
            "through methods that work layer by layer (gradient, guided-backprop, deconvnet, lrp-*, "
            "deep-taylor): use random_logit or cascading_randomization for this one"
        )
    return rules


@dataclass(frozen=True)
class _Plan:
    """Which operation to start from (`at` is None for the logits), and which to read."""

    start: str
    at: str | None
    shape: Tensor
    read: tuple[str, ...]
    token: frozenset[str]


def _plan(trace: Trace, settings: ConvergenceSettings) -> _Plan:
    """Choose start and layers from the recorded operations.

    Raises:
        ValueError: if a named operation does not exist or a layer does not lie before the start.
    """
    operations = list(trace.operations)
    names = [operation.name for operation in operations]
    for name in (*(settings.layers or ()), *([settings.start] if settings.start else [])):
        if name not in names:
            raise ValueError(f"expected the name of an operation, got {name!r}; {nearest_names(name, names)}")
    if settings.start is None:
        position = next(i for i, operation in enumerate(operations) if operation.output is trace.logits)
        start, below, shape = operations[position].name, operations[:position], trace.logits
    else:
        position = names.index(settings.start)
        start, below, shape = settings.start, operations[:position], operations[position].output
    kept = [
        operation
        for operation in reversed(below)
        if (operation.name in settings.layers if settings.layers else operation.kind in settings.kinds)
    ]
    missing = set(settings.layers or ()) - {operation.name for operation in kept} - {start}
    if missing:
        raise ValueError(
            f"expected layers before the start {start!r}, got {sorted(missing)}; relevance only flows back"
        )
    everything = [*kept, *(operation for operation in operations if operation.name == start)]
    token = frozenset(operation.name for operation in everything if operation.kind == "linear")
    return _Plan(start, settings.start, shape, tuple(operation.name for operation in kept), token)


def _channel_axis(values: Tensor, tokens: bool) -> int:
    """Axis of the channels of (S, N-less, ...) relevance: the last for rows and tokens, else the first."""
    return -1 if tokens or values.dim() <= 3 else 1


def _collect(
    trace: Trace, rules: RuleSet, settings: ConvergenceSettings, first: int, pools: dict[str, _Pool]
) -> str:
    """Add the cosines of one recorded batch to the pools; returns the name of the start."""
    plan = _plan(trace, settings)
    drawn = [
        _starting_vectors(settings, first + image, plan.shape[image].detach())
        for image in range(len(plan.shape))
    ]
    start = torch.stack(drawn, dim=1)
    with torch.no_grad():
        result = propagate(trace, rules, start, at=plan.at, keep=plan.read)
    reached = {name: result.layers[name] for name in plan.read if name in result.layers}
    found = {plan.start: start, **reached, INPUT: result.inputs}
    for name, relevance in found.items():
        pool = pools.setdefault(name, _Pool())
        for image in range(relevance.shape[1]):
            one = relevance[:, image]
            pool.add(_unit_vectors(one, _channel_axis(one, name in plan.token)), settings.absolute)
    return plan.start


def _summarize(start: str, pools: dict[str, _Pool], settings: ConvergenceSettings) -> CosineConvergence:
    mirrored = tuple(100 - level for level in PERCENTILES)
    table = np.stack([pool.percentiles(mirrored) for pool in pools.values()])
    percentiles = {level: 1 - table[:, column] for column, level in enumerate(PERCENTILES)}

    def each(value: Callable[[_Pool], float]) -> NDArray[np.float64]:
        return np.array([value(pool) for pool in pools.values()], dtype=np.float64)

    return CosineConvergence(
        start=start,
        layers=tuple(pools),
        median=percentiles[50],
        mean=1 - each(_Pool.mean),
        percentiles=percentiles,
        one_minus_median=table[:, PERCENTILES.index(50)],
        random_baseline=each(lambda pool: random_cosine(pool.channels, settings.absolute)),
        nan_fraction=each(lambda pool: pool.missing / pool.total),
        channels=tuple(pool.channels for pool in pools.values()),
        settings=settings,
    )


def cosine_convergence(
    model: nn.Module, inputs: Tensor, method: Explainer, **settings: Any
) -> CosineConvergence:
    """How alike the relevances of random starting vectors become on their way from a layer to the input.

    For every image, vectors v ~ N(0, I) of the shape of the start's output are propagated back with that
    image's activations. In each layer the cosines of all pairs are taken: at each location over the channels
    of an image-like output (N, C, H, W), over the features of a token (N, T, C), and over the whole of
    (N, D). The image comes last; with its three channels it jumps up even without convergence. By default
    the outputs of convolutions and linear layers are read, before a normalization or activation after them.

    Source: Sixt et al. 2020, section 3 (CSC) and the authors' code.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: a method with propagation rules.
        settings: fields of `ConvergenceSettings`: start, vectors, absolute, kinds, layers, batch,
            first_index, seed.

    Returns:
        Statistics for each layer, the start first and the input last.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if the method has no rules, or a setting is out of range or names no operation.
    """
    chosen = ConvergenceSettings(**settings)
    rules = _rules_of(method)
    check_inputs(inputs)
    pools: dict[str, _Pool] = {}
    size = chosen.batch or len(inputs)
    start = ""
    for offset in range(0, len(inputs), size):
        trace = record(model, inputs[offset : offset + size].detach())
        start = _collect(trace, rules, chosen, chosen.first_index + offset, pools)
    return _summarize(start, pools, chosen)
