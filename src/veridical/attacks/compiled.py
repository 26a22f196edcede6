"""A step of the attack as one compiled graph: the network, the map, the loss, and the derivative of all.

`torch.compile` of a network alone does not serve: what it compiles cannot be differentiated twice. Here the
eager step is recorded operation by operation, both derivatives included, and that graph is compiled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from veridical.attacks.loss import Problem
from veridical.attacks.preconditions import gradient_of
from veridical.attacks.settings import ManipulationSettings
from veridical.attacks.slope import slope
from veridical.tensors import flushed_denormals, per_sample

AGREES = 1e-3
"""The largest difference from the eager step, as a share of the largest value of a pair's gradient."""

Step = Callable[..., tuple[Tensor, Tensor]]
"""Losses (N,) and gradients (N, C, H, W) of images, targets, target maps, clean logits, and the beta."""


@dataclass(frozen=True)
class CompiledSlope:
    """`slope` by a compiled graph; fewer pairs than it was compiled for are filled up with the last one.

    Args:
        step: what was compiled.
        size: its number of pairs.
    """

    step: Step
    size: int

    def __call__(self, problem: Problem, images: Tensor, span: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The loss of each pair (N,) and its gradient (N, C, H, W)."""
        rows = torch.arange(self.size, device=images.device).clamp(max=len(images) - 1)
        given = (images.detach(), problem.targets, problem.target_map, problem.logits)
        with torch.no_grad():
            losses, gradient = self.step(*(one[rows] for one in given), _beta(problem, images, step))
        return losses[: len(images)], gradient[: len(images)]

    def gap(self, problem: Problem, images: Tensor, span: Tensor, step: int) -> float:
        """The largest difference from the eager step; see `AGREES`."""
        with flushed_denormals():
            (_, eager), (_, ours) = (one(problem, images, span, step) for one in (slope, self))
        size = eager.flatten(1).abs().amax(1).clamp(min=torch.finfo(eager.dtype).tiny)
        return float(((ours - eager) / per_sample(size, eager)).abs().amax())

    def check_last(self, problem: Problem, images: Tensor, span: Tensor, step: int) -> None:
        """Warn where the graph, recorded at the first step, no longer gives what the eager step gives."""
        gap = self.gap(problem, images, span, step)
        if not gap <= AGREES:
            warnings.warn(
                f"expected the compiled step to agree with the eager one to {AGREES:g}, got {gap:.2g} at "
                f"step {step}: what was constant when it was recorded has changed; all that is returned was "
                "measured on the unmodified network and holds, but compiled=False may reach more",
                stacklevel=2,
            )


def check_exact(settings: ManipulationSettings) -> None:
    """Check that there is a derivative to compile.

    Raises:
        ValueError: where the gradient is estimated.
    """
    if settings.gradient == "estimated":
        raise ValueError(
            "expected an exact gradient to compile, got gradient='estimated'; give compiled=False"
        )


def compiled_slope(problem: Problem, images: Tensor, span: Tensor) -> CompiledSlope:
    """The step of these pairs, recorded, compiled, and compared with the eager one.

    It is compared twice: a method that draws other noise in each call is found out by the second. That the
    eager step works is for the caller to check.

    Args:
        problem: of these pairs.
        images: (N, C, H, W), with `requires_grad`.
        span: see `slope`.

    Raises:
        ValueError: where the step cannot be recorded or compiled, or differs by more than `AGREES`.
    """
    try:
        found = CompiledSlope(_compiled(problem, images), len(images))
        gaps = [found.gap(problem, images, span, 0) for _ in range(2)]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"expected a step that can be recorded and compiled, got: {reason[0]}; give compiled=False"
        ) from error
    if not all(gap <= AGREES for gap in gaps):  # NaN is not
        raise ValueError(
            f"expected the compiled step to agree with the eager one to {AGREES:g} of the largest value, got "
            f"{gaps[0]:.2g} and {gaps[1]:.2g}; the method may draw noise of its own: give compiled=False"
        )
    return found


def _compiled(problem: Problem, images: Tensor) -> Step:
    def step(image: Tensor, targets: Tensor, target_map: Tensor, logits: Tensor, beta: Tensor) -> Any:
        own = replace(problem, targets=targets, target_map=target_map, logits=logits)
        with torch.enable_grad(), _Values():  # type: ignore[no-untyped-call]
            image = image.detach().requires_grad_()
            losses = own.losses(image, beta if problem.smooth else math.inf)
            return losses.detach(), gradient_of(losses.sum(), image)

    given = (images.detach(), problem.targets, problem.target_map, problem.logits, _beta(problem, images, 0))
    with flushed_denormals():
        graph = make_fx(step)(*given)
    compiled: Step = torch.compile(graph, dynamic=False)
    return compiled


def _beta(problem: Problem, images: Tensor, step: int) -> Tensor:
    """The softplus beta as a tensor: a number would become part of the graph."""
    return torch.tensor(problem.beta(step), dtype=images.dtype, device=images.device)


class _Values(TorchDispatchMode):
    """Keeps out of the graph what reads a value and what draws from a generator.

    Checks and choices so see the values of the first step, and noise of a fixed seed, the same in each call,
    becomes a constant.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default or kwargs.get("generator") is not None:
            with disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        return func(*args, **kwargs)
