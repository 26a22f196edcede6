"""Print the tables of docs/manifold.md: fractions in the tangent space, of networks of several seeds.

    veridical manifold generate --manifold published --recipe mnist32 --images MNIST --out SET --tangents test
    python scripts/manifold_table.py SET --training plain --training robust --out FOLDER

SET is a data set whose manifold is known, with the tangent spaces of its test part, from `veridical manifold
generate` or `reconstruct`. A network of every seed is trained on its training part and measured on its test
part. Finished networks and measurements are kept in FOLDER, under names with a digest of the set and of the
training's settings, so that the same command goes on after an interruption and another set begins anew.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.pages import Cell, kept, table  # noqa: E402

import veridical as vd  # noqa: E402
from veridical.manifold import (  # noqa: E402
    Alignment,
    DataSet,
    RandomFraction,
    load_recipe,
    open_data_set,
    open_tangents,
)
from veridical.metrics import bootstrap_interval  # noqa: E402
from veridical.records import write_bytes  # noqa: E402
from veridical.training import (  # noqa: E402
    Adversary,
    RobustnessSettings,
    TrainingSettings,
    accuracy,
    bordt2023_lenet,
    robust_accuracy,
    train_classifier,
    training_recipe,
)

PLAIN = TrainingSettings(epochs=3, batch=64, lr=1e-3, schedule="cosine")
LONG = replace(PLAIN, epochs=12, batch=32, schedule="step")
ROBUST = training_recipe("bordt2023-mnist32-robust-reduced").settings
MILD = replace(ROBUST, adversary=Adversary("l2", epsilon=0.5, steps=4))
TRAININGS = {
    "plain": (PLAIN, 30_000), "long": (LONG, 60_000), "robust": (ROBUST, 10_000), "mild": (MILD, 10_000),
}  # fmt: skip
"""Settings and the largest number of training images."""
CLAIMS = (("smoothgrad", "gradient"), ("integrated-gradients", "gradient"), ("gradient-x-input", "gradient"))
"""The paper's order: each of these is better aligned than the gradient."""
NAMES = ("gradient", "smoothgrad", "integrated-gradients", "gradient-x-input")
"""The methods of the paper."""
ATTACKED = 200
LARGE = 128


