"""Print the tables of docs/attacked.md on the attacks of Ghorbani et al. 2019.

    python scripts/ghorbani_table.py DATA --out FOLDER [--pairs 100] [--steps 100]

Supplement A.2 of Dombrowski et al. 2019: their attack and that of Ghorbani et al. on a region, aimed at the
same maps of the gradient; then the attacks on the largest pixels and on the center of mass. DATA is the
optional data folder. Every finished cell is kept in FOLDER: the same command goes on after an interruption.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.manipulation_table import SUBJECTS, Subject  # noqa: E402
from scripts.pages import Cell, kept, table  # noqa: E402

from veridical.attacks import (  # noqa: E402
    GhorbaniResult,
    GhorbaniSettings,
    compare_with_ghorbani,
    ghorbani,
    preset,
)
from veridical.attacks.ghorbani import Attack  # noqa: E402
from veridical.attributions import method, saliency  # noqa: E402
from veridical.metrics import box, share_interval  # noqa: E402

BETA = 5.6
"""Asked for by the subjects; no attack here is smoothed."""
UNAIMED: tuple[Attack, ...] = ("top-k", "mass-center")
QUANTITIES = {
    "top-k": "share of the map in the original's largest pixels",
    "mass-center": "distance from the original's center of mass, pixels",
    "region": "share of the map in the target's largest pixels",
}


def measured(found: GhorbaniResult) -> Cell:
    """What an attack of Ghorbani et al. drove, and at what price, one value a pair."""
    return {
        "before": found.before,
        "after": found.after,
        "pcc_to_original": found.to_original.pcc,
        "psnr": found.image_change.psnr,
        "linf": found.image_change.linf,
        "class_kept": found.output_change.class_kept.double(),
    }


def unaimed(subject: Subject, steps: int, attack: Attack) -> Cell:
    """An attack that has no target map; the last iterates."""
    settings = GhorbaniSettings(attack, steps=steps, bounds=subject.bounds, keep="last")
    return measured(ghorbani(subject.model, subject.inputs, explainer=method("gradient"), settings=settings))


def compared(subject: Subject, steps: int) -> Cell:
    """Both attacks on all pairs, aimed at the map of an image of another class; the last iterates."""
    clean, explain = subject.inputs, method("gradient")
    goal = saliency(explain(subject.model, clean.roll(-max(1, len(clean) // 10), 0))).detach()
    found = compare_with_ghorbani(
        subject.model,
        clean,
        goal,
        explainer=explain,
        settings=replace(preset("default", subject.bounds), steps=steps, keep="last"),
        ghorbani_settings=GhorbaniSettings("region", steps=steps, bounds=subject.bounds, keep="last"),
    )
    ours, values = found.manipulation, found.measurements()
    names = ("pcc_to_target", "probability_change")
    return (
        measured(found.ghorbani)
        | {name: values[f"{name}_ghorbani"] for name in names}
        | {f"ours-{name}": values[f"{name}_manipulation"] for name in (*names, "linf")}
        | {
            "ours-psnr": ours.image_change.psnr,
            "ours-class_kept": ours.output_change.class_kept.double(),
            "ours-pcc_before": ours.similarity.before.pcc,
        }
    )


def median(values: Tensor) -> str:
    """With its 99 % bootstrap interval."""
    one = box(values.double())
    return f"{one.median:.2g} [{one.low:.2g}, {one.high:.2g}]"


def share(values: Tensor) -> str:
    """How many of all, with Wilson's 99 % interval."""
    one = share_interval(values.bool())
    return f"{int(values.sum())} of {len(values)} [{one.low:.0%}, {one.high:.0%}]"


def comparison_rows(network: str, cell: Cell) -> list[list[str]]:
    """One measurement a row: both attacks, and the paired difference."""
    names = {
        "pcc_to_target": "PCC to target",
        "probability_change": "change of the winning class's probability, magnitude",
        "linf": "largest change of a value",
        "psnr": "PSNR, dB",
    }
    rows = [[network, "PCC to target before", *[median(cell["ours-pcc_before"])] * 2, ""]]
    for name, words in names.items():
        ours, theirs = cell[f"ours-{name}"].abs(), cell[name].abs()
        rows.append([network, words, median(ours), median(theirs), median(ours - theirs)])
    return [*rows, [network, "class kept", share(cell["ours-class_kept"]), share(cell["class_kept"]), ""]]


def attack_row(network: str, attack: str, cell: Cell) -> list[str]:
    """What an attack of Ghorbani et al. drove, and at what price."""
    values = [median(cell[name]) for name in ("before", "after", "pcc_to_original", "psnr", "linf")]
    return [network, attack, QUANTITIES[attack], *values, share(cell["class_kept"])]


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100, help="of the ResNet-20; the other has ten")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    compare, attacks = [], []
    for network, load in SUBJECTS.items():
        subject = load(options.data, options.pairs, BETA)
        stem = f"ghorbani--{network}--{len(subject.inputs)}--{options.steps}"
        both = kept(options.out / f"{stem}--region.safetensors", partial(compared, subject, options.steps))
        compare += comparison_rows(network, both)
        attacks.append(attack_row(network, "region", both))
        for name in UNAIMED:
            path = options.out / f"{stem}--{name}.safetensors"
            attacks.append(
                attack_row(network, name, kept(path, partial(unaimed, subject, options.steps, name)))
            )
    head = ["network", "measure", "Dombrowski et al.", "Ghorbani et al., region", "difference, paired"]
    print(table(head, compare))
    head = ["network", "attack", "quantity", "before", "after", "PCC to original", "PSNR, dB",
            "largest change of a value", "class kept"]  # fmt: skip
    print(f"\n{table(head, attacks)}")


if __name__ == "__main__":
    main()
