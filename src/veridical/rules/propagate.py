"""Propagate relevance backward over a recorded forward pass."""

import math
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from veridical.checks import check_choice
from veridical.rules.affine import affine_of, fold
from veridical.rules.catalog import gradient, pass_through
from veridical.rules.operations import Operation
from veridical.rules.ruleset import AffineRule, Application, Rule, RuleSet, Seed
from veridical.rules.trace import Trace

_AFFINE = ("convolution", "linear", "batch_norm")
_OVERRIDES: dict[str, Rule] = {"gradient": gradient, "pass": pass_through}


class UnsupportedOperation(ValueError):
    """A method has no rule for an operation of the network."""


class Coverage(NamedTuple):
    """What a method does at one operation: "gradient", "modified" or "no rule"."""

    name: str
    kind: str
    treatment: Literal["gradient", "modified", "no rule"]


@dataclass(frozen=True, eq=False)
class Propagation:
    """Relevance of the image and of operations' outputs.

    Attributes:
        inputs: (S, N, C, H, W).
        layers: name of an operation to the relevance of its (first) output, (S, N, *output shape).
    """

    inputs: Tensor
    layers: dict[str, Tensor]


def coverage(trace: Trace, rules: RuleSet) -> list[Coverage]:
    """For every recorded operation: does the method modify it, leave it to the gradient, or lack a rule?"""
    overrides = dict(rules.overrides)
    rows = []
    for operation in trace.operations:
        kind = operation.kind
        if operation.base in overrides:
            treatment = "gradient" if overrides[operation.base] == "gradient" else "modified"
        elif kind in rules.changed:
            treatment = "modified"
        elif kind in _AFFINE or kind in rules.rules or rules.otherwise is not None:
            treatment = "gradient"
        else:
            treatment = "no rule"
        rows.append(Coverage(operation.name, kind, treatment))  # type: ignore[arg-type]
    return rows


def check_rules(trace: Trace, rules: RuleSet) -> None:
    """Check that a method has a rule for each operation, and that a modified method modifies at least one.

    Raises:
        UnsupportedOperation: if an operation has no rule, or none is modified.
    """
    rows = coverage(trace, rules)
    missing = [trace.operations[i] for i, row in enumerate(rows) if row.treatment == "no rule"]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnsupportedOperation(
            f"expected operations that {rules.name} has a rule for, got {missing[0].describe()}{more}; "
            "use a method of the gradient family, or say how to treat it: "
            f'method("{rules.name}", overrides=(("{missing[0].base}", "gradient"),)) '
            'or "pass" in the place of "gradient"'
        )
    if rules.changed and rules.read is None and not any(row.treatment == "modified" for row in rows):
        raise UnsupportedOperation(
            f"expected a network with an operation that {rules.name} modifies, got none of the kinds "
            f"{', '.join(sorted(rules.changed))}: the result would be the plain gradient; use gradient"
        )


