"""What `veridical train` needs for adversarial training: the adversary, and the robust accuracy."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, cast

import typer
from torch import nn

from veridical.data import LabeledImages
from veridical.training import (
    Adversary,
    RobustAccuracy,
    RobustnessSettings,
    TrainingSettings,
    check_strong_attack,
    robust_accuracy,
)

Norm = Annotated[
    str | None, typer.Option("--adversary", help="l2 or linf: train on images that PGD has changed.")
]
Epsilon = Annotated[float | None, typer.Option("--epsilon", help="Largest norm of the change of an image.")]
Steps = Annotated[int | None, typer.Option("--adversary-steps", help="Gradient steps of the adversary.")]
Attack = Annotated[
    str, typer.Option("--attack", help="For the robust accuracy: pgd, or strong (the extra `robustness`).")
]
Attacked = Annotated[
    int, typer.Option("--attacked", help="So many test images are attacked after adversarial training.")
]


@dataclass(frozen=True)
class AdversaryOptions:
    """The options as they were given; None for the recipe's."""

    norm: str | None
    epsilon: float | None
    steps: int | None
    attack: str
    attacked: int

    def settings(self, settings: TrainingSettings) -> TrainingSettings:
        """A recipe's settings with this adversary, or with its own, changed by what was given.

        Raises:
            ValueError: if an option lacks another, or is out of range.
        """
        own = settings.adversary
        if self.norm is not None:
            if self.epsilon is None:
                raise ValueError("expected --epsilon with --adversary, got none; give the largest change")
            own = Adversary(norm=cast(Literal["l2", "linf"], self.norm), epsilon=self.epsilon)
        elif own is None and (self.epsilon is not None or self.steps is not None):
            raise ValueError("expected --adversary with --epsilon and --adversary-steps, got none; add it")
        if own is None:
            return settings
        epsilon = own.epsilon if self.epsilon is None else self.epsilon
        steps = own.steps if self.steps is None else self.steps
        return replace(settings, adversary=replace(own, epsilon=epsilon, steps=steps))

    def robustness(self, settings: TrainingSettings) -> RobustnessSettings | None:
        """How robust accuracy is measured: within what one image had in the training; None for not at all.

        Raises:
            ValueError: if an option is out of range.
            ModuleNotFoundError: if the attack's package is not installed.
        """
        if self.attacked < 0:
            raise ValueError(f"expected --attacked of 0 or more, got {self.attacked}; 0 attacks no image")
        adversary = settings.adversary
        if adversary is None or self.attacked == 0:
            return None
        # Images that share a budget have equal parts of it on average.
        share = math.sqrt(settings.batch) if adversary.budget == "batch" else 1.0
        found = RobustnessSettings(
            norm=adversary.norm,
            epsilon=max(adversary.epsilons) / share,
            attack=cast(Literal["pgd", "strong"], self.attack),
            bounds=adversary.bounds or (0.0, 1.0),
        )
        if found.attack == "strong":
            check_strong_attack()
        return found

    def measured(
        self, network: nn.Module, images: LabeledImages, settings: RobustnessSettings
    ) -> RobustAccuracy:
        """The robust accuracy on the first of the test images, mixed by seed 0."""
        some = images if self.attacked >= len(images) else images.subset(self.attacked, 0)
        typer.echo(f"attacking {len(some)} test images", err=True)
        return robust_accuracy(network, some.images, some.labels, settings)


def robust_record(found: RobustAccuracy) -> dict[str, Any]:
    """The part `robust_accuracy` of training.json."""
    shares = {}
    for which in ("clean", "pgd", "robust"):
        interval = found.interval(which)
        shares[which] = {"share": interval.estimate, "low": interval.low, "high": interval.high}
    return {**shares, "n": len(found.robust), "settings": asdict(found.settings)}


def tell_robust(found: RobustAccuracy) -> None:
    """The robust accuracy in one line."""
    interval, settings = found.interval(), found.settings
    typer.echo(
        f"robust accuracy {found.share:.2%} of {len(found.robust)} images against {settings.attack} with "
        f"{settings.norm} {settings.epsilon:g} "
        f"({settings.level:.0%} interval {interval.low:.2%} to {interval.high:.2%})"
    )
