"""The types that every part of the package shares."""

from typing import Protocol

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
            where `inputs.requires_grad`.
        """
