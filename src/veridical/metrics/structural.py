"""Structural similarity (Wang et al. 2004), one value per sample.

No default for the window and the data range is hidden: published values of "SSIM" of saliency maps differ
in exactly these. `veridical.metrics.protocols` names the combinations that papers used.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from veridical.metrics._pairs import paired

Kernel = Literal["uniform", "gaussian"]

SIGMA = 1.5
"""Standard deviation of the Gaussian window in pixels."""
K1, K2 = 0.01, 0.03
"""The two stabilizing constants, as fractions of the data range."""
_CACHED = 2**16
"""Values of the maps that are filtered at a time: they stay in the processor's cache."""


def _profile(window: int, kernel: str) -> list[float]:
    """The window along one axis, which sums to 1; the two-dimensional window is its outer product."""
    if kernel == "uniform":
        return [1.0 / window] * window
    weights = [math.exp(-((offset - window // 2) ** 2) / (2 * SIGMA**2)) for offset in range(window)]
    return [weight / sum(weights) for weight in weights]


def _filtered(maps: Tensor, profile: list[float]) -> Tensor:
    """Windowed means (M, H - w + 1, W - w + 1) of maps (M, H, W), only where the window fits."""
    for axis in (1, 2):
        count = maps.shape[axis] - len(profile) + 1
        # Sums of shifted views: on CPU several times faster than a float64 convolution.
        total = maps.narrow(axis, 0, count) * profile[0]
        for offset, weight in enumerate(profile[1:], start=1):
            total.add_(maps.narrow(axis, offset, count), alpha=weight)
        maps = total
    return maps


def _mean_similarity(a: Tensor, b: Tensor, scale: Tensor, profile: list[float]) -> Tensor:
    """Structural similarity of maps (M, H, W) averaged over the pixels, for data ranges (M, 1, 1)."""
    mean_a, mean_b = _filtered(a, profile), _filtered(b, profile)
    unbiased = len(profile) ** 2 / (len(profile) ** 2 - 1)
    product = mean_a * mean_b
    power = mean_a.square() + mean_b.square()
    covariance = unbiased * (_filtered(a * b, profile) - product)
    # Filtering is linear: the sum of both variances needs one pass.
    variances = unbiased * (_filtered(a.square() + b.square(), profile) - power)
    c1, c2 = (K1 * scale) ** 2, (K2 * scale) ** 2
    value = ((2 * product + c1) * (2 * covariance + c2)) / ((power + c1) * (variances + c2))
    return value.mean(dim=(1, 2))


def _check_window(shape: torch.Size, window: int, kernel: str) -> None:
    if kernel not in ("uniform", "gaussian"):
        raise ValueError(f"expected kernel 'uniform' or 'gaussian', got {kernel!r}; choose one of them")
    if window < 3 or window % 2 == 0:
        raise ValueError(f"expected an odd window of at least 3 pixels, got {window}; papers use 5, 7 or 11")
    if min(shape[-2:]) < window:
        raise ValueError(
            f"expected maps of at least {window}x{window} pixels, got {shape[-2]}x{shape[-1]}; "
            "use a smaller window or larger maps"
        )


def _range_of_samples(data_range: float | Tensor, like: Tensor) -> Tensor:
    """The data range of each sample (N,); NaN where it is not positive and finite."""
    wide = torch.as_tensor(data_range, dtype=like.dtype, device=like.device)
    if wide.dim() > 1 or (wide.dim() == 1 and len(wide) != len(like)):
        raise ValueError(f"expected one data range or {len(like)}, got shape {tuple(wide.shape)}; pass (N,)")
    if wide.dim() == 0 and not bool(torch.isfinite(wide) & (wide > 0)):
        raise ValueError(
            f"expected a positive, finite data range, got {float(wide)}; pass the range that the maps span"
        )
    wide = wide.expand(len(like))
    return torch.where(torch.isfinite(wide) & (wide > 0), wide, torch.nan)


def ssim(
    first: Tensor,
    second: Tensor,
    *,
    window: int,
    data_range: float | Tensor,
    kernel: Kernel = "uniform",
) -> Tensor:
    """Mean structural similarity with sample covariances, over the pixels where the window fits.

    Agrees with `skimage.metrics.structural_similarity` under its defaults (`use_sample_covariance=True`),
    with `kernel="gaussian", window=11` for its `gaussian_weights=True`.

    Args:
        first: maps (N, H, W), or images (N, C, H, W), whose channels are averaged.
        second: the same shape.
        window: side of the window in pixels, odd.
        data_range: the span of possible values: one number, or one for each sample (N,).
        kernel: `"uniform"`, or `"gaussian"` with a standard deviation of 1.5 pixels.

    Returns:
        float64 (N,) in [-1, 1]; 1 for equal maps; NaN where a map holds NaN or the sample's data range is 0.

    Raises:
        TypeError: if one of them is no tensor.
        ValueError: if the shapes differ or are not 3-D or 4-D, or window, kernel or data range are unusable.
    """
    a, b = paired(first, second)
    if a.dim() not in (3, 4):
        raise ValueError(f"expected maps (N, H, W) or images (N, C, H, W), got shape {tuple(a.shape)}")
    _check_window(a.shape, window, kernel)
    wide = _range_of_samples(data_range, a)
    channels = a.shape[1] if a.dim() == 4 else 1
    a, b = (maps.reshape(-1, *maps.shape[-2:]) for maps in (a, b))
    scale = wide.repeat_interleave(channels)[:, None, None]
    profile = _profile(window, kernel)
    count = max(1, _CACHED // a[0].numel())
    few = [slice(begin, begin + count) for begin in range(0, len(a), count)]
    scores = torch.cat([_mean_similarity(a[part], b[part], scale[part], profile) for part in few])
    return scores.reshape(-1, channels).mean(dim=1)
