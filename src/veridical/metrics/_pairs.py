"""The check that every comparison of two batches begins with."""

import torch
from torch import Tensor


def check_pairs(first: Tensor, second: Tensor) -> None:
    """Check that two batches can be compared sample by sample.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ, or there is no sample dimension and at least one value behind it.
    """
    for values in (first, second):
        if not isinstance(values, Tensor):
            raise TypeError(
                f"expected two tensors (N, H, W), got {type(values).__name__}; convert with torch.as_tensor"
            )
    if first.shape != second.shape:
        raise ValueError(
            f"expected two batches of one shape, got {tuple(first.shape)} and {tuple(second.shape)}; "
            "resize or index one of them"
        )
    if first.dim() < 2 or first[0:1].numel() == 0:
        raise ValueError(
            f"expected at least one sample with at least one value, got shape {tuple(first.shape)}; "
            "add the batch dimension of a single map with map[None]"
        )


def paired(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches in float64, after `check_pairs`."""
    check_pairs(first, second)
    return first.to(torch.float64), second.to(torch.float64)
