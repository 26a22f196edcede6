"""Draw docs/manifold-training.png and print its table: the fraction in the tangent space along a training.

    python scripts/training_figure.py SET --out FOLDER

SET is a data set whose manifold is known, with the tangent spaces of its test part (see
scripts/manifold_table.py). Checkpoint, networks and measurements are kept in FOLDER, so that the same command
goes on after an interruption.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from matplotlib import pyplot  # noqa: E402
from scripts.manifold_table import NAMES, PLAIN, network, tell  # noqa: E402
from scripts.pages import Cell, kept, picture, table  # noqa: E402

import veridical as vd  # noqa: E402
from veridical.auditing.following import FollowedAlignment, follow  # noqa: E402
from veridical.manifold import Alignment, AlignmentSettings, DataSet, open_data_set, open_tangents  # noqa: E402
from veridical.models import state_digest  # noqa: E402
from veridical.training import Snapshots, TrainingSettings, accuracy, log_steps  # noqa: E402

PICTURE = ROOT / "docs" / "manifold-training.png"
LIMIT, STEPS = 30_000, 9
"""Training images, and how many networks are measured."""
COLUMNS = ("by_k", "others", "p_values", "rank", "target", "predicted")


@dataclass(frozen=True, eq=False)
class Followed:
    """Alignment along a training, and the share of test images that each network gets right."""

    found: FollowedAlignment
    right: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Measure:
    """Alignment and accuracy of a network, kept in a folder under the digest of its weights."""

    images: Tensor
    labels: Tensor
    basis: Tensor
    folder: Path

    def cell(self, model: nn.Module) -> Cell:
        """Both, as tensors."""

        def make() -> Cell:
            found = vd.measure_alignment(model, self.images[: len(self.basis)], self.basis)
            columns = {name: getattr(found, name) for name in COLUMNS}
            right = torch.tensor(accuracy(model, self.images, self.labels).share, dtype=torch.float64)
            return {**columns, "right": right}

        return kept(self.folder / f"{state_digest(model)[:16]}-{len(self.basis)}.safetensors", make)

    def __call__(self, model: nn.Module) -> Alignment:
        """The alignment."""
        cell: dict[str, Any] = self.cell(model)
        columns = {name: cell[name] for name in COLUMNS}
        return Alignment(
            methods=NAMES, dimension=self.images[0].numel(), settings=AlignmentSettings(), **columns
        )


def followed(data: DataSet, settings: TrainingSettings, images: int, folder: Path) -> Followed:
    """Train the network of seed 0, and measure it at steps that are spaced by their logarithm."""
    shown, labels = (data.load(column, "test") for column in ("images", "labels"))
    basis = open_tangents(data.folder / "tangents-test")[:images]
    measure = Measure(shown.float(), labels, basis, folder)
    own, classes = (data.load(column, "train", limit=LIMIT) for column in ("images", "labels"))
    model = network(data.manifest.shape, data.manifest.classes, settings.seed)
    snapshots = Snapshots(folder / "steps", model, log_steps(settings.total_steps(len(own)), STEPS), tell)
    found = follow(snapshots, (own, classes), settings, measure)
    right = tuple(float(measure.cell(model)["right"]) for _ in snapshots.load(model))
    return Followed(found, right)


def page(run: Followed) -> str:
    """A row a step: test error and mean fraction of each method, and how each changed from first to last."""
    rows = []
    for place, (step, right) in enumerate(zip(run.found.steps, run.right, strict=True)):
        means = [run.found.summaries(name)[place] for name in NAMES]
        shown = [f"{one.mean.estimate:.3f} ({one.mean.low:.3f} to {one.mean.high:.3f})" for one in means]
        rows.append([f"{step:,}", f"{1 - right:.2%}", *shown, f"{means[0].other:.3f}"])
    head = ["step", "test error", *(f"`{name}`" for name in NAMES), "`gradient`, other image"]
    changes = [f"- `{name}`: {change_of(run.found, name)}" for name in NAMES]
    return table(head, rows) + "\n\n" + "\n".join(changes)


def change_of(found: FollowedAlignment, name: str) -> str:
    """The largest mean fraction, and the paired difference of the last step from it."""
    means = [one.mean.estimate for one in found.summaries(name)]
    best = means.index(max(means))
    last = found.change(name, best)[-1]
    since = f"from step {found.steps[best]:,} to the last"
    return f"{since} {last.estimate:+.3f} ({last.low:+.3f} to {last.high:+.3f})"


def draw(run: Followed, path: Path) -> None:
    """Fractions and test error against the step; step 0 stands at 0.5, since the axis is logarithmic."""
    places = [max(step, 0.5) for step in run.found.steps]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for name in NAMES:
        summaries = run.found.summaries(name)
        means = [one.mean for one in summaries]
        line = left.plot(places, [one.estimate for one in means], "o-", markersize=3, label=name)[0]
        bounds = ([one.low for one in means], [one.high for one in means])
        left.fill_between(places, *bounds, alpha=0.2, color=line.get_color(), linewidth=0)
    first = run.found.summaries(NAMES[0])
    left.plot(places, [one.other for one in first], "C0:", label=f"{NAMES[0]}, other image's space")
    left.axhline(first[0].random, color="gray", linestyle="--", linewidth=1, label="random directions")
    left.set(ylabel="mean fraction in the tangent space", ylim=(0, None))
    left.legend(fontsize=7)
    right.plot(places, [1 - share for share in run.right], "ko-", markersize=3)
    right.set(ylabel="test error", yscale="log")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="optimizer steps (0 at the left end)")
        axes.grid(alpha=0.3)
    figure.tight_layout()
    picture(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=PLAIN.epochs)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    asked = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    asked.out.mkdir(parents=True, exist_ok=True)
    run = followed(open_data_set(asked.set), replace(PLAIN, epochs=asked.epochs), asked.images, asked.out)
    print(page(run))
    draw(run, asked.picture)


if __name__ == "__main__":
    main()
