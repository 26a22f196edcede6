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

Norms = Literal["l2", "linf"]
Norm = Annotated[
    str | None, typer.Option("--adversary", help="l2 or linf: train on images that PGD has changed.")
]
Epsilon = Annotated[float | None, typer.Option("--epsilon", help="Largest norm of the change of an image.")]
Steps = Annotated[int | None, typer.Option("--adversary-steps", help="Gradient steps of the adversary.")]
BudgetOf = Annotated[
    str | None,
    typer.Option(
        "--adversary-budget",
        help="image: every image has --epsilon of its own; batch (l2): all images of a batch share it.",
    ),
]
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
    budget: str | None
    attack: str
    attacked: int

    def settings(self, settings: TrainingSettings) -> TrainingSettings:
        """A recipe's settings with this adversary, or with its own, changed by what was given.

        Raises:
            ValueError: if an option lacks another, or is out of range.
        """
        given = {"epsilon": self.epsilon, "steps": self.steps, "budget": self.budget}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        own = settings.adversary
        if self.norm is not None and (own is None or own.norm != self.norm):
            self._check_new(own)
            return replace(settings, adversary=Adversary(norm=cast(Norms, self.norm), **changes))
        if own is None and changes:
            raise ValueError(
                "expected --adversary with --epsilon, --adversary-steps and --adversary-budget, got none; "
                "add it"
            )
        return settings if own is None else replace(settings, adversary=replace(own, **changes))

    def _check_new(self, own: Adversary | None) -> None:
        """An adversary of another norm than the recipe's takes nothing from it, which must be said."""
        if self.epsilon is None:
            raise ValueError("expected --epsilon with --adversary, got none; give the largest change")
        if own is not None and own.budget == "batch" and self.budget is None:
            raise ValueError(
                f"expected --adversary-budget with --adversary {self.norm}, got none for a recipe whose "
                "images share a budget; give image or batch"
            )

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