def propagate(
    trace: Trace,
    rules: RuleSet,
    start: Tensor,
    *,
    at: str | None = None,
    keep: Collection[str] | Literal["all"] = (),
    until: str | None = None,
) -> Propagation:
    """Hand relevance from one operation's output down to the image, for several starting vectors at once.

    Args:
        trace: a recorded forward pass; it can be used any number of times.
        rules: the method's rules.
        start: (S, N, *shape of the starting output): S vectors for each image.
        at: name of the operation whose output `start` belongs to; None for the logits.
        keep: the operations whose output relevance to return, or "all".
        until: name of the operation where to stop: once the relevance of its output is known, which is kept
            too. What lies below costs nothing and is not measured: `inputs` is NaN.

    Returns:
        The relevance of the image and of the kept operations, (S, N, ...). Operations that the starting
        output does not depend on have none and are absent. With batch normalization folded, the output of the
        convolution before it carries the relevance of the pair.

    Raises:
        UnsupportedOperation: if the method has no rule for an operation, or modifies none.
        ValueError: if `at`, `until` or a kept name is unknown, or `start` has another shape.
    """
    _check_lean(trace, rules, keep)
    check_rules(trace, rules)
    origin = trace.logits if at is None else trace.operation(at).output
    if start.shape[1:] != origin.shape:
        raise ValueError(
            f"expected start of shape (S, {', '.join(map(str, origin.shape))}), got {tuple(start.shape)}"
        )
    key = id(origin)
    del origin  # the logits hold the whole graph, which a lean trace frees on the way
    wanted = set(trace.names if keep == "all" else keep) | ({until} if until is not None else set())
    for name in wanted - set(trace.names):
        trace.operation(name)
    with torch.set_grad_enabled(trace.differentiable):
        complete = rules.bind(trace) if rules.bind is not None else rules
        size = len(start)
        if rules.lift is not None and not trace.lean:  # lifted vectors belong together: they part at the top
            size = _vectors_at_once(trace, trace.operations, len(start))
        return _joined([_Sweep(trace, complete, wanted).run(key, part, until) for part in start.split(size)])


_MANY = 2**22
"""Values of one relevance up to which several starting vectors go down together: small activations are
cheaper together, large ones one by one, because memory is slower than arithmetic."""


