"""New random weights for a network, unit by unit, without touching the global random state."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veridical.faithfulness._seeds import generator

INITIALIZATIONS = ("glorot", "module")

ROOT = "(model)"
"""Name of the unit of the parameters that belong to the model itself."""

State = list[tuple[Tensor, Tensor]]
"""Tensors of a model, each with the values that it shall have."""


@dataclass(frozen=True)
class Unit:
    """A module with parameters or buffers of its own; `index` is its rank from the top of the network."""

    name: str
    module: nn.Module
    index: int


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Own parameters (True) and buffers (False) of a module by name, those of its children left out."""
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter, True
    for name, buffer in module.named_buffers(recurse=False):
        yield name, buffer, False


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode whose weights may be changed.

    Raises:
        ValueError: if the model cannot be copied.
    """
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        raise ValueError(
            f"expected a model that copy.deepcopy can copy, got {type(model).__name__} ({error}); "
            "randomization works on a copy so that the model itself stays as it is"
        ) from error


def units(model: nn.Module, inputs: Tensor) -> list[Unit]:
    """The modules with own parameters or buffers, the last executed first.

    A module that is called several times counts at its last call, a container with parameters of its own
    at the time when it is entered, and a module that is never called (a mere holder of parameters) directly
    before its nearest container that is.

    Args:
        model: a copy that may be run.
        inputs: one image or more.

    Returns:
        The units, top of the network first.
    """
    calls: dict[str, int] = {}
    handles = []
    counter = iter(range(10**12))

    def remember(name: str) -> None:
        calls[name] = next(counter)

    named = dict(model.named_modules())
    try:
        for name, module in named.items():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: remember(name)))
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()

    def time(name: str) -> float:
        holder = name
        while holder and holder not in calls:
            holder = holder.rpartition(".")[0]
        return calls.get(holder, -1) + (0.0 if holder == name else 0.5)

    holders = [name for name, module in named.items() if next(_own(module), None) is not None]
    ordered = sorted(reversed(holders), key=time, reverse=True)
    return [Unit(name or ROOT, named[name], index) for index, name in enumerate(ordered)]


def _glorot(tensor: Tensor, local: torch.Generator) -> Tensor:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)); a vector has its length, a number 1, as both fans."""
    receptive = math.prod(tensor.shape[2:])
    fan_out = tensor.shape[0] if tensor.dim() else 1
    fan_in = tensor.shape[1] if tensor.dim() > 1 else fan_out
    bound = math.sqrt(6.0 / max(1, (fan_in + fan_out) * receptive))
    drawn = torch.rand(tensor.shape, generator=local, dtype=torch.float64)
    return (2 * drawn - 1) * bound


def _perturbed(buffer: Tensor, local: torch.Generator) -> Tensor:
    """A buffer of unknown meaning, drawn uniformly within the range of its values.

    Where all values are equal each is multiplied by a number in [0.5, 1.5]: sign and scale survive, as a
    standard deviation needs it. Integers, booleans and infinite values (indices, masks) are structure and
    stay.
    """
    if not buffer.is_floating_point() or buffer.numel() == 0 or not bool(buffer.isfinite().all()):
        return buffer.detach().clone()
    drawn = torch.rand(buffer.shape, generator=local, dtype=torch.float64)
    low, high = float(buffer.min()), float(buffer.max())
    if low == high:
        return low * (0.5 + drawn)
    return low + (high - low) * drawn


_STATISTICS = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def _keras_value(module: nn.Module, name: str, tensor: Tensor, local: torch.Generator) -> Tensor:
    """The value of a parameter under the initialization that Keras uses by default."""
    if name == "bias" or name.startswith("bias_"):
        return torch.zeros_like(tensor)
    if isinstance(module, _NORMS) or hasattr(module, "running_var"):
        return torch.ones_like(tensor)
    return _glorot(tensor, local)


def _reset(module: nn.Module, local: torch.Generator) -> dict[str, Tensor]:
    """Own tensors of a module after its `reset_parameters`, which draws from the global CPU generator.

    The draws happen on a CPU copy, under a seed of `local`; the global state is put back.
    """
    fresh = copy.deepcopy(module).cpu()
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=local)))
        fresh.reset_parameters()  # type: ignore[operator]
    finally:
        torch.default_generator.set_state(state)
    return {name: tensor.detach() for name, tensor, _ in _own(fresh)}


def random_state(unit: Unit, initialization: str, seed: int) -> State:
    """New values for every own parameter and buffer of a unit, from its own generator.

    Args:
        unit: the unit; its rank chooses the generator, so that equal shapes get different weights.
        initialization: `"glorot"` or `"module"`.
        seed: the same seed gives the same values.

    Returns:
        Each tensor with its new values.
    """
    local = generator(seed, unit.index)
    resettable = initialization == "module" and callable(getattr(unit.module, "reset_parameters", None))
    reset = _reset(unit.module, local) if resettable else {}
    state: State = []
    for name, tensor, is_parameter in _own(unit.module):
        if name in reset and (is_parameter or name in _STATISTICS):
            value = reset[name]
        elif is_parameter:
            value = _keras_value(unit.module, name, tensor, local)
        elif name in _STATISTICS:
            value = torch.full_like(tensor, _STATISTICS[name])
        else:
            value = _perturbed(tensor, local)
        state.append((tensor, value.to(device=tensor.device, dtype=tensor.dtype)))
    return state


def random_states(chosen: Sequence[Unit], initialization: str, seed: int) -> Callable[[Unit], State]:
    """`random_state` of a unit when it is asked for: never two copies of a large network's weights at once.

    A tensor that several units share gets the values of the first of them, drawn here.
    """
    uses = Counter(id(tensor) for unit in chosen for _, tensor, _ in _own(unit.module))
    shared: dict[int, Tensor] = {}
    for unit in chosen:
        if any(uses[id(tensor)] > 1 for _, tensor, _ in _own(unit.module)):
            for tensor, value in random_state(unit, initialization, seed):
                if uses[id(tensor)] > 1:
                    shared.setdefault(id(tensor), value)

    def draw(unit: Unit) -> State:
        state = random_state(unit, initialization, seed)
        return [(tensor, shared.get(id(tensor), value)) for tensor, value in state]

    return draw


def replaced(state: State) -> State:
    """The same tensors with the values that they have now, to be put back."""
    return [(tensor, tensor.detach().clone()) for tensor, _ in state]


def assign(state: State) -> None:
    """Write the values into the tensors."""
    with torch.no_grad():
        for tensor, value in state:
            tensor.copy_(value)
