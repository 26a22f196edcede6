"""A training run on disk, after a whole epoch: everything that the next epoch needs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from veridical.records import RecordError, read_arrays, write_arrays
from veridical.training.settings import TrainingSettings, settings_from

FORMAT = 1
OWN = "network."


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch said about the training images, as the network saw them: changed, and with dropout.

    Attributes:
        loss: mean cross-entropy over the epoch.
        accuracy: share of images classified correctly.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Checkpoint:
    """Where a training run stands.

    Attributes:
        path: the file.
        settings: of the run.
        data: digest of images and labels.
    """

    path: Path
    settings: TrainingSettings
    data: str

    def save(self, network: nn.Module, optimizer: Optimizer, history: tuple[EpochRecord, ...]) -> None:
        """Write the state after as many epochs as the history has; the file is always whole."""
        arrays = {f"{OWN}{name}": _array(value) for name, value in network.state_dict().items()}
        arrays |= optimizer_arrays(optimizer)
        told = {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "data": self.data,
            "history": [asdict(one) for one in history],
        }
        write_arrays(self.path, arrays, told)

    def load(self, network: nn.Module, optimizer: Optimizer) -> tuple[EpochRecord, ...]:
        """Put network and optimizer into the state of the file.

        Returns:
            The history; empty, and nothing is changed, where there is no file.

        Raises:
            ValueError: the file is damaged, or belongs to another network, other images or other settings.
        """
        if not self.path.exists():
            return ()
        try:
            arrays, told = read_arrays(self.path)
        except (RecordError, ValueError) as error:
            raise ValueError(
                f"expected a checkpoint in {self.path}, got a damaged file; delete it to start again"
            ) from error
        history = self._checked(told)
        state = {name[len(OWN) :]: value for name, value in arrays.items() if name.startswith(OWN)}
        self._check_network(network, state)
        network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        load_optimizer(optimizer, arrays)
        return history

    def _checked(self, told: Mapping[str, Any]) -> tuple[EpochRecord, ...]:
        try:
            earlier = settings_from(told["settings"])
            history = tuple(EpochRecord(**one) for one in told["history"])
            data = told["data"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected a checkpoint of a training run, got {self.path} ({error}); choose another place"
            ) from error
        different = earlier.difference(self.settings)
        if not different and data != self.data:
            different = "other images or labels"
        if not different and len(history) > self.settings.epochs:
            different = f"epochs {self.settings.epochs}, of which {len(history)} are done"
        if different:
            raise ValueError(
                f"expected to continue the run of {self.path}, got {different}; "
                "choose another place or delete it to start again"
            )
        return history

    def _check_network(self, network: nn.Module, state: Mapping[str, NDArray[Any]]) -> None:
        own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        found = {name: value.shape for name, value in state.items()}
        if own != found:
            names = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
            raise ValueError(
                f"expected the network of {self.path}, got one that differs in {', '.join(names[:5])}; "
                "choose another place or delete it to start again"
            )


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _array(value: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = value.detach().cpu().numpy()
    return found


def optimizer_arrays(optimizer: Optimizer) -> dict[str, NDArray[Any]]:
    """The state of an optimizer as arrays `optimizer.<number of the weight>.<name>`."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{index}.{key}": _array(value) for key, value in _tensors(state).items()}
    return arrays


def load_optimizer(optimizer: Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put an optimizer into the state that `optimizer_arrays` gave; other arrays are not looked at."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            # A number comes back from safetensors as an array without dimensions.
            states.setdefault(int(index), {})[key] = torch.from_numpy(np.array(value))
    whole = optimizer.state_dict()
    optimizer.load_state_dict({**whole, "state": states})
