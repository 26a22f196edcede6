"""DeepLIFT's rules with two multipliers, m+ for the positive and m- for the negative part of a difference.

Where a rule hands on (2S, N, ...), the first S are m+, the others m-. The parts C+ and C- of a tensor's
difference from its reference, C+ + C- = x - x0, follow from the operation that made it, and that operation's
rule takes m+ and m- as multipliers of just these parts: so m+ C+ + m- C- sums to the same at every layer.

- Convolution, linear, sums: C+ collects the positive products of weights and differences. With
  s = (m+ + m-) / 2 and t = (m+ - m-) / 2 the published masks, W+^T m+ + W-^T m- where x > x0,
  W-^T m+ + W+^T m- where x < x0 and W^T s where x = x0, are W^T s + sign(x - x0) |W|^T t.
- BatchNorm, constant factors and shifts: each part by itself; a negative factor exchanges the two.
- Reshaping, concatenation, average pooling: each part by itself.
- Activations: RevealCancel.
- The image, and what no published rule splits (max pooling, products, softmax, normalization layers,
  operations with several results): the parts are the difference itself where it is positive, and where it
  is negative. Their rule has one multiplier, m+ where the output rose and m- where it fell.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from veridical.rules.affine import affine_of
from veridical.rules.catalog import gradient
from veridical.rules.deeplift import NEAR, magnitude, single_rules
from veridical.rules.deeplift_pairs import Pairing
from veridical.rules.operations import Operation, multiplies
from veridical.rules.ruleset import AffineRule, Application, Rule
from veridical.tensors import safe_divide

_AFFINE = ("convolution", "linear")
_LINEAR = ("structure", "average_pool")
_FACTOR = ("scale", "shift", "batch_norm")


def doubled(start: Tensor) -> Tensor:
    """Both multipliers from one: (S, N, ...) to (2S, N, ...)."""
    return torch.cat([start, start])


def _halves(multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """Half the sum and half the difference of m+ and m-."""
    above, below = multipliers.chunk(2)
    return (above + below) / 2, (above - below) / 2


class Parts:
    """The positive part C+ of each tensor's difference from its reference; computed when first asked for."""

    def __init__(self, pairs: Pairing) -> None:
        self.pairs = pairs
        self._known: dict[int, Tensor] = {}

    def positive(self, tensor: Tensor) -> Tensor:
        """C+ of a tensor of the recorded pass."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = self._compute(tensor)
        return self._known[id(tensor)]

    def contributions(self, tensor: Tensor, multipliers: Tensor) -> Tensor:
        """The contributions (S, N, ...) m+ C+ + m- C- of a tensor, from its multipliers (2S, N, ...)."""
        above, below = multipliers.chunk(2)
        positive = self.positive(tensor)
        return above * positive + below * (self.pairs.difference(tensor) - positive)

    def revealed(self, operation: Operation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of an activation: the parts of its input's difference, and by RevealCancel of its output's."""
        there, source = self.pairs.reference(operation), operation.sources[0]
        start, low, high = there.inputs[0], there.output, operation.output
        up = self.positive(source)
        down = self.pairs.difference(source) - up
        risen, fallen = operation.replay(start + up), operation.replay(start + down)
        return up, down, (risen - low + high - fallen) / 2, (fallen - low + high - risen) / 2

    def _compute(self, tensor: Tensor) -> Tensor:
        operation, difference = self.pairs.producers.get(id(tensor)), self.pairs.difference(tensor)
        if operation is None or not carries(operation):
            return difference.clamp(min=0)
        if operation.kind == "activation":
            return self.revealed(operation)[2]
        if operation.kind in _AFFINE:
            affine, dx = affine_of(operation), self.pairs.difference(operation.sources[0])
            return (difference + affine.sizes_product(dx.abs())) / 2
        if operation.kind == "sum":
            addends = zip(operation.sources, _factors(operation), strict=True)
            size = sum(abs(factor) * self.pairs.difference(x).abs() for x, factor in addends)
            return (difference + size) / 2
        there = self.pairs.reference(operation)
        parts = [self.positive(source) for source in operation.sources]
        moved = operation.replay(*(x + part for x, part in zip(there.inputs, parts, strict=True)))
        moved = moved - there.output
        if operation.kind in _LINEAR:
            return moved
        return torch.where(_sign(operation) < 0, difference - moved, moved)


def carries(operation: Operation) -> bool:
    """Whether an operation's result has parts of its own, and its rule two multipliers."""
    if operation.kind in ("scale", "structure"):
        return len(operation.outputs) == 1 and multiplies(operation)
    return operation.kind in (*_AFFINE, *_LINEAR, *_FACTOR, "sum", "activation")


