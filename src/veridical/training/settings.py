"""What a training run is made of, as one value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from veridical.checks import check_choice, check_count
from veridical.training.adversarial import Adversary

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "step", "cosine"]

COUNTS = {"epochs": 0, "batch": 1, "step_epochs": 1, "seed": 0}


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained, by cross-entropy on mini-batches.

    Attributes:
        epochs: passes over all images; 0 leaves the network as it is.
        batch: images a step; the last step of an epoch takes what is left.
        optimizer: `"adam"` with the usual moments (0.9, 0.999), or `"sgd"`.
        lr: learning rate of the first step.
        momentum: of SGD, in [0, 1); Adam has its own.
        weight_decay: added to the gradient as weight_decay * weight.
        schedule: `"constant"`; `"step"`: times `step_factor` after each `step_epochs` epochs; `"cosine"`:
            down to 0 over all steps.
        step_epochs: of the schedule `"step"`.
        step_factor: of the schedule `"step"`.
        shift: largest shift of an image along each axis, a share of its side; uniform, not rounded to whole
            pixels, with edges continued. 0 for none.
        flip: whether every other image, by chance, is mirrored left to right.
        seed: of the order of the images, of their changes and of dropout. The initial weights are the
            caller's.
        adversary: changes every batch before the network sees it, after `shift` and `flip`; None for none.
    """

    epochs: int = 100
    batch: int = 32
    optimizer: Optimizer = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    step_epochs: int = 10
    step_factor: float = 0.1
    shift: float = 0.0
    flip: bool = False
    seed: int = 0
    adversary: Adversary | None = None

    def __post_init__(self) -> None:
        """Check every choice.

        Raises:
            TypeError: if a count is no whole number, or the adversary is none.
            ValueError: if a choice does not exist or a number is out of range.
        """
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_choice("schedule", self.schedule, get_args(Schedule))
        for name, least in COUNTS.items():
            check_count(name, getattr(self, name), least)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"expected lr above 0, got {self.lr}; 0.001 is usual for Adam")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"expected weight_decay of 0 or more, got {self.weight_decay}; 0 means none")
        if not 0 <= self.momentum < 1 or (self.momentum and self.optimizer != "sgd"):
            raise ValueError(
                f"expected momentum in [0, 1), and only for sgd, got {self.momentum} for {self.optimizer}; "
                "set it to 0"
            )
        if not 0 < self.step_factor <= 1:
            raise ValueError(f"expected step_factor in (0, 1], got {self.step_factor}; 0.1 is usual")
        if not 0 <= self.shift < 1:
            raise ValueError(f"expected shift as a share of the side in [0, 1), got {self.shift}; try 0.1")
        if not isinstance(self.adversary, Adversary | None):
            raise TypeError(f"expected adversary as an Adversary or None, got {self.adversary!r}; make one")

    def factor(self, epoch: int, step: int, steps: int) -> float:
        """What multiplies `lr` in a step.

        Args:
            epoch: number of epochs that are done.
            step: number of steps of this epoch that are done.
            steps: of an epoch.
        """
        if self.schedule == "step":
            return float(self.step_factor ** (epoch // self.step_epochs))
        if self.schedule == "cosine":
            done = (epoch + step / steps) / max(1, self.epochs)
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1.0

    def total_steps(self, images: int) -> int:
        """Steps of the whole training on so many images."""
        return self.epochs * math.ceil(images / self.batch)

    def difference(self, other: "TrainingSettings") -> str:
        """The first setting in which a run that is continued would differ, as text; "" where there is none.

        More epochs are no difference, but for the cosine, whose every step depends on their number.
        """
        free = () if self.schedule == "cosine" else ("epochs",)
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in free and mine != theirs:
                return f"{field.name} {theirs} instead of {mine}"
        return ""


def settings_from(told: Mapping[str, Any]) -> TrainingSettings:
    """The settings that `dataclasses.asdict` turned into a mapping, also after a detour over JSON.

    Raises:
        TypeError: if a name is unknown.
        ValueError: if a value is out of range.
    """
    adversary = told.get("adversary")
    if adversary is not None:
        # JSON knows no tuples.
        plain: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in adversary.items()
        }
        adversary = Adversary(**plain)
    return TrainingSettings(**{**told, "adversary": adversary})
