"""How often a network is right on images that an adversary may change within a budget."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import check_choice, check_count, check_logits
from veridical.metrics import Interval, share_interval
from veridical.training.accuracy import LEVEL, as_input, check_classes, check_labeled, evaluating
from veridical.training.adversarial import (
    Adversary,
    Loss,
    Norm,
    ascend,
    check_bounds,
    draw_start,
    length_of,
    project,
    summed_cross_entropy,
)
from veridical.training.robustness_art import StrongAttack, check_strong_attack, strong_attacks

Attack = Literal["pgd", "strong"]
Progress = Callable[[int, int], None]
"""Called with the number of attacks that are done, and of all."""


@dataclass(frozen=True)
class RobustnessSettings:
    """How robustness is measured.

    Attributes:
        norm: `"l2"` or `"linf"`, of the change of one image.
        epsilon: its largest norm, in units of the images.
        attack: `"pgd"`: projected gradient descent, every other restart with the margin of the logits
            instead of the cross-entropy, whose gradient vanishes where a network is confident. `"strong"`:
            that, and then on what is left Auto-PGD with cross-entropy and with the difference of logits ratio
            (3 classes or more), and Square, which needs no gradient: the attacks of AutoAttack but for FAB,
            as the Adversarial Robustness Toolbox has them (the extra `robustness`).
        steps: of PGD and Auto-PGD.
        restarts: random starts of PGD, and of Auto-PGD.
        queries: of Square for each image.
        bounds: range of valid values; () for none, for `"pgd"` alone.
        batch: images at once.
        level: probability that the intervals cover.
        seed: of the starting points.

    Source:
        Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks".
    """

    norm: Norm = "l2"
    epsilon: float = 1.0
    attack: Attack = "pgd"
    steps: int = 50
    restarts: int = 4
    queries: int = 1000
    bounds: tuple[float, ...] = (0.0, 1.0)
    batch: int = 128
    level: float = LEVEL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every choice.

        Raises:
            TypeError: if a count is no whole number.
            ValueError: if a choice does not exist or a number is out of range.
        """
        check_choice("attack", self.attack, get_args(Attack))
        for name, least in {"restarts": 1, "queries": 1, "batch": 1, "seed": 0}.items():
            check_count(name, getattr(self, name), least)
        if isinstance(self.epsilon, tuple):
            raise ValueError(f"expected one epsilon, got {self.epsilon}; measure each by itself")
        if not 0 < self.level < 1:
            raise ValueError(f"expected a level between 0 and 1, got {self.level}; 0.95 means 95 %")
        if self.attack == "strong" and not self.bounds:
            raise ValueError("expected bounds for the strong attack, got none; give the range of the images")
        # The adversary checks what it has in common with this.
        _ = self.adversary

    @property
    def adversary(self) -> Adversary:
        """PGD within this budget."""
        return Adversary(self.norm, self.epsilon, self.steps, bounds=self.bounds)


@dataclass(frozen=True, eq=False)
class RobustAccuracy:
    """What is left of the accuracy under attack, one value an image.

    Attributes:
        clean: bool (N,), classified correctly as they are.
        pgd: bool (N,), and still so after PGD.
        robust: bool (N,), and still so after every attack; `pgd` itself where the attack is `"pgd"`.
        distance: float64 (N,), norm of the change that misled the network; 0 where it was wrong before, NaN
            where no attack found one. An attack looks for any change in the budget, not for the smallest.
        settings: how it was measured.
    """

    clean: Tensor
    pgd: Tensor
    robust: Tensor
    distance: Tensor
    settings: RobustnessSettings
    share: float = field(init=False)

    def __post_init__(self) -> None:
        """The share of robust images."""
        object.__setattr__(self, "share", float(self.robust.double().mean()))

    def interval(self, which: Literal["clean", "pgd", "robust"] = "robust") -> Interval:
        """A share with the score interval of Wilson 1927.

        Raises:
            ValueError: if there is no such share.
        """
        check_choice("which", which, ("clean", "pgd", "robust"))
        values: Tensor = getattr(self, which)
        return share_interval(values, level=self.settings.level)


