"""Attack six methods, plain and smoothed, on the CIFAR ResNet-20, and print the tables of docs/attacked.md.

    python scripts/manipulation_table.py DATA --out FOLDER [--pairs 100] [--steps 300]

DATA is the optional data folder. Every finished cell is kept in FOLDER: the same command goes on after an
interruption, and prints the tables from what is there.
"""

import argparse
import io
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from networks_real import photograph, trained_resnet20  # type: ignore[import-not-found]  # noqa: E402
from veridical.attacks import IMAGENET_BOUNDS, manipulate, preset  # noqa: E402
from veridical.attributions import fit_patterns, method, saliency  # noqa: E402
from veridical.metrics import box, share_interval  # noqa: E402
from veridical.records import write_bytes  # noqa: E402
from veridical.smoothing import beta_smooth, smoothgrad  # noqa: E402
from veridical.values import Explainer  # noqa: E402

PATTERN_IMAGES = 512
COSTLY = 10
"""Pairs of the cells that need ten or more passes in the place of one."""
STATISTICS = {
    "pcc_before": "PCC to target, before",
    "pcc_to_target": "PCC to target, after",
    "pcc_to_original": "PCC to original",
    "ssim_images": "SSIM of the images",
    "psnr": "PSNR, dB",
    "probability_norm": "norm of the probability change",
    "class_kept": "class kept",
}


@dataclass(frozen=True)
class Cell:
    """One attack on all pairs."""

    name: str
    variant: str
    explainer: Explainer
    pairs: int

    @property
    def key(self) -> str:
        """The file's name."""
        return f"{self.name}--{self.variant}"


def images(folder: Path, archive: str, count: int) -> Tensor:
    """That many images, evenly over the classes and the file (N, 3, 32, 32)."""
    with zipfile.ZipFile(folder / "cifar10" / archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        return torch.cat([photograph(io.BytesIO(file.read(name)), 32) for name in chosen])


def cells(model: nn.Module, folder: Path, pairs: int, chosen_beta: float) -> list[Cell]:
    """The attacks, the cheap ones first."""
    patterns = fit_patterns(model, images(folder, "train15k.zip", PATTERN_IMAGES).split(64))
    plain: Mapping[str, Explainer] = {
        "gradient": method("gradient"),
        "gradient-x-input": method("gradient-x-input"),
        "guided-backprop": method("guided-backprop", seed="value"),
        "pattern-attribution": method("pattern-attribution", patterns=patterns),
        "deep-taylor": method("deep-taylor", convention="dombrowski2019"),
        "integrated-gradients": method("integrated-gradients", steps=10, output="probability"),
    }
    found = []
    for name, one in plain.items():
        count = COSTLY if name == "integrated-gradients" else pairs
        found += [
            Cell(name, "plain", one, count),
            Cell(name, "beta 0.8", beta_smooth(one, 0.8), count),
            Cell(name, f"beta {chosen_beta:g}", beta_smooth(one, chosen_beta), count),
        ]
    found += [
        Cell(name, "SmoothGrad", smoothgrad(plain[name], 10, 0.1), COSTLY)
        for name in ("gradient", "gradient-x-input", "guided-backprop")
    ]
    return found


def attack(model: nn.Module, inputs: Tensor, cell: Cell, steps: int) -> dict[str, Tensor]:
    """Attack each image with the map of the next but a tenth of them (another class); one value a pair."""
    clean = inputs[: cell.pairs] if cell.pairs == len(inputs) else inputs[:: len(inputs) // cell.pairs]
    clean = clean[: cell.pairs]
    others = clean.roll(-max(1, len(clean) // 10), 0)
    goal = saliency(cell.explainer(model, others)).detach()
    settings = replace(preset("default", IMAGENET_BOUNDS), steps=steps, keep="last")
    result = manipulate(model, clean, goal, explainer=cell.explainer, settings=settings)
    found = result.statistics()
    found["pcc_before"] = result.similarity.before.pcc.double()
    found["ssim_images"] = result.image_change.similarity.ssim.double()
    return found


def row(cell: Cell, found: Mapping[str, Tensor]) -> str:
    """Medians with 99 % bootstrap intervals."""
    words = [cell.name, cell.variant, str(len(found["psnr"]))]
    for name in STATISTICS:
        if name == "class_kept":
            words.append(f"{int(found[name].sum())} of {len(found[name])}")
            continue
        one = box(found[name])
        words.append(f"{one.median:.3g} [{one.low:.3g}, {one.high:.3g}]")
    return f"| {' | '.join(words)} |"


def farther(plain: Mapping[str, Tensor], robust: Mapping[str, Tensor]) -> str:
    """The share of pairs where the smoothed method's map ends farther from its target."""
    count = len(robust["psnr"])
    step = len(plain["psnr"]) // count
    ahead = robust["pcc_to_target"] < plain["pcc_to_target"][::step][:count]
    share = share_interval(ahead)
    return f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]"


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--beta", type=float, default=5.6, help="what choose_beta gives for this network")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    model = trained_resnet20(options.data)
    inputs = images(options.data, "test.zip", options.pairs)
    results: dict[tuple[str, str], dict[str, Tensor]] = {}
    planned = cells(model, options.data, options.pairs, options.beta)
    for cell in planned:
        path = options.out / f"{cell.key}--{options.pairs}--{options.steps}.safetensors"
        if not path.exists():
            write_bytes(path, save(attack(model, inputs, cell, options.steps)))
            print(f"finished {cell.key}", file=sys.stderr, flush=True)
        results[cell.name, cell.variant] = load_file(path)
    print(f"| method | variant | pairs | {' | '.join(STATISTICS.values())} |")
    print("| --- " * (3 + len(STATISTICS)) + "|")
    for cell in planned:
        print(row(cell, results[cell.name, cell.variant]))
    print("\n| method | variant | farther from its target than plain |\n| --- | --- | --- |")
    for cell in planned:
        if cell.variant != "plain":
            share = farther(results[cell.name, "plain"], results[cell.name, cell.variant])
            print(f"| {cell.name} | {cell.variant} | {share} |")


if __name__ == "__main__":
    main()
