"""Several questions about the same images from one forward pass."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from veridical.checks import check_inputs, check_logits, check_method, evaluation_mode, resolve_target
from veridical.rules import Trace, frees_trace, record
from veridical.values import Explainer, Target


@runtime_checkable
class FromTrace(Protocol):
    """A method that can answer from a recorded forward pass."""

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """Relevance (T, N, C, H, W) for LongTensor targets (T, N)."""


def explain_several(
    model: nn.Module, inputs: Tensor, methods: Mapping[str, Explainer], targets: Sequence[Target] = (None,)
) -> dict[str, Tensor]:
    """Several methods' relevance for several targets, from one forward pass where the methods allow it.

    All methods that follow from the activations of the images (those with `from_trace`: the gradient, every
    rule-based method, Grad-CAM) share one recorded pass, and each takes one backward sweep for all targets
    together. DeepLIFT adds the pass of its reference. The others (integrated gradients, SmoothGrad, a user's
    callable) need forward passes of their own and are called once, with the images repeated for each target.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: float (N, C, H, W).
        methods: the methods by the names under which their relevance is returned.
        targets: T targets, each an int, a LongTensor (N,) or None for the predicted class.

    Returns:
        For each method the signed relevance (T, N, C, H, W); differentiable where `inputs.requires_grad`.

    Raises:
        TypeError: if a method cannot be called, or an argument is of the wrong type.
        ValueError: if there is no method or no target, or a target does not exist.
    """
    check_inputs(inputs)
    if not methods or not targets:
        raise ValueError(
            f"expected at least one method and one target, got {len(methods)} and {len(targets)}; name them"
        )
    for explainer in methods.values():
        check_method(explainer)
    shared = {name: method for name, method in methods.items() if isinstance(method, FromTrace)}
    alone = len(shared) == len(methods) == 1 and all(map(frees_trace, shared.values()))
    trace = record(model, inputs, lean=alone) if shared else None
    rows = _rows(targets, _logits(model, inputs) if trace is None else trace.logits)
    found = {}
    for name, explainer in methods.items():
        if trace is not None and isinstance(explainer, FromTrace):
            found[name] = explainer.from_trace(trace, rows)
        else:
            found[name] = _repeated(model, inputs, explainer, rows)
    return found


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), evaluation_mode(model):
        return check_logits(model(inputs), len(inputs))


def _rows(targets: Iterable[Target], logits: Tensor) -> Tensor:
    """LongTensor (T, N)."""
    return torch.stack([resolve_target(logits, target) for target in targets])


def _repeated(model: nn.Module, inputs: Tensor, explainer: Explainer, rows: Tensor) -> Tensor:
    count = len(rows)
    together = explainer(model, inputs.repeat(count, 1, 1, 1), rows.flatten())
    return together.reshape(count, *inputs.shape)
