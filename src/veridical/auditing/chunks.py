"""How many images a task takes, by the memory that it may use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from veridical.auditing.inputs import spans
from veridical.auditing.plan import Preset, Task

MEMORY_GIB = 4.0
"""What a task may use where nothing is said."""

MOST = 64
"""Images in a task at most: as much is lost where a worker dies."""

UNSPLIT: frozenset[str] = frozenset({"tangent-space", "curvature"})
"""Tests that look at all of their images together: at their tangent spaces, at their range of values."""

_COPIES = 4
"""Of a pass's activations: their gradients, what rules keep, and temporary results."""

_MAPS = 16
"""Of the size of an image: its relevance for two classes, flipped copies, orders of pixels, comparisons."""


def images_of(settings: Mapping[str, Any]) -> int:
    """How many images (or pairs) a test is run on, by its settings; 0 for one that looks at none."""
    return int(settings["pairs"] if "pairs" in settings else settings.get("images", 0))


def divided(
    tasks: Sequence[Task], settings: Mapping[str, Mapping[str, Any]], size: int
) -> list[Task]:  # fmt: skip
    """The tasks of an audit, each on at most `size` images.

    Those on the same images follow one another, and among them those of one method: whoever does them in this
    order reads the images once and explains them once.

    Args:
        tasks: each on all images of its test.
        settings: of every test.
        size: images in a task.
    """
    found = []
    for place, task in enumerate(tasks):
        count = images_of(settings[task.test])
        parts = [(0, count)] if task.test in UNSPLIT else spans(0, count, size)
        if len(parts) <= 1:
            found.append((0, place, task))
        else:
            found += [(span[0], place, replace(task, span=span)) for span in parts]
    return [task for _, _, task in sorted(found, key=lambda one: one[:2])]


def check_memory(memory_gib: float | None) -> None:
    """Check the memory that a task may use; None is the default.

    Raises:
        ValueError: it is no positive number.
    """
    if memory_gib is not None and not (memory_gib > 0 and math.isfinite(memory_gib)):
        raise ValueError(f"expected a positive number of GiB, got {memory_gib:g}; 4 is the default")


def images_in_memory(model: nn.Module, image: Tensor, preset: Preset, memory_gib: float | None) -> int:
    """How many images a task may take: as many whole batches as fit, up to `MOST`.

    What is counted: the weights, their randomized copy and its random values; the activations of a batch in
    `_COPIES`; and for each image the image, its maps on the network and on every randomized one.

    Args:
        model: the network, run once on the image.
        image: (1, C, H, W).
        preset: its `batch` and `steps`.
        memory_gib: what a task may use; None for `MEMORY_GIB`, and at least one batch.

    Raises:
        ValueError: the memory is not positive, or too small for one batch.
    """
    check_memory(memory_gib)
    budget = (MEMORY_GIB if memory_gib is None else memory_gib) * 2**30
    state = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    weights = sum(value.numel() * value.element_size() for value in state)
    fixed = 3 * weights + _COPIES * preset.batch * _activations(model, image)
    own = image.element_size() * (_MAPS * image.numel() + preset.steps * image[0, 0].numel())
    fitting = int((budget - fixed) // own) // preset.batch * preset.batch
    if fitting < preset.batch and memory_gib is not None:
        needed = (fixed + preset.batch * own) / 2**30
        raise ValueError(
            f"expected memory for at least one batch of {preset.batch} images, about {needed:.2g} GiB for "
            f"this network, got {memory_gib:g} GiB; raise --memory-gib"
        )
    return min(max(fitting, preset.batch), max(preset.batch, MOST // preset.batch * preset.batch))


def _activations(model: nn.Module, image: Tensor) -> int:
    """Bytes of the outputs of all modules without modules inside, for one image."""
    total = 0

    def count(_module: nn.Module, _given: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    handles = [one.register_forward_hook(count) for one in model.modules() if not any(one.children())]
    try:
        with torch.no_grad():
            model(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    return total
