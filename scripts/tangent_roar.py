"""Print the remove-and-retrain table of docs/manifold.md: the tangent space as an attribution.

    python scripts/tangent_roar.py SET WEIGHTS --out FOLDER

SET is MNIST32 (see scripts/manifold_table.py), WEIGHTS the file of its decoder, mnist_btcvae.pt. Tangent
spaces and trained cells are kept in FOLDER, so that the same command goes on after an interruption.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.pages import table  # noqa: E402

from veridical.attributions import method  # noqa: E402
from veridical.faithfulness import Roar, RoarData, roar  # noqa: E402
from veridical.manifold import (  # noqa: E402
    DataSet,
    Decoder,
    KnownSpaces,
    TangentPart,
    TangentScores,
    load_tcvae,
    open_data_set,
    store_tangents,
)
from veridical.training import FromScratch, TrainingSettings, accuracy  # noqa: E402
from veridical.values import Explainer  # noqa: E402

SETTINGS = TrainingSettings(epochs=10, batch=50, lr=3e-3, schedule="cosine")
SHARES = (0.3, 0.5, 0.9)
REPETITIONS = 3
SEED = 1000
"""Of the network that is explained; those of the cells have the seeds 0, 1, 2."""


def small_network(seed: int) -> nn.Module:
    """Two convolutions and a dense layer for gray images of 32 x 32 pixels, 10 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 8 * 8, 10),
        )  # fmt: skip


def known_spaces(data: DataSet, decoder: Decoder, sizes: Mapping[str, int], folder: Path) -> KnownSpaces:
    """The first images of the parts with their tangent spaces, which are stored in the folder."""
    latents = torch.cat([data.load("latents", part, limit=size) for part, size in sizes.items()])
    images = torch.cat([data.load("images", part, limit=size) for part, size in sizes.items()])
    return KnownSpaces(images, store_tangents(folder, decoder, latents, prior="none"))


def methods(known: KnownSpaces) -> dict[str, Explainer]:
    """The tangent space, a method, and its two parts."""
    gradient = method("gradient")
    return {
        "tangent-scores": TangentScores(known),
        "gradient": gradient,
        "gradient-tangent": TangentPart(gradient, known, "tangent"),
        "gradient-orthogonal": TangentPart(gradient, known, "orthogonal"),
        "gradient-x-input": method("gradient-x-input"),
    }


def measure(data: DataSet, decoder: Decoder, sizes: Mapping[str, int], folder: Path) -> tuple[float, Roar]:
    """The accuracy of the network that is explained, and the experiment."""
    columns: list[Tensor] = []
    for part, size in sizes.items():
        columns += [data.load("images", part, limit=size), data.load("labels", part, limit=size)]
    chosen = RoarData(*columns)
    known = known_spaces(data, decoder, sizes, folder / "spaces")
    retrain = FromScratch(small_network, SETTINGS)
    model = retrain(chosen.images, chosen.labels, SEED)
    found = roar(
        model, chosen, methods(known), retrain, folder=folder / "cells", progress=tell, shares=SHARES,
        repetitions=REPETITIONS, reduction="sum-abs",
    )  # fmt: skip
    return accuracy(model, chosen.test_images, chosen.test_labels).share, found


def tell(done: int, total: int) -> None:
    """One line for every tenth training."""
    if done % 10 == 0 or done == total:
        print(f"{done} of {total} networks trained", file=sys.stderr, flush=True)


def page(found: Roar) -> str:
    """Mean accuracies, and the margin over chance with its interval."""
    head = ["method", *(f"{share:.0%} removed" for share in found.shares), "margin over chance"]
    rows = []
    for row in found.table():
        margin = f"{row['margin']:+.3f} ({row['margin low']:+.3f} to {row['margin high']:+.3f})"
        own = "" if row["method"] == "random" else margin
        rows.append([f"`{row['method']}`", *(f"{row[f'{share:g}']:.3f}" for share in found.shares), own])
    return table(head, rows)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=1000)
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    sizes = {"train": asked.train, "test": asked.test}
    right, found = measure(open_data_set(asked.set), load_tcvae(asked.weights).decoder, sizes, asked.out)
    print(f"the explained network: {right:.1%} of {found.n} test images")
    print(page(found))
    for cell, reason in found.failures:
        print(f"not measured: {cell}: {reason}")


if __name__ == "__main__":
    main()
