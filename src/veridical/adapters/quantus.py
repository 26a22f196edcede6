"""Methods of this package as functions that Quantus calls."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.checks import check_choice, check_method, check_relevance
from veridical.values import Explainer, explainer_name

Channels = Literal["sum", "keep"]
"""One value a pixel (N, 1, H, W), or one for each value of the input (N, C, H, W)."""


@dataclass(frozen=True)
class QuantusFunction:
    """An explanation method in the form of Quantus's `explain_func`; see `as_quantus`.

    Args:
        explainer: a method of this package or any callable of the same form.
        channels: "sum" or "keep".
    """

    explainer: Explainer
    channels: Channels = "sum"

    def __post_init__(self) -> None:
        """Check the choice.

        Raises:
            TypeError: if the explainer cannot be called.
            ValueError: if there is no such choice.
        """
        check_method(self.explainer)
        check_choice("channels", self.channels, get_args(Channels))

    @property
    def __name__(self) -> str:
        """The method's name, for Quantus's messages."""
        return explainer_name(self.explainer)

    def __call__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        device: str | torch.device | None = None,
        **other: Any,
    ) -> NDArray[np.floating[Any]]:
        """Explanations of a batch.

        Args:
            model: the network; left as it was.
            inputs: (N, C, H, W), an array or a tensor.
            targets: the explained classes (N,), or one for all.
            device: where to compute; the model must be there. None is the device of the model.
            other: nothing; Quantus hands on what stands in `explain_func_kwargs`.

        Returns:
            An array (N, 1, H, W) or (N, C, H, W) in the precision of the model.

        Raises:
            TypeError: if there are other options, or the method returns no tensor.
            ValueError: if the images or the relevance have a wrong shape or are not finite.
        """
        if other:
            raise TypeError(
                f"expected only device in explain_func_kwargs, got {', '.join(sorted(other))}; options of a "
                "method go to veridical.method(name, ...)"
            )
        like = next((one for one in model.parameters() if one.is_floating_point()), torch.empty(0))
        place = like.device if device is None else torch.device(device)
        images = torch.as_tensor(inputs).detach().to(place, like.dtype)
        classes = torch.as_tensor(targets, device=place).reshape(-1).long()
        with torch.enable_grad():
            rows = classes.expand(len(images)) if len(classes) == 1 else classes
            found = self.explainer(model, images, rows)
        relevance = check_relevance(found, images, self.__name__).detach()
        return _array(relevance.sum(1, keepdim=True) if self.channels == "sum" else relevance)


def _array(relevance: Tensor) -> NDArray[np.floating[Any]]:
    known = (torch.float16, torch.float32, torch.float64)
    exact = relevance if relevance.dtype in known else relevance.float()
    result: NDArray[np.floating[Any]] = exact.cpu().numpy()
    return result


def as_quantus(explainer: Explainer, channels: Channels = "sum") -> QuantusFunction:
    """The function that Quantus's metrics take as `explain_func`.

    Args:
        explainer: a method of this package or any callable `(model, inputs, target) -> relevance`.
        channels: "sum" adds up the channels and gives one value a pixel (N, 1, H, W), as Quantus's own
            `explain` does; "keep" gives one for each value (N, C, H, W), and metrics then perturb values.

    Returns:
        A callable `(model, inputs, targets, device=None) -> numpy array`.

    Raises:
        TypeError: if the explainer cannot be called.
        ValueError: if there is no such choice.
    """
    return QuantusFunction(explainer, channels)
