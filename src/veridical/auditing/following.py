"""How alignment with the tangent space changes while a network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from veridical.manifold import Alignment, AlignmentSummary
from veridical.metrics import Interval, bootstrap_interval
from veridical.training import Snapshots, Training, TrainingSettings, train_classifier


@dataclass(frozen=True, eq=False)
class FollowedAlignment:
    """Fractions in the tangent space at steps of a training, on the same images.

    Attributes:
        steps: numbers of optimizer steps; 0 is the network before the first.
        alignments: one a step.
        training: the training.
    """

    steps: tuple[int, ...]
    alignments: tuple[Alignment, ...]
    training: Training

    def summaries(self, method: str) -> tuple[AlignmentSummary, ...]:
        """One method's mean fraction at each step, with its interval over images.

        Raises:
            ValueError: if the method was not measured.
        """
        return tuple(one.summary(method) for one in self.alignments)

    def change(self, method: str, since: int = 0) -> tuple[Interval, ...]:
        """Mean over images of the paired difference from an earlier step, at each step, with its interval.

        Args:
            method: which.
            since: position in `steps` of the one to compare with.

        Raises:
            ValueError: if the method was not measured, or there is no such position.
        """
        if not 0 <= since < len(self.steps):
            raise ValueError(f"expected since in 0..{len(self.steps) - 1}, got {since}; it counts the steps")
        first = self.alignments[since]
        settings = first.settings
        changes = [(one.of(method) - first.of(method)).numpy() for one in self.alignments]
        return tuple(
            bootstrap_interval(change, "mean", level=settings.level, seed=settings.seed) for change in changes
        )

    def table(self) -> str:
        """One row a step, one column a method, as a Markdown table: mean fraction and interval."""
        names = self.alignments[0].methods
        head = [f"`{name}`" for name in names]
        lines = [f"| step | {' | '.join(head)} | random |", "| --- " * (len(names) + 2) + "|"]
        for step, one in zip(self.steps, self.alignments, strict=True):
            means = [one.summary(name).mean for name in names]
            cells = [f"{mean.estimate:.4f} ({mean.low:.4f} to {mean.high:.4f})" for mean in means]
            lines.append(f"| {step:,} | {' | '.join(cells)} | {one.summary(names[0]).random:.4f} |")
        return "\n".join(lines)


def follow(
    kept: Snapshots,
    labeled: tuple[Tensor, Tensor],
    settings: TrainingSettings,
    measure: Callable[[nn.Module], Alignment],
) -> FollowedAlignment:
    """Train a network, keep it at chosen steps, and measure alignment on each.

    The training is that of `train_classifier`, bit by bit. An interrupted call goes on from the checkpoint in
    the folder; the same call on a finished folder only measures.

    Source: Bordt et al. 2023, who measured alignment over the steps of training in their code.

    Args:
        kept: the network with initial weights, which is trained in place; the steps to keep, for example
            `log_steps(settings.total_steps(len(images)))`; and the folder for them and the checkpoint.
        labeled: images (N, C, H, W) and labels (N,) to train on.
        settings: of the training.
        measure: from the network in evaluation mode to its alignment, as
            `lambda network: veridical.measure_alignment(network, images, basis, ["gradient"])`.

    Raises:
        TypeError: if images or labels are of another type.
        ValueError: if they do not fit each other, a step lies beyond the training, the folder belongs to
            another run, or a step was not kept.
        DivergedError: if the loss or a weight is no finite number.
    """
    images, labels = labeled
    steps, total = tuple(sorted(set(kept.steps))), settings.total_steps(len(images))
    if steps[-1] > total:
        raise ValueError(f"expected steps in 0..{total}, got {steps[-1]}; the training has no more")
    network, checkpoint = kept.network, kept.folder / "checkpoint.safetensors"
    if not checkpoint.exists():
        # What another run left behind before its first checkpoint.
        kept.path(0).unlink(missing_ok=True)
    kept.keep_first()
    training = train_classifier(network, images, labels, settings, checkpoint=checkpoint, progress=kept)
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        alignments = tuple(measure(network) for _ in kept.load(network))
    finally:
        network.load_state_dict(trained)
    return FollowedAlignment(steps, alignments, training)
