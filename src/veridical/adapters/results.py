"""What goes into a method of another package, and what comes out of it."""

from torch import Tensor, nn
from torch.nn import functional as F

from veridical.checks import check_inputs, check_logits, resolve_target
from veridical.values import Target


def explained_classes(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    """The explained class of every image (N,); the predicted one where `target` is None.

    Raises:
        TypeError: if the inputs or the target are of another type.
        ValueError: if the inputs are no finite images, or there are no logits or no such class.
    """
    check_inputs(inputs)
    return resolve_target(check_logits(model(inputs.detach().clone()), len(inputs)), target)


def as_relevance(result: object, inputs: Tensor, name: str) -> Tensor:
    """The result of another package as relevance of the shape of the inputs.

    A map of a layer (N, K, h, w) is summed over its channels, interpolated bilinearly to the size of the
    images and spread evenly over their channels, as Grad-CAM is. The sum over the channels of the relevance
    is the interpolated map.

    Args:
        result: what came.
        inputs: (N, C, H, W).
        name: of the method, for the message.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it has another shape.
    """
    if not isinstance(result, Tensor):
        kinds = ", ".join(type(one).__name__ for one in result) if isinstance(result, tuple) else ""
        raise TypeError(
            f"expected one tensor from {name}, got {type(result).__name__}{f' ({kinds})' if kinds else ''}; "
            "explain one input, or a layer with one output"
        )
    if result.shape == inputs.shape:
        return result.to(inputs.dtype)
    if result.dim() != 4 or len(result) != len(inputs):
        raise ValueError(
            f"expected relevance of shape {tuple(inputs.shape)} or a layer's map (N, K, h, w) from {name}, "
            f"got {tuple(result.shape)}; choose a layer whose output is image-like"
        )
    wide = F.interpolate(
        result.sum(1, keepdim=True).to(inputs.dtype),
        size=tuple(inputs.shape[2:]),
        mode="bilinear",
        align_corners=False,
    )
    return (wide / inputs.shape[1]).expand_as(inputs).clone()
