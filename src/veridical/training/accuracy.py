"""How often a network is right on images that it has not seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veridical.checks import check_logits
from veridical.metrics import Interval, share_interval

LEVEL = 0.95


@dataclass(frozen=True)
class Accuracy:
    """The share of images whose largest logit is that of their class.

    Attributes:
        correct: how many were classified correctly.
        n: of how many.
        loss: their mean cross-entropy.
    """

    correct: int
    n: int
    loss: float

    @property
    def share(self) -> float:
        """Correct ones among all."""
        return self.correct / self.n

    def interval(self, level: float = LEVEL) -> Interval:
        """The share with the score interval of Wilson 1927."""
        return share_interval([1.0] * self.correct + [0.0] * (self.n - self.correct), level=level)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch: int = 256) -> Accuracy:
    """Classify labeled images in evaluation mode; the network's own mode is put back.

    Args:
        network: maps images to logits (N, K).
        images: (N, C, H, W), uint8 (scaled to [0, 1]) or float.
        labels: LongTensor (N,).
        batch: images at once.

    Raises:
        TypeError: if images or labels are of another type.
        ValueError: if they have other shapes, a label is no class of the network, or logits are not finite.
    """
    check_labeled(images, labels)
    place = next(network.parameters()).device
    correct, loss = 0, 0.0
    with torch.no_grad(), evaluating(network):
        for part, own in zip(images.split(batch), labels.to(place).split(batch), strict=True):
            logits = check_logits(network(as_input(network, part)), len(part))
            check_classes(own, logits.shape[1])
            correct += int((logits.argmax(dim=1) == own).sum())
            loss += float(nn.functional.cross_entropy(logits.double(), own, reduction="sum"))
    return Accuracy(correct, len(images), loss / len(images))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a network in the middle of its training; every submodule's mode is put back."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def as_float(images: Tensor) -> Tensor:
    """Images as a network takes them: uint8 from 0 to 255 becomes float32 in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_input(network: nn.Module, images: Tensor) -> Tensor:
    """Images as floats on the device of a network's weights.

    Half precision, in which large images are kept, becomes the precision of the weights.
    """
    weight = next(network.parameters())
    found = as_float(images.to(weight.device))
    return found.to(weight.dtype) if found.dtype == torch.float16 else found


def check_labeled(images: Tensor, labels: Tensor) -> None:
    """Check a set of labeled images.

    Raises:
        TypeError: if they are no tensors, images neither uint8 nor float, or labels not of type int64.
        ValueError: if images are not (N, C, H, W) with N > 0, labels not (N,), a label is negative, or an
            image is not finite.
    """
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"expected images as a uint8 or floating point tensor, got {found}; convert them")
    if not isinstance(labels, Tensor) or labels.dtype != torch.long:
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"expected labels as a LongTensor (N,), got {found}; convert with labels.long()")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"expected images (N, C, H, W), at least one, got shape {tuple(images.shape)}")
    if labels.shape != (len(images),):
        raise ValueError(
            f"expected one label an image, ({len(images)},), got shape {tuple(labels.shape)}; match them"
        )
    if int(labels.min()) < 0:
        raise ValueError(f"expected labels of 0 or more, got {int(labels.min())}; number the classes from 0")
    if images.is_floating_point() and not all(bool(part.isfinite().all()) for part in images.split(1024)):
        raise ValueError("expected finite images, got NaN or infinity; look at their preprocessing")


def check_classes(labels: Tensor, classes: int) -> None:
    """Check that every label is a class of the network.

    Raises:
        ValueError: if one is not.
    """
    largest = int(labels.max())
    if largest >= classes:
        raise ValueError(
            f"expected labels in 0..{classes - 1}, got {largest}; the network has {classes} classes"
        )