def _factors(operation: Operation) -> list[float]:
    """The constant that each addend of a sum is multiplied by: 1, -1, its multiplicity, or `alpha`."""
    if operation.base == "add" and not operation.kwargs and set(operation.counts) == {1}:
        return [1.0] * len(operation.inputs)
    total = operation.adjoint([torch.ones_like(operation.output)[None]])
    size = operation.output.numel()
    return [
        float(grad.detach().flatten()[0]) * x.numel() / size
        for x, grad in zip(operation.inputs, total, strict=True)
    ]


def _sign(operation: Operation) -> Tensor:
    """The sign of c in y = c x + b, value by value, of the shape of y."""
    x = operation.inputs[0].detach()
    with torch.no_grad():
        return (operation.replay(torch.ones_like(x)) - operation.replay(torch.zeros_like(x))).sign()


def affine_split(pairs: Pairing) -> AffineRule:
    """DeepLIFT's linear rule (Shrikumar et al. 2017, section 3.5.1; Sixt et al. 2020, eq. 13)."""

    def rule(at: Application, relevance: Tensor) -> Tensor:
        """m+_in = m-_in = W+^T m+ + W-^T m- where x > x0, W-^T m+ + W+^T m- where x < x0, their mean else."""
        affine = at.affine
        mean, half = _halves(relevance)
        mean, half = affine.adjoint(mean, affine.weight), affine.sizes_adjoint(half)
        if affine.dims < 0:
            return torch.cat([mean + half, mean - half])
        return doubled(mean + pairs.before(at).sign() * half)

    return rule


def reveal_cancel(parts: Parts) -> Rule:
    """The RevealCancel rule (Shrikumar et al. 2017, section 3.5.3)."""

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """m+_in = m+ dy+/C+, m-_in = m- dy-/C-, dy+ the mean effect of C+ before and after C-."""
        above, below = relevance[0].chunk(2)
        up, down, risen, fallen = parts.revealed(operation)
        there = parts.pairs.reference(operation)
        near = NEAR * magnitude(operation.inputs[0], there.inputs[0], operation.output, there.output)
        slopes = safe_divide(risen, _off_zero(up, near)), safe_divide(fallen, _off_zero(down, near))
        return (torch.cat([above * slopes[0], below * slopes[1]]),)

    return rule


def _off_zero(values: Tensor, near: Tensor) -> Tensor:
    """Values with `near` of their own sign added where they are within half of it of zero."""
    shift = torch.where(values.detach() >= 0, near, -near)
    return values + shift * (values.detach().abs() < near / 2)


def _sum(pairs: Pairing) -> Rule:
    """The linear rule at sums, with weights 1 and -1."""

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Linear with weights 1: m+ where an addend is above its reference, m- below, else their mean."""
        results = []
        shares = operation.adjoint([torch.cat(_halves(relevance[0]))])
        for x, factor, share in zip(operation.sources, _factors(operation), shares, strict=True):
            mean, half = share.chunk(2)
            sign = pairs.difference(x).sign() * (1 if factor >= 0 else -1)
            results.append(doubled(mean + sign * half))
        return tuple(results)

    return rule


def _factor(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """m+_in = c m+, m-_in = c m- for y = c x + b; exchanged where c < 0."""
    mean, half = _halves(relevance[0])
    mean, half = operation.adjoint([torch.cat([mean, _sign(operation) * half])])[0].chunk(2)
    return (torch.cat([mean + half, mean - half]),)


def merged(pairs: Pairing, single: Rule, split: Rule | None = None) -> Rule:
    """A rule for one multiplier where the operation has no parts of its own, else `split`.

    The one multiplier is m+ where the output rose, m- where it fell, their mean where it did not change.
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if split is not None and carries(operation):
            return split(operation, relevance)
        ones = []
        for tensor, multipliers in zip(operation.outputs, relevance, strict=True):
            mean, half = _halves(multipliers)
            ones.append(mean + pairs.difference(tensor).sign() * half)
        return tuple(doubled(m) for m in single(operation, ones))

    own = (single if split is None else split).__doc__ or ""
    rule.__doc__ = f"{own.splitlines()[0]} m is m+ where y rose, m- where it fell." if split is None else own
    return rule


def split_rules(parts: Parts, max_pool: Callable[[Pairing], Rule]) -> dict[str, Rule]:
    """The rules of all kinds of operations but affine ones, for two multipliers, with RevealCancel."""
    pairs = parts.pairs
    single = single_rules(pairs, max_pool)
    return {
        **{kind: merged(pairs, rule) for kind, rule in single.items()},
        "activation": reveal_cancel(parts),
        "sum": _sum(pairs),
        "average_pool": gradient,
        "shift": _factor,
        "scale": merged(pairs, single["scale"], _factor),
        "structure": merged(pairs, gradient, gradient),
    }
