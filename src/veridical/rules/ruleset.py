"""What a set of propagation rules is: the rules of one explanation method, as data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from veridical.rules.affine import Affine
from veridical.rules.operations import Operation

if TYPE_CHECKING:
    from veridical.rules.trace import Trace

Seed = Literal["one", "value"]
"""The starting relevance of the explained class: 1, or the value of its logit."""

Rule = Callable[[Operation, Sequence[Tensor]], tuple[Tensor, ...]]
"""From an operation and the relevance of its outputs, each (S, N, ...), to the relevance of its inputs."""


@dataclass(frozen=True, eq=False)
class Application:
    """An affine map at work.

    Attributes:
        affine: the map; with batch normalization folded in where the rules say so.
        x: its input (N, ...).
        operation: that computed its output: the batch normalization where one is folded in.
        name: of the operation; of the convolution or linear layer where batch normalization is folded in.
        low, high: in a first layer whose rule needs them, the range of each input value.
    """

    affine: Affine
    x: Tensor
    operation: Operation
    name: str
    low: Tensor | None = None
    high: Tensor | None = None

    @property
    def y(self) -> Tensor:
        """The output (N, ...), bias included."""
        return self.operation.value


AffineRule = Callable[[Application, Tensor], Tensor]
"""From an affine map at work and the relevance (S, N, ...) of its output to that of its input."""


@dataclass(frozen=True)
class RuleSet:
    """The rules of one explanation method, as data.

    Attributes:
        name: of the method.
        affine: the rule of convolutions, linear layers and batch normalization.
        rules: the rule of every other kind of operation that the method is defined on.
        changed: the kinds whose rule differs from the gradient.
        dense: the rule of linear layers; None for `affine`.
        first: the rule of affine operations that see the image itself; None for none of its own. It wins over
            `dense`.
        last: the rule of the affine operation nearest the logits; None for none of its own. It wins over all.
        otherwise: the rule of kinds without an entry; None makes them an error.
        seed: the starting relevance of the explained class.
        fold_batch_norm: treat a batch normalization and the convolution or linear layer before it as one map.
        bounds: lowest and highest possible input value for `first`; None takes each image's own.
        overrides: pairs of a function's base name and "gradient" or "pass", for operations without a rule.
        lean: whether the rules read numbers of the forward pass only as `Operation.value`, `.values` and from
            `Application`, so that a trace that serves one propagation need not keep the others.
        bind: completes the rules with what they need from a recorded pass (DeepLIFT: the activations of the
            reference, patterns: a check of the weights); None where the rules are complete.
        lift: from starting vectors (S, N, ...) to what the rules hand on, (S', N, ...), such as the
            multipliers of positive and of negative differences; None where these are the same.
        read: from a tensor of the forward pass and what the rules handed to it, (S', N, ...), to its
            relevance (S, N, ...); None where these are the same.
    """

    name: str
    affine: AffineRule
    rules: Mapping[str, Rule]
    changed: frozenset[str]
    dense: AffineRule | None = None
    first: AffineRule | None = None
    last: AffineRule | None = None
    otherwise: Rule | None = None
    seed: Seed = "one"
    fold_batch_norm: bool = True
    bounds: tuple[float, float] | None = None
    overrides: tuple[tuple[str, str], ...] = field(default=())
    lean: bool = False
    bind: "Callable[[Trace], RuleSet] | None" = None
    lift: Callable[[Tensor], Tensor] | None = None
    read: Callable[[Tensor, Tensor], Tensor] | None = None


def frees_trace(method: object) -> bool:
    """Whether a method needs no more of a recorded pass than one propagation, for any number of vectors."""
    rules = getattr(method, "rules", None)
    return isinstance(rules, RuleSet) and rules.lean and rules.lift is None
