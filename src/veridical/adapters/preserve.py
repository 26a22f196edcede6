"""A model, and the global random states, exactly as they were, whatever another package does to them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back everything about a model: attributes, hooks, modes, parameters, buffers and gradients.

    Values are compared with a copy, so that changes in place are undone too: the block needs the memory of
    the parameters and buffers once more. Rules of Captum that the user has put on a module are kept as well.

    Args:
        model: any module.
    """
    saved: list[_Attributes | _Values] = [_Attributes(owner) for owner in _owners(model)]
    saved += [_Values(tensor) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        for part in saved:
            part.restore()


def _owners(model: nn.Module) -> Iterator[Any]:
    """The modules, and what Captum's LRP reads from them and writes its activations to."""
    for module in model.modules():
        yield module
        yield from (value for value in vars(module).values() if type(value).__module__.startswith("captum."))


class _Attributes:
    """The attributes of an object, with the content of those that are dictionaries or sets (the hooks)."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.values = dict(vars(owner))
        self.content = [(value, value.copy()) for value in self.values.values() if _is_container(value)]

    def restore(self) -> None:
        """Remove what is new, put back what was."""
        attributes = vars(self.owner)
        for name in attributes.keys() - self.values.keys():
            del attributes[name]
        attributes.update(self.values)
        for container, before in self.content:
            container.clear()
            container.update(before)


def _is_container(value: object) -> bool:
    return isinstance(value, dict | set)


class _Values:
    """The values of a parameter or buffer, its gradient and whether it wants one."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.memory = tensor.data
        self.values = tensor.detach().clone()
        self.requires_grad = tensor.requires_grad
        self.gradient = tensor.grad
        self.gradient_values = None if tensor.grad is None else tensor.grad.detach().clone()

    def restore(self) -> None:
        """Touch only what has changed: a graph that autograd has recorded stays usable."""
        tensor = self.tensor
        if not tensor.data.is_set_to(self.memory):
            tensor.data = self.memory
        _write_back(tensor, self.values)
        if tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if tensor.grad is not self.gradient:
            tensor.grad = self.gradient
        if self.gradient is not None and self.gradient_values is not None:
            _write_back(self.gradient, self.gradient_values)


def _write_back(tensor: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        if not torch.equal(tensor, values):
            tensor.copy_(values)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and put their states back.

    The other packages draw from them and take no generator.

    Args:
        seed: of all three, from 0 to 2^32 - 1.
    """
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def check_seed(seed: object) -> None:
    """Check a seed.

    Raises:
        ValueError: if it is no whole number from 0 to 2^32 - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed from 0 to 2^32 - 1, got {seed!r}; give a whole number")
