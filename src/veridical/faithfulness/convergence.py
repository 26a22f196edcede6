"""Cosine similarity convergence: does the backward pass forget where it started?

Sixt et al. 2020, section 3: if the matrices that a rule multiplies converge to rank one, any two starting
vectors end in the same direction, and the map cannot depend on the explained class or the later layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.checks import check_choice, check_inputs, check_method, nearest_names
from veridical.faithfulness._cosines import PERCENTILES, Histogram, Pool, Scale, channel_axis, histogram
from veridical.faithfulness._seeds import generator
from veridical.rules import Operation, RuleSet, Trace, propagate, record
from veridical.values import Explainer, FixedTensor

INPUT = "input"
"""Name of the last layer of a result: the image itself."""

_VALUES = 2**25
"""Numbers of activations and relevance that are held at once where the settings say nothing of batches."""


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
        batch: images in one forward pass; None is as many as fit into 2^25 numbers of
            activations and relevance, 128 MB in float32.
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
            raise ValueError(
                f"expected a batch of at least one image, got {self.batch}; None lets memory decide"
            )
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
        one_minus_mean: float64 (L,), 1 - mean in the same way.
        one_minus_percentiles: percentile p to float64 (L,), 1 - percentiles[p] in the same way.
        resolution: float64 (L,), the median of 1 - |cosine| between the relevance of one vector and that of
            the same vector times a third. In exact arithmetic it is 0 for all rules here: what is found is
            the rounding of the backward pass, 1e-15 to 1e-13 in float32, 1e-33 to 1e-30 in float64.
        random_baseline: float64 (L,), the median for independent Gaussian vectors with the layer's channels.
        nan_fraction: float64 (L,), share of pairs and locations where a vector was zero or not finite, so
            that there is no cosine; they are in no other statistic.
        channels: length of the vectors that are compared in each layer.
        counts: int64 (L, B), how often cosines lay in each of B narrow bins; read them with `histogram`.
        settings: how it was measured.
    """

    start: str
    layers: tuple[str, ...]
    median: NDArray[np.float64]
    mean: NDArray[np.float64]
    percentiles: dict[int, NDArray[np.float64]]
    one_minus_median: NDArray[np.float64]
    one_minus_mean: NDArray[np.float64]
    one_minus_percentiles: dict[int, NDArray[np.float64]]
    resolution: NDArray[np.float64]
    random_baseline: NDArray[np.float64]
    nan_fraction: NDArray[np.float64]
    channels: tuple[int, ...]
    counts: NDArray[np.int64]
    settings: ConvergenceSettings

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Whether 1 - median is more than ten times the resolution, bool (L,); NaN counts as not resolved.

        Where it is not, the cosine is nearer to 1 than the precision can tell: `model.double()` and images in
        float64 go on to about 1e-30.
        """
        return np.asarray(self.one_minus_median > 10 * self.resolution)

    def histogram(self, layer: str, scale: Scale = "sixt2020") -> Histogram:
        """The distribution of the (absolute) cosines in one layer.

        Source: Sixt et al. 2020, figures 5e to 5g, for the first convolution.

        Args:
            layer: one of `layers`.
            scale: "linear" for tenths of the cosine, "log" for quarters of a decade of 1 - cosine from 1e-16,
                "sixt2020" for tenths and then 0.99, 0.999, 0.9999.

        Raises:
            ValueError: if layer or scale is unknown.
        """
        check_choice("scale", scale, get_args(Scale))
        if layer not in self.layers:
            raise ValueError(
                f"expected a layer that was read, got {layer!r}; {nearest_names(layer, self.layers)}"
            )
        return histogram(self.counts[self.layers.index(layer)], scale, self.settings.absolute)


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
    return _median_cosine(channels)


@cache
def _median_cosine(channels: int) -> float:
    if channels == 1:
        return 1.0
    latitude = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(latitude) ** (channels - 2)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sin(np.interp(mass[-1] / 2, mass, latitude)))


def _starting_vectors(settings: ConvergenceSettings, index: int, like: Tensor) -> Tensor:
    """N(0, 1) vectors (S, ...) for the image with that index, the same in every batch, dtype and device.

    One more follows them, a third of the first: not a power of 2, so that all numbers are rounded anew.
    """
    local = generator(settings.seed, index)
    drawn = torch.randn((settings.vectors, *like.shape), generator=local, dtype=torch.float64)
    return torch.cat([drawn, drawn[:1] / 3]).to(device=like.device, dtype=like.dtype)


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
    """Which operation to start from (`at` is None for the logits), and which to read, the last first."""

    start: Operation
    at: str | None
    read: tuple[Operation, ...]


def _plan(trace: Trace, settings: ConvergenceSettings) -> _Plan:
    """Choose start and layers from the recorded operations.

    Raises:
        ValueError: if a named operation does not exist, a layer does not lie before the start, or the network
            has no operation of the kinds.
    """
    operations = list(trace.operations)
    names = [operation.name for operation in operations]
    for name in (*(settings.layers or ()), *([settings.start] if settings.start else [])):
        if name not in names:
            raise ValueError(f"expected the name of an operation, got {name!r}; {nearest_names(name, names)}")
    present = {operation.kind for operation in operations}
    if settings.layers is None and not present & set(settings.kinds):
        raise ValueError(
            f"expected kinds that the network has, got {settings.kinds}; it has {', '.join(sorted(present))}"
        )
    if settings.start is None:
        position = next(i for i, operation in enumerate(operations) if operation.output is trace.logits)
    else:
        position = names.index(settings.start)
    start = operations[position]
    read = tuple(
        operation
        for operation in reversed(operations[:position])
        if (operation.name in settings.layers if settings.layers else operation.kind in settings.kinds)
    )
    missing = set(settings.layers or ()) - {operation.name for operation in (*read, start)}
    if missing:
        raise ValueError(
            f"expected layers before the start {start.name!r}, got {sorted(missing)}; "
            "relevance only flows back"
        )
    return _Plan(start, settings.start, read)


def _collect(
    trace: Trace, rules: RuleSet, settings: ConvergenceSettings, first: int, pools: dict[str, Pool]
) -> str:
    """Add the cosines of one recorded batch to the pools; returns the name of the start."""
    plan = _plan(trace, settings)
    shape = plan.start.output.detach()
    drawn = [_starting_vectors(settings, first + image, shape[image]) for image in range(len(shape))]
    start = torch.stack(drawn, dim=1)
    with torch.no_grad():
        result = propagate(trace, rules, start, at=plan.at, keep=[operation.name for operation in plan.read])

    def pool(name: str) -> Pool:
        return pools.setdefault(name, Pool(settings.absolute))

    pool(plan.start.name).add(start, channel_axis(plan.start))
    for operation in plan.read:
        # What is read is taken away: relevance of many layers at once is the largest thing in memory.
        if operation.name in result.layers:
            pool(operation.name).add(result.layers.pop(operation.name), channel_axis(operation))
    pool(INPUT).add(result.inputs, 1)
    return plan.start.name


def _images_at_once(
    model: nn.Module, inputs: Tensor, method: Explainer, settings: ConvergenceSettings
) -> int:
    """How many images go through together: all where they fit, or where the method belongs to all of them."""
    whole = len(inputs)
    belongs = (value for value in getattr(method, "__dict__", {}).values() if isinstance(value, FixedTensor))
    if whole == 1 or any(value.tensor.dim() == 4 and len(value.tensor) == whole for value in belongs):
        return whole
    trace = record(model, inputs[:1].detach())
    kept = sum(operation.output.numel() for operation in _plan(trace, settings).read)
    activations = sum(output.numel() for operation in trace.operations for output in operation.outputs)
    return max(1, _VALUES // (activations + (settings.vectors + 1) * kept))


def _summarize(start: str, pools: dict[str, Pool], settings: ConvergenceSettings) -> CosineConvergence:
    found = [pool.summary() for pool in pools.values()]
    mean = np.array([one.mean for one in found])
    complements = dict(zip(PERCENTILES, np.stack([one.percentiles for one in found], axis=1), strict=True))
    percentiles = {level: 1 - values for level, values in complements.items()}
    return CosineConvergence(
        start=start,
        layers=tuple(pools),
        median=percentiles[50],
        mean=1 - mean,
        percentiles=percentiles,
        one_minus_median=complements[50],
        one_minus_mean=mean,
        one_minus_percentiles=complements,
        resolution=np.array([one.resolution for one in found]),
        random_baseline=np.array([random_cosine(one.channels, settings.absolute) for one in found]),
        nan_fraction=np.array([one.missing for one in found]),
        channels=tuple(one.channels for one in found),
        counts=np.stack([one.counts for one in found]),
        settings=settings,
    )


def cosine_convergence(
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    *,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> CosineConvergence:
    """How alike the relevances of random starting vectors become on their way from a layer to the input.

    For every image, vectors v ~ N(0, I) of the shape of the start's output are propagated back with that
    image's activations. In each layer the cosines of all pairs are taken: at each location over the channels
    of an image-like output (N, C, H, W), over the features of a token (N, T, C), and over the whole of
    (N, D). DeepLIFT starts with multipliers and is read as contributions, multiplier times difference from
    the reference. The image comes last; with its three channels it jumps up even without convergence. By
    default the outputs of convolutions and linear layers are read, before a normalization or activation
    after them. All images and vectors go down together, where memory asks for it in parts, with equal
    results.

    Source: Sixt et al. 2020, section 3 (CSC) and the authors' code.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: a method with propagation rules.
        progress: called with images done and images in all, after each part that goes through together.
        settings: fields of `ConvergenceSettings`: start, vectors, absolute, kinds, layers, batch,
            first_index, seed.

    Returns:
        Statistics for each layer, the start first and the input last.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if the method has no rules, or a setting is out of range or names no operation or kind.
    """
    chosen = ConvergenceSettings(**settings)
    rules = _rules_of(method)
    check_inputs(inputs)
    pools: dict[str, Pool] = {}
    size = chosen.batch or _images_at_once(model, inputs, method, chosen)
    start = ""
    for offset in range(0, len(inputs), size):
        trace = record(model, inputs[offset : offset + size].detach())
        start = _collect(trace, rules, chosen, chosen.first_index + offset, pools)
        if progress is not None:
            progress(min(offset + size, len(inputs)), len(inputs))
    return _summarize(start, pools, chosen)
