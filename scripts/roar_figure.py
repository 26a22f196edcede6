"""Print a table of docs/roar.md and draw its picture: remove and retrain on small parts of two data sets.

    python scripts/roar_figure.py DATA [--data-set mnist] [--cells FOLDER]      # a minute
    python scripts/roar_figure.py DATA --data-set cifar10 [--cells FOLDER]      # some minutes

DATA is the optional data folder; its MNIST/raw or cifar10 is read. With --cells an interrupted run goes on.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from veridical.attributions import method
from veridical.data import LabeledImages, load_labeled
from veridical.faithfulness import Roar, RoarData, roar
from veridical.training import FromScratch, TrainingSettings, accuracy
from veridical.values import Explainer

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "docs"
SHARES = (0.5, 0.9)
REPETITIONS = 3


def small_network(seed: int) -> nn.Module:
    """Two convolutions and a dense layer for gray images of 28 x 28 pixels in [0, 1], 10 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
        )  # fmt: skip


def color_network(seed: int) -> nn.Module:
    """Three normalized convolutions and a dense layer for color images of 32 x 32 pixels, 10 classes.

    Without the normalization it learns nothing from images whose pixels are mostly their mean.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
        )  # fmt: skip


def digits(data: Path) -> tuple[LabeledImages, LabeledImages]:
    """The training and the test images of MNIST."""
    folder = data / "MNIST" / "raw"
    return load_labeled(folder, part="train", channels=1), load_labeled(folder, part="test", channels=1)


def photographs(data: Path) -> tuple[LabeledImages, LabeledImages]:
    """Training and test images of CIFAR-10."""
    return load_labeled(data / "cifar10" / "train15k.zip"), load_labeled(data / "cifar10" / "test.zip")


@dataclass(frozen=True)
class Experiment:
    """Which images, how many of them to train and to test on, which network learns them, and how."""

    load: Callable[[Path], tuple[LabeledImages, LabeledImages]]
    build: Callable[[int], nn.Module]
    settings: TrainingSettings
    train: int
    test: int
    picture: str


EXPERIMENTS = {
    "mnist": Experiment(
        digits, small_network, TrainingSettings(epochs=10, batch=50, lr=3e-3, schedule="cosine"),
        1000, 1000, "roar.png",
    ),
    "cifar10": Experiment(
        photographs, color_network, TrainingSettings(epochs=10, batch=50, lr=3e-3, schedule="cosine"),
        4000, 2000, "roar-cifar10.png",
    ),
}  # fmt: skip


def methods() -> dict[str, Explainer]:
    """The explained methods by name."""
    names = ("gradient", "gradient-x-input", "lrp-zplus")
    return {name: method(name) for name in names}


@dataclass(frozen=True)
class Measured:
    """The experiment, and the accuracy of the network that was explained."""

    found: Roar
    explained: float


def measure(experiment: Experiment, folder: Path, cells: Path | None) -> Measured:
    """The whole experiment on the images in the data folder."""
    train, test = experiment.load(folder)
    data = RoarData(*prepared(train.subset(experiment.train)), *prepared(test.subset(experiment.test)))
    retrain = FromScratch(experiment.build, experiment.settings)
    model = retrain(data.images, data.labels, 1000)
    found = roar(
        model, data, methods(), retrain, folder=cells, progress=tell, shares=SHARES, repetitions=REPETITIONS,
    )  # fmt: skip
    return Measured(found, accuracy(model, data.test_images, data.test_labels).share)


def prepared(images: LabeledImages) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels."""
    return images.images.float() / 255, images.labels


def tell(done: int, total: int) -> None:
    """One line for every tenth training."""
    if done % 10 == 0 or done == total:
        print(f"{done} of {total} networks trained", flush=True)


def table(found: Roar) -> str:
    """A Markdown table: the mean accuracy at each share, and the margin over chance with its interval."""
    head = ["method", *(f"{share:.0%} removed" for share in found.shares), "margin over chance"]
    lines = [head, ["---"] * len(head)]
    for row in found.table():
        margin = f"{row['margin']:+.3f} ({row['margin low']:+.3f} to {row['margin high']:+.3f})"
        own = "" if row["method"] == "random" else margin
        lines.append([row["method"], *(f"{row[f'{share:g}']:.3f}" for share in found.shares), own])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(found: Roar, path: Path) -> None:
    """The curve of each method, with its interval over the repetitions."""
    figure, axes = pyplot.subplots(figsize=(5.5, 3.8))
    for name, order in found.accuracy:
        means = found.mean(name, order)
        style = {"random": "k--", "edges": "C7-."}.get(name, "-")
        line = axes.plot(found.shares, [one.estimate for one in means], style, label=name)[0]
        low, high = [one.low for one in means], [one.high for one in means]
        axes.fill_between(found.shares, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.axhline(found.chance, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="share of pixels removed, most relevant first", ylabel="test accuracy after retraining")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--data-set", choices=list(EXPERIMENTS), default="mnist")
    parser.add_argument("--cells", type=Path, default=None)
    asked = parser.parse_args()
    experiment = EXPERIMENTS[asked.data_set]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    measured = measure(experiment, asked.data, None if asked.cells is None else asked.cells / asked.data_set)
    print(f"the explained network: {measured.explained:.1%} of {measured.found.n} test images")
    print(table(measured.found))
    for cell, reason in measured.found.failures:
        print(f"not measured: {cell}: {reason}")
    draw(measured.found, FOLDER / experiment.picture)


if __name__ == "__main__":
    main()