def network(shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The authors' LeNet for MNIST32; for other images strided convolutions of our own choice.

    They halve the image until at most 8 pixels a side are left; the first of a large one makes it a quarter.
    """
    channels, side = shape[0], shape[1]
    if (channels, side, classes) == (1, 32, 10):
        return bordt2023_lenet(seed)
    stride = 4 if side >= LARGE else 2
    left, widths = side // stride, [16]
    while left > 8:
        left, widths = left // 2, [*widths, min(64, 2 * widths[-1])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 2 * stride, stride, stride // 2), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * left**2, classes))


def convention_of(data: DataSet) -> str:
    """Which of the paper's sets has the settings of the methods: by how the images were made, and color."""
    if data.manifest.approach == "generative":
        return "mnist32"
    return "cifar10" if data.manifest.shape[0] == 3 else "pneumonia"


def digest_of(data: DataSet, kind: str) -> str:
    """Of the set, labels and latents of its test part, its tangent spaces, and the training's settings."""
    found = hashlib.sha256(repr(TRAININGS[kind]).encode())
    for path in (data.folder / "dataset.json", data.folder / "tangents-test" / "tangents.json"):
        found.update(path.read_bytes())
    # Sets of one description may differ in the network that labeled them.
    for column in ("labels", "latents"):
        found.update(data.load(column, "test").contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def trained(data: DataSet, kind: str, seed: int, folder: Path) -> nn.Module:
    """The network of a seed, trained on the training part; its weights are kept."""
    settings, limit = TRAININGS[kind]
    model = network(data.manifest.shape, data.manifest.classes, seed)
    own = f"{kind}-{seed}-{digest_of(data, kind)}"
    weights = folder / f"{own}-weights.safetensors"
    if not weights.exists():
        images, labels = (data.load(column, "train", limit=limit) for column in ("images", "labels"))
        checkpoint = folder / f"{own}-checkpoint.safetensors"
        train_classifier(
            model, images, labels, replace(settings, seed=seed), checkpoint=checkpoint, progress=tell
        )
        write_bytes(weights, save({name: value.contiguous() for name, value in model.state_dict().items()}))
        checkpoint.unlink(missing_ok=True)
    kept_weights = kept(weights, dict)
    model.load_state_dict(kept_weights)
    return model.eval()


def tell(moment: object) -> None:
    """One line an epoch."""
    step, steps = getattr(moment, "step", 0), getattr(moment, "steps", 0)
    if step == steps:
        print(f"epoch {getattr(moment, 'epoch', 0) + 1}: {moment}", file=sys.stderr, flush=True)


def measured(data: DataSet, model: nn.Module, count: int, convention: str) -> Cell:
    """Fractions (M, n), those in another image's space, and what the network gets right."""
    images, labels = (data.load(column, "test") for column in ("images", "labels"))
    images = images.float()
    basis = open_tangents(data.folder / "tangents-test")
    found: Alignment = vd.measure_alignment(model, images[:count], basis[:count], convention=convention)
    # The same change of the picture, whatever its size: l2 norms grow with the side.
    attack = RobustnessSettings("l2", images.shape[-1] / 32, restarts=2)
    withstood = robust_accuracy(model, images[:ATTACKED], labels[:ATTACKED], attack)
    return {
        "fractions": found.fractions,
        "others": found.others,
        "rank": found.rank,
        "dimension": torch.tensor(found.dimension),
        "right": torch.tensor(accuracy(model, images, labels).share),
        "robust": torch.tensor(withstood.share),
    }


def rows_of(kind: str, cells: Sequence[Cell]) -> list[list[str]]:
    """A row a method: the mean over seeds, the range over seeds, and an interval over images."""
    rows = []
    for place, name in enumerate(NAMES):
        means = [float(cell["fractions"][place].nanmean()) for cell in cells]
        others = [float(cell["others"][place].nanmean()) for cell in cells]
        first = bootstrap_interval(cells[0]["fractions"][place].numpy(), "mean", level=0.99, seed=0)
        rows.append(
            [
                kind, f"`{name}`", f"{sum(means) / len(means):.3f}", f"{min(means):.3f} to {max(means):.3f}",
                f"{first.low:.3f} to {first.high:.3f}", f"{sum(others) / len(others):.3f}",
            ]
        )  # fmt: skip
    return rows


def claims(kind: str, cells: Sequence[Cell]) -> list[str]:
    """For each claim of the paper: in how many seeds it holds, and which are exceptions."""
    lines = []
    for better, worse in CLAIMS:
        gaps = [
            float((cell["fractions"][NAMES.index(better)] - cell["fractions"][NAMES.index(worse)]).nanmean())
            for cell in cells
        ]
        held = sum(gap > 0 for gap in gaps)
        shown = ", ".join(f"{gap:+.3f}" for gap in gaps)
        lines.append(f"- {kind}: `{better}` above `{worse}` in {held} of {len(gaps)} seeds ({shown})")
    return lines


def summary(kind: str, cells: Sequence[Cell]) -> str:
    """What the networks of a training are."""
    right = [float(cell["right"]) for cell in cells]
    robust = [float(cell["robust"]) for cell in cells]
    random = RandomFraction(int(cells[0]["rank"].median()), int(cells[0]["dimension"])).mean
    return (
        f"- {kind}: test error {1 - max(right):.2%} to {1 - min(right):.2%}; against PGD with l2 norm "
        f"side / 32 {min(robust):.1%} to {max(robust):.1%} are right (n = {ATTACKED}); random directions "
        f"{random:.4f}"
    )


@dataclass(frozen=True)
class Asked:
    """What the options ask for."""

    kinds: Sequence[str]
    seeds: int
    images: int
    convention: str


def page(data: DataSet, asked: Asked, folder: Path) -> str:
    """Everything, as Markdown."""
    seeds, images, convention = asked.seeds, asked.images, asked.convention
    rows: list[list[str]] = []
    lines: list[str] = []
    for kind in asked.kinds:
        cells = []
        for seed in range(seeds):

            def make(kind: str = kind, seed: int = seed) -> Cell:
                return measured(data, trained(data, kind, seed, folder), images, convention)

            own = f"{kind}-{seed}-{digest_of(data, kind)}-{images}-{convention}"
            cells.append(kept(folder / f"{own}.safetensors", make))
        rows += rows_of(kind, cells)
        lines += [summary(kind, cells), *claims(kind, cells)]
    over = f"mean of {seeds} seeds"
    head = ["training", "method", over, "range over seeds", "99 % interval, seed 0", "other image"]
    told = f"The methods have the paper's settings for {convention}."
    return table(head, rows) + f"\n\n{told}\n\n" + "\n".join(lines)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("--training", action="append", choices=list(TRAININGS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--convention", choices=list(load_recipe().sets), help="default: by the set")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = open_data_set(options.set)
    convention = options.convention or convention_of(data)
    asked = Asked(options.training or ["plain"], options.seeds, options.images, convention)
    print(page(data, asked, options.out))


if __name__ == "__main__":
    main()
