"""Patterns of every neuron, estimated from unlabeled images in one pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attributions.patterns import (
    Estimator,
    Means,
    Patterns,
    PatternSettings,
    row_blocks,
    row_products,
    weights_digest,
)
from veridical.checks import check_inputs
from veridical.rules import Application, Trace, applications, record

_RECTIFIERS = frozenset(
    "relu relu6 hardtanh leaky_relu rrelu prelu elu celu selu gelu silu mish softplus hardswish threshold "
    "clamp clamp_min".split()
)
"""Functions that cut or damp what is below 0; hardtanh is how torch computes ReLU6."""


def fit_patterns(
    model: nn.Module,
    batches: Iterable[object],
    *,
    estimator: Estimator = "positive",
    means: Means = "mixed",
    fold_batch_norm: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Patterns:
    """Estimate the signal direction of every neuron (Kindermans et al. 2018).

    For a neuron y = w . x its pattern is a = c / (w . c) with c = E[x y] - E[x] E[y], the covariance of its
    input and its output. Every place of a convolution in every image is a sample, zero padding included.
    "positive" takes the expectations over the samples with y + b > 0, "two-component" also those over the
    rest, for a second pattern; both do so only at layers that a rectifier directly follows (ReLU, ReLU6 and
    the smooth or leaky functions of that form), and all other layers take all samples, as "linear" does
    everywhere. On networks with ReLU the second pattern is never reached: two-component gives the maps of
    positive.

    With means "mixed" E[y] alone runs over all samples: Kindermans' estimator, that of Dombrowski's code and
    of Sixt's library. With "conditional" it runs over the same samples as the others (Sixt 2020, equation
    37). Where all samples are used, the two are the same. w . c is a variance with conditional means; with
    mixed ones it is that plus E+[y] (E+[y] - E[y]), which can be negative or near 0 where a positive bias
    makes the neuron active at negative y: such patterns are large, and w . a = 1 all the same.

    The bias makes no difference: c is the same where y + b stands for y, for either mean, because
    E[x b] - E[x] b = 0 over any samples. (Dombrowski's code adds it, Sixt's library does not.)

    Each batch is seen once and not kept. The sums take 16 bytes for each weight, 32 for two-component
    (VGG-16: 2.2 GB), beside one recorded forward pass. They are in float64, of products in the network's own
    precision with y shifted by its mean in the first batch: how the images are split into batches changes
    nothing but rounding.

    Args:
        model: any network that the engine can record; it is left exactly as it was.
        batches: tensors (N, C, H, W), or tuples that begin with one, as a DataLoader gives them; or one
            tensor. They are moved to the network's device. A few hundred images of the training set,
            preprocessed as for the network, are a beginning; Sixt's library used an epoch of an ImageNet
            subset.
        estimator: over which samples.
        means: of y, over all samples or over those of the estimator.
        fold_batch_norm: one pattern for a batch normalization and the layer before it; the methods follow it.
        progress: told the number of images seen after each batch.

    Returns:
        The patterns by operation name; a module that is used twice has two. A neuron that is never active, or
        whose output is constant, has the pattern 0 and is counted in `Patterns.silent`.

    Raises:
        TypeError: if the batches cannot be iterated over, or one is no tensor and does not begin with one.
        ValueError: if there is no batch, an option is unknown, the network cannot be recorded or has no
            affine operation, or its activations overflow.
    """
    settings = PatternSettings(estimator, means, fold_batch_norm)
    sums: dict[str, _Sums] = {}
    seen, first = 0, None
    for images in _images(model, batches):
        trace = record(model, images)
        with torch.no_grad():
            found = applications(trace, fold_batch_norm)
            rectified = _rectified(trace)
            for at in found:
                if at.name not in sums:
                    sums[at.name] = _Sums(at, estimator if id(at.operation.output) in rectified else "linear")
                sums[at.name].add(at)
        first = first or weights_digest(found)
        seen += len(images)
        if progress is not None:
            progress(seen)
    if first is None or not sums:
        what = "no batch; a generator can be read only once" if first is None else "no affine operation"
        raise ValueError(f"expected batches of images for a network with affine operations, got {what}")
    active: dict[str, Tensor] = {}
    inactive: dict[str, Tensor] = {}
    for name in list(sums):
        active[name], *rest = sums.pop(name).patterns(means, name)
        if rest:
            inactive[name] = rest[0]
    return Patterns(active, inactive, settings, seen, first)


def _images(model: nn.Module, batches: Iterable[object]) -> Iterator[Tensor]:
    device = next((value.device for value in model.parameters()), None)
    if not isinstance(batches, Iterable) or isinstance(batches, str | Mapping):
        raise TypeError(
            f"expected batches as tensors (N, C, H, W) or tuples that begin with one, got "
            f"{type(batches).__name__}; give a DataLoader, a list, a generator or one tensor"
        )
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        images: Any = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if isinstance(images, Mapping):
            raise TypeError(
                f"expected batches of images, got mappings with the keys {', '.join(map(str, images))}; "
                "name the images: (batch[key] for batch in batches)"
            )
        check_inputs(images)
        yield images.detach().to(device)


def _rectified(trace: Trace) -> set[int]:
    """The ids of the tensors that a rectifier takes as its input."""
    return {id(source) for op in trace.operations if op.base in _RECTIFIERS for source in op.sources}


class _Sums:
    """Running sums of one affine operation over all samples seen, in float64."""

    def __init__(self, at: Application, estimator: Estimator) -> None:
        self.dtype = torch.promote_types(at.affine.weight.dtype, torch.float32)
        self.weight = at.affine.weight.detach()
        self.estimator = estimator
        self.axis = at.y.dim() - 1 if at.affine.dims == 0 else 1
        self.others = [axis for axis in range(at.y.dim()) if axis != self.axis]
        self.shift = at.y.mean(self.others, keepdim=True, dtype=torch.float64).to(self.dtype)
        parts = range(2 if estimator == "two-component" else 1)
        self.xy = [torch.zeros_like(self.weight, dtype=torch.float64) for _ in parts]
        self.x = [torch.zeros_like(self.weight, dtype=torch.float64) for _ in parts]
        self.y, self.count = ([self._zeros() for _ in parts] for _ in range(2))
        self.all_y, self.all_squares, self.all_count = self._zeros(), self._zeros(), 0

    def _zeros(self) -> Tensor:
        return self.weight.new_zeros(len(self.weight), dtype=torch.float64)

    def _total(self, values: Tensor) -> Tensor:
        """Over all samples, one value for each neuron."""
        return values.sum(self.others, dtype=torch.float64)

    def add(self, at: Application) -> None:
        """Take one batch in."""
        x, y = at.x.detach().to(self.dtype), at.y.detach().to(self.dtype)
        shifted = y - self.shift
        self.all_y += self._total(shifted)
        self.all_squares += self._total(y.square())
        self.all_count += y.numel() // len(self.weight)
        for part, mask in enumerate(self._masks(y)):
            chosen = shifted * mask
            _accumulate(self.xy[part], at.affine.weight_gradient(x, chosen))
            _accumulate(self.x[part], at.affine.weight_gradient(x, mask))
            self.y[part] += self._total(chosen)
            self.count[part] += self._total(mask)

    def _masks(self, y: Tensor) -> Sequence[Tensor]:
        if self.estimator == "linear":
            return [torch.ones_like(y)]
        above = (y > 0).to(y.dtype)
        return [above, 1 - above] if self.estimator == "two-component" else [above]

    def patterns(self, means: Means, name: str) -> list[Tensor]:
        """The patterns c / (w . c) of each part, 0 without samples or variance; the sums are used up."""
        rounding = 32 * torch.finfo(self.dtype).eps
        # a standard deviation at the level of rounding is no variance
        least = self.all_squares / self.all_count * rounding**2
        result = []
        for xy, x, y, count in zip(self.xy, self.x, self.y, self.count, strict=True):
            samples = count.clamp(min=1)
            mean = self.all_y / self.all_count if means == "mixed" else y / samples
            c = xy.addcmul_(x, self._rows(mean), value=-1).div_(self._rows(samples))
            variance = row_products(self.weight, c)
            silent = (count == 0) | (variance.abs() <= least)  # mixed means can make w . c negative
            pattern = c.div_(self._rows(variance.masked_fill(silent, torch.inf))).to(self.dtype)
            if not bool(torch.isfinite(torch.linalg.vector_norm(pattern, torch.inf))):
                raise ValueError(
                    f"expected finite activations and patterns, got NaN or infinity in {name}; look at the "
                    "weights, and fit in float32 or float64"
                )
            result.append(pattern)
        return result

    def _rows(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (self.weight.dim() - 1))


def _accumulate(total: Tensor, part: Tensor) -> None:
    """Add a part to a total of higher precision: in blocks, which avoids a copy of the part."""
    for rows, added in zip(row_blocks(total), row_blocks(part), strict=True):
        rows += added.to(rows.dtype)
