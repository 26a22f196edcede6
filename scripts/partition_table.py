"""Which methods forget what they explain, on trained networks: the tables of docs/partition.md.

    python scripts/partition_table.py DATA --out FOLDER [--images 200] [--weights APPENDIX_D_WEIGHTS]
    python scripts/partition_table.py DATA --out FOLDER --show picture    # draws docs/partition-scatter.png
    python scripts/partition_table.py DATA --out FOLDER --show NAME       # an experiment: see --help

DATA is the optional data folder. Every finished cell is a file in FOLDER: the same command goes on after an
interruption, and prints the tables from what is there. Two networks can be measured at once by two commands
with `--networks`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.partition_cells import (  # noqa: E402
    PAPER,
    TESTS,
    Store,
    Variant,
    interval,
    number,
    table,
)
from scripts.partition_experiments import EXPERIMENTS  # noqa: E402
from scripts.partition_networks import NETWORKS, TABLE  # noqa: E402

from veridical.metrics import Interval  # noqa: E402

CONVERGED, FREE = 0.01, 0.1
"""1 - cosine at or below which a method has converged (the paper's 0.99), and from which on it has not."""


def group(found: Interval) -> str:
    """What the data says: by the whole interval of 1 - cosine at the first convolution."""
    if found.high <= CONVERGED:
        return "converges"
    if found.low >= FREE:
        return "does not"
    return "undecided" if found.n else "not measured"


def partition(store: Store, networks: Sequence[str]) -> str:
    """The group of every method on every network; those that differ from the paper's in bold."""
    rows = []
    for name, paper in PAPER.items():
        row = [name, paper]
        for network in networks:
            found = interval(store.found(network, Variant(name), "csc"))
            own = group(found)
            word = own if own in (paper, "not measured") else f"**{own}**"
            row.append(f"{word} ({found.estimate:.1e})" if found.n else f"{word} (-)")
        rows.append(row)
    return table(["method", "paper", *networks], rows)


def order(store: Store, network: str) -> str:
    """How well 1 - cosine alone orders the paper's two groups, without any threshold."""
    found = {name: interval(store.found(network, Variant(name), "csc")) for name in PAPER}
    values = {name: one.estimate for name, one in found.items() if one.n}
    low = {name: value for name, value in values.items() if PAPER[name] == "converges"}
    high = {name: value for name, value in values.items() if PAPER[name] == "does not"}
    pairs = [(one, two) for one in low for two in high]
    wrong = [(one, two) for one, two in pairs if not low[one] < high[two]]
    out = sorted({one for one, _ in wrong})
    words = f"{len(pairs) - len(wrong)} of {len(pairs)} pairs in the paper's order"
    return f"{network}: {words}{'; out of order: ' + ', '.join(out) if out else ''}."


def details(store: Store, network: str) -> str:
    """Every test of every method on one network."""
    rows = []
    for name, paper in PAPER.items():
        csc, logit, weights = (store.found(network, Variant(name), test) for test in TESTS)
        angle, own = interval(csc), group(interval(csc))
        rows.append(
            [
                name,
                number(angle, ".1e"),
                number(interval(logit)),
                number(interval(weights, "first")),
                number(interval(weights)),
                own if own == paper else f"**{own}**",
                paper,
            ]  # fmt: skip
        )
    head = ["method", "1 - cosine", "SSIM, random logit", "SSIM, last module random", "SSIM, all random",
            "group", "paper"]  # fmt: skip
    return table(head, rows)


def everything(store: Store, networks: Sequence[str]) -> str:
    """All tables of the partition."""
    for network in networks:
        for test in TESTS:
            for name in PAPER:
                store.found(network, Variant(name), test)
    parts = [partition(store, networks), "\n".join(order(store, network) for network in networks)]
    for network in networks:
        parts += [f"### {network}, {store.count(network)} images", details(store, network)]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--show", default="table", choices=["table", *EXPERIMENTS])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--photographs", type=int, default=5, help="images of EfficientNet-Lite0")
    parser.add_argument("--weights", type=Path, help="trained weights of the network of appendix D")
    parser.add_argument("--networks", default=",".join(TABLE), help="names with commas between them")
    parser.add_argument("--stored", action="store_true", help="print what is there; measure nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    networks = [name for name in chosen.networks.split(",") if name]
    unknown = sorted(set(networks) - set(NETWORKS))
    if unknown:
        parser.error(f"expected networks of {', '.join(NETWORKS)}, got {', '.join(unknown)}")
    if "appendix D" in networks and chosen.weights is None and not chosen.stored:
        networks.remove("appendix D")
        print("no --weights: the network of appendix D is left out", file=sys.stderr)
    store = Store(chosen.out, chosen.data, chosen.images, chosen.photographs, chosen.weights,
                  not chosen.stored)  # fmt: skip
    print({"table": everything, **EXPERIMENTS}[chosen.show](store, networks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
