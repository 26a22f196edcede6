"""What the methods have in common that are nothing but propagation rules."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from veridical.checks import resolve_target
from veridical.rules import Rule, RuleSet, Trace, class_start, gradient, propagate, record
from veridical.values import Target

Overrides = tuple[tuple[str, str], ...]

EXACT: dict[str, Rule] = dict.fromkeys(
    (
        "normalization", "softmax", "max_pool", "average_pool", "structure", "sum", "shift", "scale",
        "product", "matmul",
    ),
    gradient,
)  # fmt: skip
"""The gradient at everything but affine operations and activations."""


class RuleBased(ABC):
    """A method whose relevance follows from one recorded forward pass by propagation rules."""

    @property
    @abstractmethod
    def rules(self) -> RuleSet:
        """The method's propagation rules."""

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """Relevance (T, N, C, H, W) for LongTensor targets (T, N), from a pass that others may share."""
        rules = self.rules
        return propagate(trace, rules, class_start(trace, targets, rules.seed)).inputs

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Signed relevance, of the shape of `inputs`."""
        return self.with_logits(model, inputs, target)[0]

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The relevance and the logits (N, K) of the one forward pass."""
        trace = record(model, inputs, lean=self.rules.lean)
        relevance = self.from_trace(trace, resolve_target(trace.logits, target)[None])[0]
        return relevance, trace.logits if trace.differentiable else trace.logits.detach()
