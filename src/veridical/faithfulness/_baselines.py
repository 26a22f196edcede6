"""What stands in the place of removed pixels."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Baseline = str | tuple[float, ...]

BASELINES = ("zero", "mean", "blur")

BLUR = 0.05
"""Standard deviation of the blur, as a share of the shorter side of the image."""


def check_baseline(baseline: object) -> None:
    """Check the form of a baseline.

    Raises:
        ValueError: if it is neither a known name nor a tuple of finite numbers.
    """
    if isinstance(baseline, str) and baseline in BASELINES:
        return
    numbers = isinstance(baseline, tuple) and len(baseline) > 0
    if not numbers or not all(isinstance(one, int | float) and math.isfinite(one) for one in baseline):  # type: ignore[attr-defined]
        raise ValueError(
            f"expected baseline {', '.join(BASELINES)} or a tuple of finite numbers, got {baseline!r}; "
            "give one number a channel, in the units of the network's input"
        )


def baseline_images(inputs: Tensor, baseline: Baseline) -> Tensor:
    """The images (N, C, H, W) that pixels are taken from where they are removed.

    Args:
        inputs: (N, C, H, W).
        baseline: `"zero"` in the units of the input; `"mean"`, of each channel of each image; `"blur"`, a
            Gaussian whose standard deviation is 0.05 of the shorter side, edges continued; or one value a
            channel.

    Raises:
        ValueError: if the number of values is not that of the channels.
    """
    if baseline == "zero":
        return torch.zeros_like(inputs[:1, :, :1, :1]).expand_as(inputs)
    if baseline == "mean":
        return inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs)
    if baseline == "blur":
        return _blurred(inputs)
    if len(baseline) != inputs.shape[1]:
        raise ValueError(
            f"expected a baseline of {inputs.shape[1]} numbers, got {len(baseline)}; give one a channel"
        )
    values = torch.tensor(baseline, dtype=inputs.dtype, device=inputs.device)
    return values[None, :, None, None].expand_as(inputs)


def _blurred(inputs: Tensor) -> Tensor:
    count, channels, height, width = inputs.shape
    sigma = BLUR * min(height, width)
    radius = max(1, math.ceil(3 * sigma))
    places = torch.arange(-radius, radius + 1, dtype=inputs.dtype, device=inputs.device)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    planes = inputs.reshape(count * channels, 1, height, width)
    planes = F.pad(planes, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(planes, kernel[..., None]), kernel[:, :, None]).reshape(inputs.shape)
