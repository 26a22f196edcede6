"""How many images are attacked together: as many as fit in memory, on a CPU as many as are fastest.

What one step needs is measured on the first images, not guessed: methods, networks and sizes differ by orders
of magnitude.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from veridical.attacks.estimated import FOLDED
from veridical.attacks.loss import NoDerivativeError, Problem
from veridical.attacks.slope import estimate_for, first_slope

GIB = 2**30
SHARE_OF_FREE = 0.5
"""Without a budget, the share of the free memory that an attack takes."""

MARGIN = 1.4
"""What kernels need for themselves is not seen: the measured need is multiplied by this."""

BLOCK = 32 * 2**20
"""On a CPU a tensor of more bytes is memory that the system has to clear, anew each time it is allocated
(glibc keeps freed blocks up to this size): a step of eight pairs took longer than eight steps of one."""

_UNKNOWN = 4 * GIB  # on systems that do not tell what is free


Meter = Callable[[int], "LivePeak"]
"""What the first step of that many of the images takes (of all, where there are fewer)."""


def pairs_together(problem: Problem, clean: Tensor, memory_gib: float | None) -> int:
    """How many pairs a step of `manipulate` may take together: see `together`.

    With an estimated gradient it is the number of pairs times directions in one call of the method.

    Args:
        problem: of the whole batch.
        clean: its images (N, C, H, W).
        memory_gib: the budget.

    Raises:
        ValueError: see `together`.
    """
    if problem.settings.gradient == "estimated":
        pair = problem.part(slice(0, 1))
        most = max(len(clean), FOLDED)
        return together(lambda count: step_meter(pair, clean[:1], count), clean, memory_gib, most)

    def meter(count: int) -> LivePeak:
        return step_meter(problem.part(slice(0, count)), clean[:count])

    return together(meter, clean, memory_gib, len(clean))


def together(meter: Meter, clean: Tensor, memory_gib: float | None, most: int) -> int:
    """How many images a step may take together, so that it fits in the budget, and is quick on a CPU.

    A method that can only explain the whole batch (DeepLIFT with one reference for each image) is not split.

    Args:
        meter: of a step.
        clean: the images (N, C, H, W).
        memory_gib: the budget; infinity for all images whatever they need; None for half of the free memory,
            and single images where not even one fits.
        most: all that there is to do.

    Raises:
        ValueError: where a budget is given and one image does not fit in it, or the method cannot explain a
            part of the batch.
    """
    if memory_gib == math.inf or (memory_gib is None and most == 1):
        return most
    try:
        one, two = meter(1), meter(2)
    except NoDerivativeError:
        raise
    except ValueError as error:
        if memory_gib is None or len(clean) == 1:
            return most  # an error that is not about the part comes back from the attack itself
        raise ValueError(
            f"{error} (got from a part of the batch, which memory_gib asks for; give memory_gib=math.inf "
            "where the method belongs to this batch)"
        ) from error
    budget = SHARE_OF_FREE * free_memory(clean.device) if memory_gib is None else memory_gib * GIB
    if memory_gib is not None and MARGIN * one.peak > budget:
        raise ValueError(
            f"expected memory_gib of at least {MARGIN * one.peak / GIB:.2g}, which one image needs, got "
            f"{memory_gib:g}; give more, take smaller images, or a method of fewer steps or samples"
        )
    fitting = 1 + int((budget / MARGIN - one.peak) // max(two.peak - one.peak, 1))
    quick = most if clean.is_cuda else BLOCK // max(growth(one, two), 1)
    return max(1, min(fitting, quick))


def check_budget(memory_gib: float | None) -> None:
    """Check that a memory budget is a positive number, or None.

    Raises:
        ValueError: where it is not.
    """
    if memory_gib is not None and not memory_gib > 0:
        raise ValueError(
            f"expected memory_gib above 0, got {memory_gib}; None takes half of the memory that is free"
        )


def step_meter(problem: Problem, images: Tensor, directions: int = 1) -> LivePeak:
    """What the tensors of the first step, the largest, take beyond what was there.

    Args:
        problem: of these pairs.
        images: (N, C, H, W).
        directions: of an estimated gradient in one call of the method; others take their turn after it.
    """
    meter = LivePeak()
    span = problem.settings.span(images)
    moved = images.clone().requires_grad_(True)
    called = replace(
        problem,
        settings=replace(problem.settings, directions=directions),
        folded=directions * len(images),
    )
    with meter:
        waiting = None  # the directions of all calls are drawn at once
        if problem.settings.gradient == "estimated":
            waiting = estimate_for(problem).signs(images, 0)
        first_slope(called, moved, span)
        del waiting
    return meter


def growth(one: LivePeak, two: LivePeak) -> int:
    """The bytes by which the largest tensor of a step of one pair grows in the same step of two.

    Only tensors that grow count: a copy of a layer's weights is as large for any number of pairs.
    """
    return max((more - less for less, more in zip(one.sizes, two.sizes, strict=False)), default=0)


class LivePeak(TorchDispatchMode):
    """The most bytes of memory that were alive at once, of all that was allocated inside, and all sizes.

    It follows the life of each storage, on any device. Memory that a kernel uses only inside itself is not
    seen.
    """

    def __init__(self) -> None:
        """Nothing is counted yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.sizes: list[int] = []
        self._live = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count what it allocated."""
        result = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in known:
                known.add(storage._cdata)
                self._allocated(storage)
        return result

    def _allocated(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.sizes.append(size)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self._live -= size


def _storages(items: Any) -> list[torch.UntypedStorage]:
    """The memory of the tensors among items, at any depth; sparse ones have none of this kind."""
    tensors = [item for item in tree_leaves(items) if isinstance(item, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if torch._C._has_storage(tensor)]


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: on a CUDA device, or of the machine or its container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = [value for value in (_available(), _left_in_container()) if value is not None]
    return min(found, default=_UNKNOWN)


def _available() -> int | None:
    """What Linux says is available; elsewhere half of the memory, where it is known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _left_in_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of a container leaves (cgroup version 2); None without a limit."""
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # the limit may be the word "max"
        return None
