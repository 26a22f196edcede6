"""Images that an adversary has changed within a budget, by projected gradient ascent of the loss."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.checks import check_choice, check_count, check_logits
from veridical.training.accuracy import as_input, check_classes, check_labeled, evaluating

Norm = Literal["l2", "linf"]
Budget = Literal["image", "batch"]
Start = Literal["ball", "zero", "bordt2023"]
Mode = Literal["evaluation", "training"]
Loss = Callable[[Tensor, Tensor], Tensor]

# Images that were scaled or shifted may leave their range by a rounding error.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Adversary:
    """Projected gradient descent (PGD): steps up the cross-entropy, each projected on the budget.

    x <- project(x + step * direction), where the direction is the gradient divided by its Euclidean norm (l2)
    or its sign (linf), and step = stride * epsilon / steps.

    Attributes:
        norm: `"l2"` or `"linf"`, the norm of the change.
        epsilon: its largest norm, in units of the images. Several: one of them, by chance, for each batch.
        steps: number of gradient steps.
        stride: length of a step in units of epsilon / steps.
        bounds: range of valid values; () for none.
        start: where the first step starts: `"ball"`: drawn uniformly from the budget; `"zero"`: at the image;
            `"bordt2023"`: values from [0, 1), scaled to an l2 norm of epsilon / 2, as the authors' code does.
        budget: `"image"`: every image has an epsilon of its own. `"batch"`: the norms, also those of the
            gradient, are taken over all images of a batch together, as in the code of Bordt et al. 2023: of
            100 images each gets about epsilon / 10. Only for l2.
        mode: `"evaluation"`: the gradients are those of the network in evaluation mode; `"training"`: in its
            own mode, so with dropout while it is trained, as in that code. Statistics of batch normalization
            are as before afterwards.

    Source:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks", section 2.1.
        Budget, start and mode: Bordt et al. 2023, notebook mnist-32-adv-robuts of the code, commit 3d0afba.
    """

    norm: Norm = "l2"
    epsilon: float | tuple[float, ...] = 1.0
    steps: int = 10
    stride: float = 2.5
    bounds: tuple[float, ...] = (0.0, 1.0)
    start: Start = "ball"
    budget: Budget = "image"
    mode: Mode = "evaluation"

    def __post_init__(self) -> None:
        """Check every choice.

        Raises:
            TypeError: if `steps` is no whole number.
            ValueError: if a choice does not exist, a number is out of range, or two do not fit.
        """
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("start", self.start, get_args(Start))
        check_choice("budget", self.budget, get_args(Budget))
        check_choice("mode", self.mode, get_args(Mode))
        check_count("steps", self.steps, 1)
        if not self.epsilons or not all(math.isfinite(one) and one > 0 for one in self.epsilons):
            raise ValueError(f"expected epsilon above 0, got {self.epsilon}; it bounds the change")
        if not (math.isfinite(self.stride) and self.stride > 0):
            raise ValueError(f"expected stride above 0, got {self.stride}; 2.5 is usual")
        if self.bounds and not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise ValueError(f"expected bounds (low, high) or (), got {self.bounds}; (0, 1) for pixels")
        if self.norm == "linf" and (self.budget == "batch" or self.start == "bordt2023"):
            raise ValueError(
                f"expected budget 'image' and start 'ball' or 'zero' for linf, got {self.budget!r} and "
                f"{self.start!r}; the code of Bordt et al. 2023 has these for l2 alone"
            )

    @property
    def epsilons(self) -> tuple[float, ...]:
        """All values of epsilon."""
        return self.epsilon if isinstance(self.epsilon, tuple) else (self.epsilon,)


def adversarial_images(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversary: Adversary,
    *,
    seed: int = 0,
    batch: int = 256,
) -> Tensor:
    """Labeled images changed by an adversary; the network, its mode and its gradients are as before.

    The result does not depend on `batch`. With `budget="batch"` all images are one batch.

    Args:
        network: maps images to logits (N, K).
        images: (N, C, H, W), uint8 (scaled to [0, 1]) or float.
        labels: LongTensor (N,), the classes that the adversary leads away from.
        adversary: how.
        seed: of the starting points.
        batch: images at once.

    Returns:
        Float (N, C, H, W), on the device of the network.

    Raises:
        TypeError: if images or labels are of another type.
        ValueError: if they do not fit each other, the network or the bounds, or logits are not finite.
    """
    check_labeled(images, labels)
    check_count("batch", batch, 1)
    check_bounds(images, adversary)
    inputs = as_input(network, images)
    labels = labels.to(inputs.device)
    with torch.no_grad(), evaluating(network):
        check_classes(labels, check_logits(network(inputs[:1]), 1).shape[1])
    source = torch.Generator().manual_seed(seed)
    chosen = draw_budget(adversary, source)
    start = draw_start(inputs.shape, chosen, source).to(inputs)
    size = len(inputs) if adversary.budget == "batch" else batch
    parts = zip(inputs.split(size), labels.split(size), start.split(size), strict=True)
    with _crafting(network, adversary.mode):
        return torch.cat([ascend(network, x, y, chosen, begin) for x, y, begin in parts])


def craft(
    network: nn.Module, images: Tensor, labels: Tensor, adversary: Adversary, source: torch.Generator
) -> Tensor:
    """One batch of a training, changed by the adversary; unchecked.

    Args:
        network: in the mode in which it is trained.
        images: float (N, C, H, W), on its device.
        labels: LongTensor (N,).
        adversary: how.
        source: a CPU generator for epsilon and the starting points.
    """
    chosen = draw_budget(adversary, source)
    start = draw_start(images.shape, chosen, source).to(images)
    with _crafting(network, adversary.mode):
        return ascend(network, images, labels, chosen, start)


def draw_budget(adversary: Adversary, source: torch.Generator) -> Adversary:
    """The adversary with one of its values of epsilon, each with the same probability."""
    which = int(torch.randint(len(adversary.epsilons), (), generator=source))
    return replace(adversary, epsilon=adversary.epsilons[which])


def draw_start(shape: torch.Size, adversary: Adversary, source: torch.Generator) -> Tensor:
    """The change (N, C, H, W) before the first step, float32 on the CPU; see `Adversary.start`."""
    (epsilon,) = adversary.epsilons
    if adversary.start == "zero":
        return torch.zeros(shape)
    if adversary.norm == "linf":
        return epsilon * (2 * torch.rand(shape, generator=source) - 1)
    if adversary.start == "bordt2023":
        noise = torch.rand(shape, generator=source)
        return epsilon / 2 * noise / length_of(noise, adversary)
    noise = torch.randn(shape, generator=source)
    length = length_of(noise, adversary)
    dimension = noise.numel() / length.numel()
    radius = torch.rand(length.shape, generator=source) ** (1 / dimension)
    return epsilon * radius * noise / length


def ascend(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversary: Adversary,
    start: Tensor,
    loss: Loss | None = None,
) -> Tensor:
    """The steps of an adversary with one epsilon, from a given start; unchecked, in the network's mode."""
    measured = summed_cross_entropy if loss is None else loss
    step = adversary.stride * adversary.epsilons[0] / adversary.steps
    moved = project(images + start, images, adversary)
    for _ in range(adversary.steps):
        with torch.enable_grad():
            moved.requires_grad_()
            # Only the images' gradient is asked for: that of the weights is neither computed nor kept.
            (gradient,) = torch.autograd.grad(measured(network(moved), labels), moved)
        moved = project(moved.detach() + step * _direction(gradient, adversary), images, adversary)
    return moved


