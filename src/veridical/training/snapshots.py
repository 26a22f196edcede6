"""The network at chosen steps of its training, kept on disk."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from veridical.checks import check_count
from veridical.records import RecordError, read_arrays, write_arrays
from veridical.training.classifier import TrainingMoment, TrainingProgress


def log_steps(total: int, count: int = 20) -> tuple[int, ...]:
    """Steps from 0 to `total`, at most `count`, evenly spaced by their logarithm.

    Args:
        total: of the whole training.
        count: 2 or more; small steps that round to the same number are one.

    Raises:
        TypeError: if one is no whole number.
        ValueError: if `total` is below 1 or `count` below 2.
    """
    check_count("total", total, 1)
    check_count("count", count, 2)
    spaced = [round(total ** (index / (count - 2))) for index in range(count - 1)] if count > 2 else [total]
    return tuple(sorted({0, *spaced, total}))


@dataclass(frozen=True, eq=False)
class Snapshots:
    """Writes the weights of a network into a folder when a training reaches a step; see `train_classifier`.

    The training is the same with and without. After an interrupt, steps that were written are written again
    where the training goes through them again, and kept where it does not.

    Attributes:
        folder: gets `step-00000012.safetensors` and so on; each is a state dict that `--weights` takes.
        network: the one that is trained.
        steps: numbers of optimizer steps since the beginning; 0 is the network before the first.
        progress: called too, after every step.
    """

    folder: Path
    network: nn.Module
    steps: Collection[int]
    progress: TrainingProgress | None = None

    def __post_init__(self) -> None:
        """Check the steps.

        Raises:
            TypeError: if one is no whole number.
            ValueError: if there is none, or one is negative.
        """
        if not self.steps:
            raise ValueError("expected steps at which to keep the network, got none; see log_steps")
        for step in self.steps:
            check_count("step", step, 0)

    def keep_first(self) -> None:
        """Write step 0, if it is asked for; call it before the training."""
        if 0 in self.steps and not self.path(0).exists():
            self._write(0)

    def __call__(self, moment: TrainingMoment) -> None:
        """Write the network where the step is one of those; the training's `progress`."""
        step = moment.epoch * moment.steps + moment.step
        if step in self.steps:
            self._write(step)
        if self.progress is not None:
            self.progress(moment)

    def load(self, network: nn.Module) -> Iterator[int]:
        """Put a network into the state of each step in turn, in evaluation mode; yields the step.

        Raises:
            ValueError: if a step is missing, or belongs to another network.
        """
        missing = [step for step in sorted(self.steps) if not self.path(step).exists()]
        if missing:
            raise ValueError(
                f"expected the network after step {missing[0]} in {self.folder}, got none: the training had "
                "passed it, or ended before; train again in an empty folder, or choose other steps"
            )
        network.eval()
        for step in sorted(self.steps):
            try:
                arrays, _ = read_arrays(self.path(step))
                network.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
            except (RecordError, RuntimeError) as error:
                raise ValueError(
                    f"expected the weights of this network in {self.path(step)}, got others ({error}); "
                    "train again in an empty folder"
                ) from error
            yield step

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:08d}.safetensors"

    def _write(self, step: int) -> None:
        arrays = {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}
        write_arrays(self.path(step), arrays)
