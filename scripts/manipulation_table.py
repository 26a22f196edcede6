"""Attack methods, plain and smoothed, on two trained networks, and print the tables of docs/attacked.md.

    python scripts/manipulation_table.py DATA --out FOLDER [--pairs 100] [--steps 100]

DATA is the optional data folder. Every finished cell is kept in FOLDER: the same command goes on after an
interruption, and prints the tables from what is there.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.pages import cifar_images, kept, table  # noqa: E402

from networks_real import trained_resnet20  # type: ignore[import-not-found]  # noqa: E402
from veridical.attacks import IMAGENET_BOUNDS, manipulate, preset  # noqa: E402
from veridical.attacks.outcome import compare  # noqa: E402
from veridical.attacks.settings import Bounds  # noqa: E402
from veridical.attributions import fit_patterns, method, saliency  # noqa: E402
from veridical.data import load_folder  # noqa: E402
from veridical.metrics import box, share_interval  # noqa: E402
from veridical.models import load_model  # noqa: E402
from veridical.smoothing import beta_smooth, smoothgrad  # noqa: E402
from veridical.values import Explainer, Target  # noqa: E402

PATTERN_IMAGES = 512
COSTLY = 10
"""Pairs of the cells that need ten or more passes in the place of one, and of the network for photographs."""
SAME_CHANGE = "same change"
PUBLISHED_BETA = 0.8
OTHER_NOISE = 1_000_000
"""The seed of noise that no attack has seen."""
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
    """One attack on all pairs.

    A `bounded` one may change each image no more (Euclidean norm) than the attack on the plain method did.
    The targets are maps of `aim`, or of the method under attack itself. The maps that are compared with them
    in the end are those of `judge`, or again of the method under attack.
    """

    name: str
    variant: str
    explainer: Explainer
    pairs: int
    bounded: bool = False
    aim: Explainer | None = None
    judge: Explainer | None = None

    @property
    def key(self) -> str:
        """The file's name."""
        return f"{self.name}--{self.variant}"

    @property
    def plain(self) -> str:
        """The key of the attack on the method as it is."""
        return f"{self.name}--plain"


@dataclass
class Redrawn:
    """SmoothGrad with other noise in each call: for an attacker who does not know what the user's will be."""

    explainer: Explainer
    calls: int = 0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance (N, C, H, W)."""
        self.calls += 1
        return averaged(self.explainer, self.calls)(model, inputs, target)


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, clean images (N, 3, H, W) of its own normalization, black and white, and the attacks."""

    model: nn.Module
    inputs: Tensor
    bounds: Bounds
    cells: list[Cell]


def resnet20(folder: Path, pairs: int, beta: float) -> Subject:
    """The CIFAR ResNet-20 with six methods, the cheap attacks first."""
    model = trained_resnet20(folder)
    patterns = fit_patterns(model, cifar_images(folder, "train15k.zip", PATTERN_IMAGES).split(64))
    plain: Mapping[str, Explainer] = {
        "gradient": method("gradient"),
        "gradient-x-input": method("gradient-x-input"),
        "guided-backprop": method("guided-backprop", seed="value"),
        "pattern-attribution": method("pattern-attribution", patterns=patterns),
        "deep-taylor": method("deep-taylor", convention="dombrowski2019"),
        "integrated-gradients": method("integrated-gradients", steps=10, output="probability"),
    }
    counts = {name: COSTLY if name == "integrated-gradients" else pairs for name in plain}
    found = [
        cell for name in plain for cell in smoothed(name, plain[name], counts[name], (PUBLISHED_BETA, beta))
    ]
    for name in ("gradient", "gradient-x-input", "guided-backprop", "deep-taylor"):
        found += noisy(name, plain[name])
    found += [cell for name in plain for cell in bounded(name, plain[name], counts[name])]
    return Subject(model, cifar_images(folder, "test.zip", pairs), IMAGENET_BOUNDS, found)