def project(moved: Tensor, images: Tensor, adversary: Adversary) -> Tensor:
    """Valid images in the direction of `moved`, at most the one epsilon away from `images`."""
    (epsilon,) = adversary.epsilons
    change = moved - images
    if adversary.norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        change = change * (epsilon / length_of(change, adversary).clamp(min=epsilon))
    found = images + change
    if not adversary.bounds:
        return found
    low, high = adversary.bounds
    return found.clamp(low, high)


def length_of(values: Tensor, adversary: Adversary) -> Tensor:
    """The norm of each image (N, 1, 1, 1), or of the whole batch (1, 1, 1, 1)."""
    rows = values.flatten(1) if adversary.budget == "image" else values.reshape(1, -1)
    order = 2.0 if adversary.norm == "l2" else math.inf
    found: Tensor = torch.linalg.vector_norm(rows, ord=order, dim=1)
    return found.view(-1, 1, 1, 1)


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """A sum, so that no image's gradient depends on the others."""
    return F.cross_entropy(logits, labels, reduction="sum")


def check_bounds(images: Tensor, adversary: Adversary) -> None:
    """Check that images lie in the adversary's bounds; beyond, the projection would change more than epsilon.

    Raises:
        ValueError: if they do not.
    """
    if not adversary.bounds:
        return
    scale = 255 if images.dtype == torch.uint8 else 1
    low, high = float(images.min()) / scale, float(images.max()) / scale
    if low < adversary.bounds[0] - _ROUNDING or high > adversary.bounds[1] + _ROUNDING:
        raise ValueError(
            f"expected images within the adversary's bounds {adversary.bounds}, got values from {low:.4g} to "
            f"{high:.4g}; set bounds to their range, or to () for none"
        )


def _direction(gradient: Tensor, adversary: Adversary) -> Tensor:
    """The gradient's sign, or the gradient with norm 1; 0 where it is 0."""
    if adversary.norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    dims = (1, 2, 3) if adversary.budget == "image" else (0, 1, 2, 3)
    # A confident network has gradients whose squares are too small for a number.
    scaled = gradient / gradient.abs().amax(dim=dims, keepdim=True).clamp(min=tiny)
    return scaled / length_of(scaled, adversary).clamp(min=tiny)


@contextmanager
def _crafting(network: nn.Module, mode: Mode) -> Iterator[None]:
    """The network in the mode of the adversary; mode and buffers are put back."""
    if mode == "evaluation":
        with evaluating(network):
            yield
        return
    before = [one.clone() for one in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, value in zip(network.buffers(), before, strict=True):
                one.copy_(value)