def robust_accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: RobustnessSettings,
    *,
    progress: Progress | None = None,
) -> RobustAccuracy:
    """Attack labeled images, and count those on which no attack misleads the network.

    Robustness cannot be measured, only bounded from above: a better attack may find more. Every image that an
    attack returns is put into the budget and classified again here, and no later attack sees an image that is
    misled already, so the share is never above that of PGD alone. With `"pgd"` it does not depend on the
    batch; the draws of the strong attacks do. The network, its mode and the global random states are as
    before.

    Args:
        network: maps images to logits (N, K).
        images: (N, C, H, W), uint8 (scaled to [0, 1]) or float.
        labels: LongTensor (N,).
        settings: how.
        progress: called after each attack.

    Raises:
        TypeError: if images or labels are of another type.
        ValueError: if they do not fit each other, the network or the bounds, or logits are not finite.
        ModuleNotFoundError: if the strong attack is asked for and its package is not installed.
    """
    check_labeled(images, labels)
    check_bounds(images, settings.adversary)
    if settings.attack == "strong":
        check_strong_attack()
    inputs = as_input(network, images)
    run = _Run(network, inputs, labels.to(inputs.device), settings)
    with evaluating(network):
        found = run.predicted(run.images)
        check_classes(run.labels, run.classes)
        clean = found == run.labels
        run.alive, run.distance = clean.clone(), torch.where(clean, torch.nan, 0.0).double()
        total = settings.restarts + (
            len(strong_attacks(run.classes, run.side)) if settings.attack == "strong" else 0
        )
        pgd = clean
        for done, attack in enumerate(run.attacks(), start=1):
            run.mislead(attack)
            pgd = run.alive.clone() if done <= settings.restarts else pgd
            if progress is not None:
                progress(done, total)
    return RobustAccuracy(clean.cpu(), pgd.cpu(), run.alive.cpu(), run.distance.cpu(), settings)


OneAttack = Callable[[Tensor], Tensor]
"""From the indices of images to what became of them."""


@dataclass(eq=False)
class _Run:
    """Which images are still classified correctly."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    settings: RobustnessSettings
    classes: int = 0
    alive: Tensor = field(init=False)
    distance: Tensor = field(init=False)

    def predicted(self, images: Tensor) -> Tensor:
        """LongTensor (N,), the classes that the network sees."""
        found = []
        with torch.no_grad():
            for part in images.split(self.settings.batch):
                logits = check_logits(self.network(part), len(part))
                self.classes = logits.shape[1]
                found.append(logits.argmax(dim=1))
        return torch.cat(found)

    def attacks(self) -> Iterator[OneAttack]:
        """All of them, in their order."""
        source = torch.Generator().manual_seed(self.settings.seed)
        for restart in range(self.settings.restarts):
            seeds = torch.randint(2**62, (len(self.images),), generator=source)
            yield self._pgd(seeds, summed_cross_entropy if restart % 2 == 0 else summed_margin)
        if self.settings.attack == "strong":
            for attack in strong_attacks(self.classes, self.side):
                yield self._strong(attack)

    @property
    def side(self) -> int:
        """The shorter side of the images."""
        return min(self.images.shape[2:])

    def mislead(self, attack: OneAttack) -> None:
        """Attack the images that are left, and note which the network now gets wrong."""
        left = self.alive.nonzero().flatten()
        if len(left) == 0:
            return
        images = self.images[left]
        # An attack of others may leave the budget, by rounding or for good.
        changed = project(attack(left), images, self.settings.adversary)
        wrong = self.predicted(changed) != self.labels[left]
        change = (changed - images).double()
        self.distance[left[wrong]] = length_of(change, self.settings.adversary).flatten()[wrong]
        self.alive[left[wrong]] = False

    def _pgd(self, seeds: Tensor, loss: Loss) -> OneAttack:
        adversary = self.settings.adversary

        def attack(left: Tensor) -> Tensor:
            found = []
            for at in left.split(self.settings.batch):
                own = [torch.Generator().manual_seed(int(seeds[one])) for one in at.tolist()]
                shape = torch.Size((1, *self.images.shape[1:]))
                start = torch.cat([draw_start(shape, adversary, one) for one in own])
                images = self.images[at]
                begin = start.to(images)
                found.append(ascend(self.network, images, self.labels[at], adversary, begin, loss))
            return torch.cat(found)

        return attack

    def _strong(self, attack: StrongAttack) -> OneAttack:
        settings = self.settings

        def run(left: Tensor) -> Tensor:
            return attack(self.network, self.images[left], self.labels[left], settings)

        return run


def summed_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit less that of the label; its gradient does not vanish as a softmax's does."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return (others - own).sum()
