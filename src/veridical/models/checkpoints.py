"""State dicts from files, without running code that a file may contain."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 5
COUNT = "num_batches_tracked"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict written by `torch.save` or by safetensors.

    A checkpoint that holds the state dict under the key "state_dict" is opened, and the prefix "module."
    of a network that was trained with `DataParallel` is taken off. Pickled code is never run.

    Args:
        path: `.safetensors`, or any other suffix for a file of `torch.save`.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds anything but a state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with weights, got {path}; there is no such file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"expected a state dict of tensors only, got {path} ({_first_line(error)}); "
            "write one with torch.save(model.state_dict(), file) or with safetensors"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"expected a dictionary of tensors, got {type(state).__name__} in {path}; "
            "write one with torch.save(model.state_dict(), file)"
        )
    prefix = "module."
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a module.

    Args:
        module: changed in place.
        path: see `read_state_dict`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no state dict, or keys or shapes differ; all kinds of difference are listed.
    """
    state, own = read_state_dict(path), module.state_dict()
    # Files older than torch 0.4.1 do not count batches, and evaluation never reads the count.
    state |= {name: own[name] for name in own if name.endswith(COUNT) and name not in state}
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and isinstance(value, Tensor) and state[name].shape != value.shape
    ]
    differences = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "other shape": shapes,
    }
    found = [f"{kind}: {_listed(names)}" for kind, names in differences.items() if names]
    if found:
        raise ValueError(
            f"expected the state dict of {type(module).__name__}, got {path} with {'; '.join(found)}; "
            "use the weights of this very architecture"
        )
    module.load_state_dict(state)


def _load_tensors(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