def _vectors_at_once(trace: Trace, operations: Sequence[Operation], count: int) -> int:
    """How many vectors to take through these operations at once."""
    if trace.apart:
        return 1
    largest = max(
        (tensor.numel() for one in operations for tensor in (*one.outputs, *one.sources)), default=1
    )
    return max(1, min(count, _MANY // max(1, largest)))


def _forgetting(operations: list[Operation]) -> Iterator[Operation]:
    """Each operation once; none is kept."""
    operations.reverse()
    while operations:
        yield operations.pop()


def _joined(parts: list[Propagation]) -> Propagation:
    if len(parts) == 1:
        return parts[0]
    layers = {name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers}
    return Propagation(torch.cat([part.inputs for part in parts]), layers)


def _check_lean(trace: Trace, rules: RuleSet, keep: Collection[str]) -> None:
    if trace.lean and not trace.operations:
        raise ValueError(
            "expected a trace that can still be used, got a lean one that was propagated before; "
            "record again, or without lean=True"
        )
    if trace.lean and (not rules.lean or (keep and rules.read is not None)):
        raise ValueError(
            f"expected rules that need no kept value, got those of {rules.name}"
            f"{' with layers to keep' if keep else ''}; record without lean=True"
        )


def folded_pairs(trace: Trace) -> dict[int, Operation]:
    """The convolution or linear layer that each batch normalization, by its id, is folded into.

    These are the batch normalizations in evaluation mode whose input is the output of such a layer, where
    nothing else uses that output.
    """
    uses: dict[int, int] = {id(trace.logits): 1}
    for operation in trace.operations:
        for tensor in operation.sources:
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    pairs = {}
    for operation in trace.operations:
        before = operation.makers[0]
        if (
            operation.kind == "batch_norm"
            and before is not None
            and (before.kind == "convolution" or (before.kind == "linear" and before.output.dim() == 2))
            and uses[id(before.output)] == 1
        ):
            pairs[id(operation)] = before
    return pairs


def applications(trace: Trace, fold_batch_norm: bool = True) -> list[Application]:
    """Every affine map of a forward pass as the rules see it, in the order of execution."""
    pairs = folded_pairs(trace) if fold_batch_norm else {}
    inner = {id(before) for before in pairs.values()}
    found = []
    for operation in trace.operations:
        if operation.kind not in _AFFINE or id(operation) in inner:
            continue
        before = pairs.get(id(operation))
        affine, bottom = affine_of(operation), operation if before is None else before
        if before is not None:
            affine = fold(affine_of(before), affine)
        found.append(Application(affine, bottom.values[0], operation, bottom.name))
    return found


class _Sweep:
    """One backward pass over a trace."""

    def __init__(self, trace: Trace, rules: RuleSet, wanted: set[str]) -> None:
        self.trace, self.rules, self.wanted = trace, rules, wanted
        self.relevance: dict[int, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.folded = folded_pairs(trace) if rules.fold_batch_norm else {}
        for base, name in rules.overrides:
            check_choice(f"the override of {base}", name, _OVERRIDES)
        self.overrides = {base: _OVERRIDES[name] for base, name in rules.overrides}
        self.last = _last_affine(trace)

    def run(self, origin: int, start: Tensor, until: str | None) -> Propagation:
        start = start if self.rules.lift is None else self.rules.lift(start)
        self.relevance[origin] = start
        return self._down(self._backward(), start, until)

    def _down(self, operations: Iterator[Operation], start: Tensor, until: str | None) -> Propagation:
        """What remains of the way; the vectors part where the activations become large."""
        for operation in operations:
            size = _vectors_at_once(self.trace, (operation,), len(start))
            if size < len(start) and self.rules.lift is None and self._reached(operation):
                *sweeps, last = zip(self._parted(size), start.split(size), strict=True)
                rest = [operation, *operations]
                del operation
                found = [sweep._down(iter(rest), part, until) for sweep, part in sweeps]
                return _joined([*found, last[0]._down(_forgetting(rest), last[1], until)])
            if self._passed(operation, start, until):
                break
        return self._end(start, until)

    def _reached(self, operation: Operation) -> bool:
        return any(id(tensor) in self.relevance for tensor in operation.outputs)

    def _passed(self, operation: Operation, start: Tensor, until: str | None) -> bool:
        """Whether the way ends here; else hand the operation's relevance to its inputs."""
        reached = self._reached(operation)
        relevance = self._received(operation, start) if reached else []
        if operation.name == until:
            return True
        if reached:
            self._step(operation, relevance)
        return False

    def _end(self, start: Tensor, until: str | None) -> Propagation:
        shape = (len(start), *self.trace.inputs.shape)
        if until is not None:
            return Propagation(start.new_full((), math.nan).expand(shape), self.kept)
        inputs = self.relevance.get(id(self.trace.inputs))
        inputs = start.new_zeros(shape) if inputs is None else inputs
        return Propagation(self._read(self.trace.inputs, inputs), self.kept)

    def _parted(self, size: int) -> list["_Sweep"]:
        """This sweep, at this place, for `size` vectors at a time."""
        relevance = {key: value.split(size) for key, value in self.relevance.items()}
        kept = {name: value.split(size) for name, value in self.kept.items()}
        parts = []
        for index in range(len(next(iter(relevance.values())))):
            part = copy(self)
            part.relevance = {key: values[index] for key, values in relevance.items()}
            part.kept = {name: values[index] for name, values in kept.items()}
            part.folded = dict(self.folded)
            parts.append(part)
        return parts

    def _backward(self) -> Iterator[Operation]:
        """The operations, last first; a lean trace loses each when it has been passed."""
        if not self.trace.lean:
            yield from reversed(self.trace.operations)
            return
        self.trace.logits = self.trace.logits.detach()
        while self.trace.operations:
            yield self.trace.operations.pop()

    def _received(self, operation: Operation, start: Tensor) -> list[Tensor]:
        """The relevance of each output, zeros where nothing was handed to it."""
        received = [self.relevance.pop(id(tensor), None) for tensor in operation.outputs]
        relevance = [
            start.new_zeros((len(start), *tensor.shape)) if r is None else r
            for r, tensor in zip(received, operation.outputs, strict=True)
        ]
        self._keep(operation, operation.output, relevance[0])
        return relevance

    def _step(self, operation: Operation, relevance: list[Tensor]) -> None:
        if operation.base in self.overrides:
            self._give(operation, self.overrides[operation.base](operation, relevance))
        elif operation.kind in _AFFINE:
            self._affine_step(operation, relevance[0])
        else:
            rule = self.rules.rules.get(operation.kind, self.rules.otherwise)
            if rule is None:
                raise UnsupportedOperation(
                    f"expected a rule of {self.rules.name} for {operation.describe()}, got none"
                )
            self._give(operation, rule(operation, relevance))

    def _affine_step(self, operation: Operation, relevance: Tensor) -> None:
        bottom, affine = operation, affine_of(operation)
        before = self.folded.pop(id(operation), None)
        if before is not None:
            self._keep(before, operation.output, relevance)
            bottom, affine = before, fold(affine_of(before), affine)
        rule = self._affine_rule(operation, bottom)
        low, high = self._bounds(bottom) if rule is self.rules.first else (None, None)
        at = Application(affine, bottom.values[0], operation, bottom.name, low, high)
        self._give(bottom, (rule(at, relevance),))

    def _affine_rule(self, operation: Operation, bottom: Operation) -> AffineRule:
        rules = self.rules
        if rules.last is not None and operation.name == self.last:
            return rules.last
        if rules.first is not None and bottom.on_image:
            return rules.first
        return rules.dense if rules.dense is not None and bottom.kind == "linear" else rules.affine

    def _bounds(self, operation: Operation) -> tuple[Tensor, Tensor]:
        """The lowest and highest value that each input value of a first layer can take."""
        image = self.trace.inputs
        if self.rules.bounds is None:
            flat = image.flatten(1)
            ends: Sequence[Tensor | float] = (flat.amin(1).view(-1, 1, 1, 1), flat.amax(1).view(-1, 1, 1, 1))
        else:
            ends = self.rules.bounds
        low, high = (_at(operation.sources[0], operation, torch.ones_like(image) * end) for end in ends)
        return torch.minimum(low, high), torch.maximum(low, high)  # a negative factor exchanges them

    def _keep(self, operation: Operation, tensor: Tensor, relevance: Tensor) -> None:
        if operation.name in self.wanted:
            self.kept[operation.name] = self._read(tensor, relevance)

    def _read(self, tensor: Tensor, relevance: Tensor) -> Tensor:
        return relevance if self.rules.read is None else self.rules.read(tensor, relevance)

    def _give(self, operation: Operation, relevance: Sequence[Tensor]) -> None:
        for tensor, share in zip(operation.sources, relevance, strict=True):
            known = self.relevance.get(id(tensor))
            self.relevance[id(tensor)] = share if known is None else known + share


def _at(tensor: Tensor, user: Operation, image: Tensor) -> Tensor:
    """What an input of an operation that sees the image itself would be for another image."""
    maker = user.makers[next(i for i, source in enumerate(user.sources) if source is tensor)]
    if maker is None:
        return image
    results = maker.replayed(*(_at(source, maker, image) for source in maker.sources))
    return results[next(i for i, output in enumerate(maker.outputs) if output is tensor)]


def _last_affine(trace: Trace) -> str:
    """The name of the affine operation nearest the logits, of those that the logits depend on."""
    needed = {id(trace.logits)}
    for operation in reversed(trace.operations):
        if any(id(tensor) in needed for tensor in operation.outputs):
            if operation.kind in _AFFINE:
                return operation.name
            needed.update(id(tensor) for tensor in operation.sources)
    return ""


def class_start(trace: Trace, targets: Tensor, seed: Seed) -> Tensor:
    """The starting relevance (T, N, K) at the logits: 1 or the logit's value at the target, 0 elsewhere.

    Args:
        trace: a recorded forward pass.
        targets: LongTensor (T, N), T classes for each image; or (N,), then T is 1.
        seed: "one" or "value".
    """
    rows = targets[None] if targets.dim() == 1 else targets
    chosen = torch.nn.functional.one_hot(rows, trace.logits.shape[1]).to(trace.logits.dtype)
    if seed == "value":
        chosen = chosen * (trace.logits if trace.differentiable else trace.logits.detach())
    return chosen
