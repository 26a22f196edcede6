"""Which pixels a map, or chance, takes out of an image, and the images without them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.checks import evaluation_mode, find_logits
from veridical.faithfulness._seeds import generator
from veridical.faithfulness.maps import Reduction, default_reduction, explained, reduce_channels
from veridical.values import Explainer

RANDOM, EDGES = "random", "edges"

_CHUNK = 1024


def random_ranks(count: int, pixels: int, seed: int, index: int) -> Tensor:
    """A random order of the pixels of each image: int32 (N, P), the place of each pixel."""
    parts = []
    source = generator(seed, index)
    for begin in range(0, count, _CHUNK):
        keys = torch.rand(min(_CHUNK, count - begin), pixels, generator=source)
        parts.append(keys.argsort(dim=1).argsort(dim=1).to(torch.int32))
    return torch.cat(parts)


def map_ranks(maps: Tensor, seed: int) -> Tensor:
    """The order of the pixels of each map: int32 (N, P) on the CPU, 0 for the most relevant one.

    Pixels of equal relevance follow one another by chance, in each image in its own way.

    Args:
        maps: (N, H, W).
        seed: of the order of equal pixels.
    """
    flat = maps.flatten(1).cpu()
    chance = random_ranks(len(flat), flat.shape[1], seed, 0)
    parts = []
    for chunk, ties in zip(flat.split(_CHUNK), chance.split(_CHUNK), strict=True):
        shuffled = ties.argsort(dim=1)
        order = chunk.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
        parts.append(shuffled.gather(1, order).argsort(dim=1).to(torch.int32))
    return torch.cat(parts)


def edge_maps(images: Tensor) -> Tensor:
    """The strength of the edges (N, H, W): the length of Sobel's gradient, summed over the channels."""
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], dtype=images.dtype)
    weight = torch.stack([kernel, kernel.T])[:, None].to(images.device)
    parts = []
    for chunk in images.split(_CHUNK):
        planes = F.pad(chunk.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        strength = F.conv2d(planes, weight).square().sum(dim=1).sqrt()
        parts.append(strength.reshape(chunk.shape).sum(dim=1))
    return torch.cat(parts)


def relevance_maps(
    model: nn.Module, images: Tensor, method: Explainer, reduction: Reduction | None, batch: int
) -> Tensor:
    """Maps (N, H, W) of the predicted classes, on the CPU; `batch` images are explained at once."""
    chosen = reduction or default_reduction(method)
    place = next((one.device for one in model.parameters()), images.device)
    parts = []
    with evaluation_mode(model):
        for chunk in images.split(batch):
            inputs = chunk.to(place)
            classes = predicted(model, inputs)
            parts.append(reduce_channels(explained(model, inputs, method, classes), chosen).cpu())
    return torch.cat(parts)


def predicted(model: Callable[[Tensor], object], images: Tensor) -> Tensor:
    """The class (N,) with the largest logit."""
    with torch.no_grad():
        logits = find_logits(model(images))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected logits ({len(images)}, K), got {found}; return one row for each image")
    return logits.argmax(dim=1)


def without(images: Tensor, ranks: Tensor, share: float, least: bool, fill: Tensor) -> Tensor:
    """The images with a share of their pixels replaced.

    Args:
        images: (N, C, H, W).
        ranks: (N, P), the place of each pixel, the most relevant first; on any device.
        share: of the pixels, rounded to whole ones.
        least: whether the last ones go instead of the first ones.
        fill: (C,), what a removed pixel becomes.
    """
    pixels = ranks.shape[1]
    count = int(share * pixels + 0.5)
    gone = ranks >= pixels - count if least else ranks < count
    mask = gone.reshape(len(images), 1, *images.shape[2:]).to(images.device)
    return torch.where(mask, fill.to(images.device)[None, :, None, None], images)
