"""The types that every part of the package shares."""

import hashlib
from dataclasses import is_dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Target = int | Tensor | None
"""The explained class: one index for all images, a LongTensor (N,), or None for the predicted class."""


class Explainer(Protocol):
    """An explanation method: any callable of this form, the user's own included."""

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance of every input value.

        Args:
            model: maps images to logits (N, K).
            inputs: float (N, C, H, W).
            target: the explained class.

        Returns:
            Signed relevance of the shape and dtype of `inputs`; differentiable with respect to `inputs`
            where `inputs.requires_grad`, unless the method has an attribute `differentiable` that is False.
        """


def explainer_name(explainer: Explainer) -> str:
    """The explainer's own name, or that of its function or class."""
    found = getattr(explainer, "name", None) or getattr(explainer, "__name__", None)
    return str(found or type(explainer).__name__)


def is_differentiable(explainer: Explainer) -> bool:
    """Whether a method does not deny that its relevance can be differentiated with respect to the image."""
    return bool(getattr(explainer, "differentiable", True))


def for_any_weights(explainer: Explainer) -> Explainer:
    """The same method for a network whose weights a test changes.

    A method that belongs to certain weights, as those with fitted patterns do, has an option `any_weights`
    that keeps it as it is; wrappers hold their method as `explainer`. Every other method is returned.
    """
    if not is_dataclass(explainer):
        return explainer
    method: Any = explainer
    if getattr(method, "any_weights", None) is False:
        method = replace(method, any_weights=True)
    inner = getattr(method, "explainer", None)
    if inner is not None and (kept := for_any_weights(inner)) is not inner:
        method = replace(method, explainer=kept)
    return method


class FixedTensor:
    """A tensor as part of a value: equal and hashed by its content, shown by shape, dtype and digest.

    It keeps a copy of its own, so that a later change of the original does not reach it; do not write to it.

    Attributes:
        tensor: the values, without gradient.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach().clone()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape, dtype and bytes, in hexadecimal; the same on every device."""
        content = self.tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        head = f"{tuple(self.tensor.shape)} {self.tensor.dtype} ".encode()
        return hashlib.sha256(head + content).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Whether the other one holds the same values in the same shape and dtype."""
        return isinstance(other, FixedTensor) and self.digest == other.digest

    def __hash__(self) -> int:
        """Of the digest."""
        return hash(self.digest)

    def __repr__(self) -> str:
        """Shape, dtype and the start of the digest."""
        return f"FixedTensor({tuple(self.tensor.shape)}, {self.tensor.dtype}, sha256={self.digest[:12]})"
