"""What a manipulation is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from veridical.attacks.budget import Budget, Limit, budget_for, checked_limit

Bound = float | Sequence[float] | Tensor
Bounds = tuple[tuple[float, ...], tuple[float, ...]]

REFERENCE_PIXELS = 224 * 224
"""The map size that the published factors belong to."""

IMAGENET_BOUNDS: Bounds = (
    (-2.117903930131004, -2.0357142857142856, -1.8044444444444445),
    (2.2489082969432315, 2.428571428571429, 2.64),
)
"""Black and white after torchvision's ImageNet normalization, per channel."""


@dataclass(frozen=True)
class ManipulationSettings:
    """Everything about the optimization of equation 4 (Dombrowski et al. 2019) that is a choice.

    Args:
        steps: steps of Adam; there is no early stop.
        lr: learning rate, in units of the network's (normalized) input or of the range of the input.
        factors: weights of the mean squared map difference and of the mean squared output change.
        output: which output is held constant, "probability" or "logit". Factors belong to one of them:
            the paper pairs 1e6 with probabilities and 10 with logits.
        smoothing: "growth" runs on softplus_beta activations with growing beta, "off" on the network as it
            is, "auto" chooses growth unless the method is LRP, deep Taylor, or smoothed already.
        beta: first and last beta of the growth.
        output_network: "shared" takes the output from the network that is explained, softplus while beta
            grows (one forward pass, as the authors do); "unmodified" from the network itself (one more).
        bounds: lowest and highest valid input, each one number or one per channel; None for no clamping.
        max_linf: the most that a value may change, one number or one for each image; None for no limit. In
            the units of `ImageChange`: [0, 1] of the range with `bounds`, else those of the input.
        max_l2: the same for the Euclidean norm of an image's change. After each step the image is brought
            back within both.
        rescale: multiply the map's factor by ``(pixels / 50176) ** 2``: published factors are for 224 x 224.
        keep: "best" returns, for each pair, the evaluated iterate of the original class whose map on the
            unmodified network correlates most with the target; "last" the last iterate, as the paper does.
        every: steps between evaluations on the unmodified network, for the history and for "best".
        lr_unit: "input" takes `lr` in units of the input, "range" as a fraction of the range of the input: of
            the width of `bounds` for each channel, without bounds of max - min of each image.
        gradient: "exact" differentiates the map; "estimated" only calls the method, on images a random step
            away (see `directions`), for methods without a derivative. It runs on the unmodified network.
        directions: random directions of one estimate; each costs two calls of the method a step.
        radius: the step from the image in a direction, a fraction of the range of the input, whatever the
            unit of `lr` is.
        seed: of the generator of the directions.

    Raises:
        ValueError: where a number is out of range, a name unknown, or the bounds are reversed.
    """

    steps: int = 1500
    lr: float = 1e-3
    factors: tuple[float, float] = (1e11, 1e6)
    output: Literal["probability", "logit"] = "probability"
    smoothing: Literal["auto", "growth", "off"] = "auto"
    beta: tuple[float, float] = (10.0, 100.0)
    output_network: Literal["shared", "unmodified"] = "shared"
    bounds: tuple[Bound, Bound] | None = None
    max_linf: Limit | None = None
    max_l2: Limit | None = None
    rescale: bool = True
    keep: Literal["best", "last"] = "best"
    every: int = 50
    lr_unit: Literal["input", "range"] = "input"
    gradient: Literal["exact", "estimated"] = "exact"
    directions: int = 16
    radius: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_names()
        if self.bounds is not None:
            object.__setattr__(self, "bounds", _checked_bounds(self.bounds))
        for name in ("max_linf", "max_l2"):
            limit = getattr(self, name)
            if limit is not None:
                object.__setattr__(self, name, checked_limit(name, limit))

    def _check_numbers(self) -> None:
        for name in ("steps", "every", "directions"):
            count = getattr(self, name)
            if count < 1:
                raise ValueError(f"expected {name} of at least 1, got {count}; give a positive whole number")
        positive = (("lr", self.lr), ("beta", self.beta[0]), ("beta", self.beta[1]), ("radius", self.radius))
        for name, number in positive:
            if not (math.isfinite(number) and number > 0):
                raise ValueError(f"expected a positive, finite {name}, got {number}; the paper used lr=1e-3")
        if not all(math.isfinite(factor) and factor >= 0 for factor in self.factors):
            raise ValueError(
                f"expected two factors of 0 or more, got {self.factors}; the paper used (1e11, 1e6)"
            )

    def _check_names(self) -> None:
        choices = {
            "output": ("probability", "logit"),
            "smoothing": ("auto", "growth", "off"),
            "output_network": ("shared", "unmodified"),
            "keep": ("best", "last"),
            "lr_unit": ("input", "range"),
            "gradient": ("exact", "estimated"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"expected {name} to be one of {known}, got {value!r}; choose one of them")

    def limits(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """The bounds as two tensors (1, C or 1, 1, 1) beside `like` (N, C, H, W); None without bounds.

        Raises:
            ValueError: where there are neither one nor C numbers.
        """
        if self.bounds is None:
            return None
        lower, upper = (like.new_tensor(bound).reshape(1, -1, 1, 1) for bound in self.bounds)
        for bound in (lower, upper):
            if bound.shape[1] not in (1, like.shape[1]):
                raise ValueError(
                    f"expected bounds of 1 or {like.shape[1]} channels, got {bound.shape[1]}; give one each"
                )
        return lower, upper

    def budget(self, clean: Tensor) -> Budget:
        """The limits of the change of each image of `clean` (N, C, H, W).

        Raises:
            ValueError: where there are neither one nor N numbers.
        """
        return budget_for(clean, self.max_linf, self.max_l2)

    def for_pairs(self, pairs: slice) -> ManipulationSettings:
        """The same attack on some of the images: limits that are one for each image are those of these."""
        limits = {"max_linf": self.max_linf, "max_l2": self.max_l2}
        own: dict[str, Any] = {
            name: limit[pairs] for name, limit in limits.items() if isinstance(limit, tuple)
        }
        return replace(self, **own) if own else self

    def unit(self, clean: Tensor) -> Tensor:
        """What one unit of `lr` is for images `clean` (N, C, H, W): a tensor that broadcasts against them."""
        return clean.new_ones(1, 1, 1, 1) if self.lr_unit == "input" else self.span(clean)

    def span(self, clean: Tensor) -> Tensor:
        """The range of the input: the width of the bounds, without bounds max - min of each image.

        A tensor that broadcasts against the images `clean` (N, C, H, W).
        """
        limits = self.limits(clean)
        if limits is not None:
            return limits[1] - limits[0]
        wide = clean.amax((1, 2, 3), keepdim=True) - clean.amin((1, 2, 3), keepdim=True)
        return torch.where(wide > 0, wide, 1.0)  # an image of one color has no range of its own

    def for_bounds(self, bounds: tuple[Bound, Bound]) -> ManipulationSettings:
        """The same attack on inputs of another range: with these bounds, and the rate converted.

        A rate in units of the input is multiplied by the ratio of the widths, each the mean over the
        channels: on inputs in [0, 1] the paper's 1e-3 of ImageNet-normalized inputs is 2.3e-4. One that is a
        fraction of the range stays.

        Raises:
            ValueError: where the bounds are reversed, or the settings' own range is not known.
        """
        if self.lr_unit == "range":
            return replace(self, bounds=bounds)
        if self.bounds is None:
            raise ValueError(
                "expected settings with bounds, got bounds=None, so that the range that lr belongs to is not "
                'known; start from a preset, or give lr_unit="range"'
            )
        changed = replace(self, bounds=bounds)
        return replace(changed, lr=self.lr * _width(changed.bounds) / _width(self.bounds))

    def map_factor(self, pixels: int) -> float:
        """The weight of the map term for maps of that many pixels."""
        return self.factors[0] * ((pixels / REFERENCE_PIXELS) ** 2 if self.rescale else 1.0)


def _checked_bounds(bounds: tuple[Bound, Bound]) -> Bounds:
    """Both bounds as tuples of floats, so that settings compare, hash and print."""
    lower, upper = _floats(bounds[0]), _floats(bounds[1])
    wide = max(len(lower), len(upper))
    pairs = list(zip(_spread(lower, wide), _spread(upper, wide), strict=False))
    if len(lower) not in (1, wide) or len(upper) not in (1, wide) or not pairs:
        raise ValueError(
            f"expected bounds of equal length, got {len(lower)} and {len(upper)}; one a channel each"
        )
    if not all(low < high for low, high in pairs):
        raise ValueError(
            f"expected lower bounds below upper ones, got {lower} and {upper}; swap or mend them"
        )
    return lower, upper


def _floats(bound: Bound) -> tuple[float, ...]:
    if isinstance(bound, Tensor):
        return tuple(float(value) for value in bound.detach().flatten().tolist())
    if isinstance(bound, Sequence):
        return tuple(float(value) for value in bound)
    return (float(bound),)


def _width(bounds: tuple[Bound, Bound] | None) -> float:
    """The mean over the channels of upper - lower."""
    lower, upper = bounds if bounds is not None else (0.0, 1.0)
    wide = [high - low for low, high in zip(_floats(lower), _floats(upper), strict=True)]
    return sum(wide) / len(wide)


def _spread(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values