def efficientnet(folder: Path, pairs: int, beta: float) -> Subject:
    """EfficientNet-Lite0 at 224 pixels with gradient and LRP (z+ with z^B)."""
    pairs = min(pairs, COSTLY)
    loaded = load_model("demo")
    photographs = load_folder(folder / "imagenet-sample").images
    chosen = photographs[:: len(photographs) // pairs][:pairs]
    inputs = torch.stack([loaded.preprocessing.apply(one) for one in chosen])
    low, high = (float(end[0]) for end in loaded.preprocessing.bounds())  # the same for each channel
    lrp = method("deep-taylor", convention="dombrowski2019", bounds=(low, high))
    plain = {"gradient": method("gradient"), "deep-taylor": lrp}
    found = [cell for name in plain for cell in smoothed(name, plain[name], pairs, (beta,))]
    return Subject(loaded.module, inputs, ((low,), (high,)), found)


def smoothed(name: str, one: Explainer, pairs: int, betas: tuple[float, ...]) -> list[Cell]:
    """The method as it is, and with softplus of each beta."""
    softer = [Cell(name, f"beta {beta:g}", beta_smooth(one, beta), pairs) for beta in betas]
    return [Cell(name, "plain", one, pairs), *softer]


def averaged(one: Explainer, seed: int) -> Explainer:
    """SmoothGrad with the paper's number of copies, and noise of this seed."""
    return smoothgrad(one, 10, 0.1, seed=seed)


def noisy(name: str, one: Explainer) -> list[Cell]:
    """SmoothGrad under the noise that was attacked, under other noise, and attacked under ever new noise."""
    known, other = averaged(one, 0), averaged(one, OTHER_NOISE)
    return [
        Cell(name, "SmoothGrad", known, COSTLY),
        Cell(name, "SmoothGrad, other noise", known, COSTLY, aim=other, judge=other),
        Cell(name, "SmoothGrad, noise drawn at each step", Redrawn(one), COSTLY, aim=other, judge=other),
    ]


def bounded(name: str, one: Explainer, pairs: int) -> list[Cell]:
    """Softplus of the paper's beta within the change that the plain attack made; then at its targets, too."""
    softer = beta_smooth(one, PUBLISHED_BETA)
    variant = f"beta {PUBLISHED_BETA:g}, {SAME_CHANGE}"
    return [
        Cell(name, variant, softer, pairs, True),
        Cell(name, f"{variant} and target", softer, pairs, True, one),
    ]


SUBJECTS = {"resnet20": resnet20, "efficientnet-lite0": efficientnet}


def attack(subject: Subject, cell: Cell, steps: int, limit: Tensor | None = None) -> dict[str, Tensor]:
    """Attack each image with the map of the next but a tenth of them (another class); one value a pair."""
    model, inputs = subject.model, subject.inputs
    clean = inputs[:: len(inputs) // cell.pairs][: cell.pairs]
    others = clean.roll(-max(1, len(clean) // 10), 0)
    goal = saliency((cell.aim or cell.explainer)(model, others)).detach()
    settings = replace(preset("default", subject.bounds), steps=steps, keep="last", max_l2=limit)
    result = manipulate(model, clean, goal, explainer=cell.explainer, settings=settings)
    found = result.statistics()
    found["pcc_before"] = result.similarity.before.pcc.double()
    found["ssim_images"] = result.image_change.similarity.ssim.double()
    return found if cell.judge is None else found | judged(model, (clean, result.inputs), goal, cell.judge)


def judged(
    model: nn.Module, images: tuple[Tensor, Tensor], goal: Tensor, judge: Explainer
) -> dict[str, Tensor]:
    """The similarities of the clean and the manipulated images' maps by another method than the attacked."""
    with torch.no_grad():
        classes = model(images[0]).argmax(1)
    before, after = (saliency(judge(model, one, classes)).detach() for one in images)
    found = {"pcc_before": compare(before, goal).pcc}
    for name, other in (("target", goal), ("original", before)):
        values = asdict(compare(after, other))
        found |= {f"{kind}_to_{name}": values[kind] for kind in ("pcc", "ssim", "mse")}
    return {name: value.double() for name, value in found.items()}


def row(cell: Cell, found: Mapping[str, Tensor]) -> list[str]:
    """Medians with 99 % bootstrap intervals."""
    words = [cell.name, cell.variant, str(len(found["psnr"]))]
    for name in STATISTICS:
        if name == "class_kept":
            words.append(f"{int(found[name].sum())} of {len(found[name])}")
            continue
        one = box(found[name])
        words.append(f"{one.median:.3g} [{one.low:.3g}, {one.high:.3g}]")
    return words


def withstands(plain: Mapping[str, Tensor], robust: Mapping[str, Tensor]) -> list[str]:
    """In which share of the pairs the smoothed method does better: see the table's head."""
    same = some(plain, len(robust["psnr"]))
    better = (
        robust["pcc_to_target"] < same["pcc_to_target"],
        robust["ssim_to_target"] < same["ssim_to_target"],
        robust["mse_to_target"] > same["mse_to_target"],
        way(robust) < way(same),
        robust["pcc_to_original"] > same["pcc_to_original"],
    )
    shares = [share_interval(ahead) for ahead in better]
    ways = [f"{box(way(found)).median:.2f}" for found in (same, robust)]
    return [*ways, *(f"{one.estimate:.0%} [{one.low:.0%}, {one.high:.0%}]" for one in shares)]


def some(plain: Mapping[str, Tensor], pairs: int) -> dict[str, Tensor]:
    """The values on the pairs of a cell that has fewer."""
    step = len(plain["psnr"]) // pairs
    return {name: values[::step][:pairs] for name, values in plain.items()}


def way(found: Mapping[str, Tensor]) -> Tensor:
    """How much of the way from the clean image's correlation with the target to 1 the attack has come."""
    return (found["pcc_to_target"] - found["pcc_before"]) / (1 - found["pcc_before"])


def print_tables(cells: Sequence[Cell], results: Mapping[str, Mapping[str, Tensor]]) -> None:
    """What the attacks did, then how often the smoothed methods withstood them."""
    head = ["method", "variant", "pairs", *STATISTICS.values()]
    print(table(head, [row(cell, results[cell.key]) for cell in cells]))
    head = [
        "method",
        "variant",
        "way, plain",
        "way",
        "farther from target: PCC",
        "SSIM",
        "MSE",
        "less of the way",
        "nearer its original",
    ]
    rows = [
        [cell.name, cell.variant, *withstands(results[cell.plain], results[cell.key])]
        for cell in cells
        if cell.key != cell.plain
    ]
    print(f"\n{table(head, rows)}\n", flush=True)


def main() -> None:
    """Run what is missing of each network, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--beta", type=float, default=5.6, help="what choose_beta gives for the ResNet-20")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    for network, load in SUBJECTS.items():
        subject = load(options.data, options.pairs, options.beta)
        results: dict[str, dict[str, Tensor]] = {}
        for cell in subject.cells:
            path = options.out / f"{network}--{cell.key}--{len(subject.inputs)}--{options.steps}.safetensors"
            limit = some(results[cell.plain], cell.pairs)["l2"] if cell.bounded else None
            results[cell.key] = kept(path, partial(attack, subject, cell, options.steps, limit))
        print(f"{network}\n")
        print_tables(subject.cells, results)


if __name__ == "__main__":
    main()
