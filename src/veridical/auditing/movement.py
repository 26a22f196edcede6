"""How far the gradient map of an image can be moved while the output stays: predicted from curvature."""

import math
from typing import Any

from torch import Tensor, nn

from veridical.geometry import Movement, predict_movement
from veridical.smoothing import rectifications

BETA = 10.0
"""Of the softplus in place of ReLU. A network with ReLU is flat between its kinks; at 10 the gradients of the
networks of Dombrowski et al. 2019 are close to those of ReLU, and their attack begins there."""

RADIUS = 1 / (255 * math.sqrt(12))
"""Of the change of the image, as a share of black to white in every value (root mean square): the rounding
error of a file with 8 bits. Every stored photograph has been changed by as much."""

NOT_THE_GRADIENT = (
    "it is a property of the network and the image, not of a method: it is measured once, with the gradient"
)


def radius_of(image: Tensor, bounds: tuple[tuple[float, ...], tuple[float, ...]] | None) -> float:
    """The Euclidean length of a change by `RADIUS` of black to white in every value, in the network's units.

    Args:
        image: (C, H, W).
        bounds: black and white, one number a channel; None for the lowest and highest value of the image.
    """
    low, high = bounds or ((float(image.min()),), (float(image.max()),))
    squares = [(last - first) ** 2 for first, last in zip(low, high, strict=True)]
    return RADIUS * math.sqrt(sum(squares) / len(squares) * image.numel())


def softplus_for(model: nn.Module, images: Tensor) -> float | None:
    """`BETA` for a network with ReLU, None for one without."""
    return BETA if rectifications(model, images) else None


def predict(model: nn.Module, image: Tensor, target: Tensor, radius: float, **sizes: Any) -> Movement:
    """The predicted change of the normalized gradient map of one image.

    Args:
        model: the network.
        image: (1, C, H, W).
        target: LongTensor (1,).
        radius: see `radius_of`.
        sizes: `steps` of the Lanczos iteration, `probes` of the norm, and the `seed` of both.

    Raises:
        ValueError: the network is piecewise linear without a ReLU.
    """
    found = predict_movement(
        model, image, target, beta=softplus_for(model, image), radius=radius, batch=1, tolerance=0.01, **sizes
    )
    if float(found.norm.estimate) == 0:
        raise ValueError(
            "expected a curved function of the image, got a piecewise linear network without ReLU (max "
            "pooling or leaky ReLU), whose level sets are flat between kinks: there curvature says nothing"
        )
    return found
