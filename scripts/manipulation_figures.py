"""Print tables of docs/attacked.md and draw its pictures.

    python scripts/manipulation_figures.py undo DATA --out FOLDER        # figure 4 of Dombrowski et al. 2019
    python scripts/manipulation_figures.py robustness DATA --out FOLDER  # figure 5, supplement 15 to 19
    python scripts/manipulation_figures.py growth DATA --out FOLDER      # supplement figure 1
    python scripts/manipulation_figures.py flipping DATA --out FOLDER    # figure 7

DATA is the optional data folder: all use the trained CIFAR ResNet-20 and images of CIFAR-10. Every finished
cell is kept in FOLDER: the same command goes on after an interruption.
"""

import argparse
import math
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.pages import Cell, cifar_images, kept, picture, table  # noqa: E402

from networks_real import trained_resnet20  # type: ignore[import-not-found]  # noqa: E402
from veridical.attacks import (  # noqa: E402
    IMAGENET_BOUNDS,
    AttackedPairs,
    ManipulationSettings,
    RecoveryCurve,
    RecoverySettings,
    manipulate,
    preset,
    undo,
)
from veridical.attacks.recovery import BETAS, Reference  # noqa: E402
from veridical.attributions import fit_patterns, method, saliency  # noqa: E402
from veridical.faithfulness import pixel_flipping  # noqa: E402
from veridical.metrics import bootstrap_interval, box, share_interval  # noqa: E402
from veridical.reproduce.undoing import draw_recovery  # noqa: E402
from veridical.smoothing import beta_smooth, choose_beta, smoothgrad  # noqa: E402
from veridical.values import Explainer  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

PICTURES = ROOT / "docs"
FITTED_ON = 512
CHOSEN_ON = 24
COSTLY = 4
"""Pairs of the attack on SmoothGrad, which needs ten passes in the place of one."""
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Shares of removed pixels."""
ORDERS = 3
GROWTH, NONE = "beta 10 to 100", "none"
OPTIMIZATIONS: Mapping[str, Mapping[str, Any]] = {
    GROWTH: {"smoothing": "growth"},
    "beta 10": {"smoothing": "growth", "beta": (10.0, 10.0)},
    "beta 100": {"smoothing": "growth", "beta": (100.0, 100.0)},
    "beta 1000": {"smoothing": "growth", "beta": (1000.0, 1000.0)},
    NONE: {"smoothing": "off"},
}
ATTACKED = {"gradient": tuple(OPTIMIZATIONS), "lrp-zplus": (NONE, GROWTH)}
"""The methods under attack, and what the optimization runs on: the default first."""
FLIPPED: Mapping[str, Mapping[str, Any]] = {
    "gradient": {},
    "gradient-x-input": {},
    "integrated-gradients": {"steps": 10, "output": "probability"},
    "guided-backprop": {"seed": "value"},
    "lrp-zplus": {},
    "pattern-attribution": {},
}
REFERENCES: tuple[Reference, Reference] = ("smoothed", "plain")


@dataclass(frozen=True)
class Run:
    """What all figures share: the network, the images, and the folder of finished cells."""

    data: Path
    out: Path
    pairs: int
    steps: int
    methods: tuple[str, ...]

    @cached_property
    def model(self) -> nn.Module:
        """The trained ResNet-20."""
        model: nn.Module = trained_resnet20(self.data)
        return model

    @cached_property
    def clean(self) -> Tensor:
        """The images under attack, from the test set."""
        return cifar_images(self.data, "test.zip", self.pairs)

    @property
    def others(self) -> Tensor:
        """For each image one of another class, whose map is the target."""
        return self.clean.roll(-math.ceil(self.pairs / 10), 0)

    def settings(self, **changes: Any) -> ManipulationSettings:
        """The default attack, its last iterate kept as in the paper."""
        default = preset("default", IMAGENET_BOUNDS)
        return replace(default, steps=self.steps, keep="last", every=max(1, self.steps // 10), **changes)

    def cell(self, name: str, make: Callable[[], Cell]) -> Cell:
        """What is in the folder under this name and this many pairs and steps; made where nothing is."""
        return self.stored(f"{name}--{self.pairs}--{self.steps}", make)

    def stored(self, name: str, make: Callable[[], Cell]) -> Cell:
        """What is in the folder under this name; made where nothing is."""
        path = self.out / f"{name.replace(' ', '-')}.safetensors"
        return kept(path, make)

    def beta(self, name: str) -> float:
        """What `choose_beta` finds on images of the training set, without seeing an attack."""

        def make() -> Cell:
            found = choose_beta(self.model, cifar_images(self.data, "train15k.zip", CHOSEN_ON), method(name))
            return {"beta": torch.tensor(found.beta, dtype=torch.float64)}

        return round(float(self.stored(f"beta--{name}", make)["beta"]), 2)

    def attacked(self, name: str, explain: Explainer, optimization: str, count: int = 0) -> Cell:
        """One attack, on all pairs or on `count`: measurements, images and course; nothing where refused."""

        def make() -> Cell:
            step = self.pairs // count if count else 1
            clean, others = (one[::step][: count or None] for one in (self.clean, self.others))
            goal = saliency(explain(self.model, others)).detach()
            settings = self.settings(**OPTIMIZATIONS[optimization])
            try:
                found = manipulate(self.model, clean, goal, explainer=explain, settings=settings)
            except ValueError as error:
                if "a gradient of exactly 0" not in str(error):
                    raise
                return {}
            steps = torch.tensor([entry.step for entry in found.history])
            course = torch.stack([entry.pcc for entry in found.history])
            return found.measurements() | {
                "inputs": found.inputs, "goal": goal, "steps": steps, "course": course,
            }  # fmt: skip

        return self.cell(f"attack--{name}--{optimization}", make)


def median(values: Tensor, form: str = ".2f") -> str:
    """The median with its 99 % bootstrap interval."""
    one = box(values)
    return f"{one.median:{form}} [{one.low:{form}}, {one.high:{form}}]"


def mean(values: Tensor) -> str:
    """The mean with its 99 % bootstrap interval."""
    one = bootstrap_interval(values.double().numpy(), "mean")
    return f"{one.estimate:.3f} [{one.low:.3f}, {one.high:.3f}]"


def share(values: Tensor) -> str:
    """How many, and the 99 % interval of the share."""
    one = share_interval(values)
    count = int(values.nansum())
    return f"{count} of {one.n} [{one.low:.0%}, {one.high:.0%}]" if one.n else "0 of 0"


def recovery(run: Run, name: str) -> tuple[RecoveryCurve, RecoveryCurve]:
    """The curves over beta and over the noise for the images of the default attack."""
    attack = run.attacked(name, method(name), ATTACKED[name][0])

    def make() -> Cell:
        pairs = AttackedPairs(run.clean, attack["inputs"], attack["goal"])
        found = undo(
            run.model, pairs, method(name), settings=RecoverySettings(betas=(*BETAS, run.beta(name)))
        )
        return {
            f"{curve.kind}-{key}": value
            for curve in (found.beta, found.noise)
            for key, value in (
                ("levels", torch.tensor(curve.levels, dtype=torch.float64)),
                ("scores", torch.stack([curve.to_target, curve.to_smoothed, curve.to_plain])),
            )
        }

    cell = run.cell(f"undo--{name}", make)
    beta, noise = cell["beta-scores"], cell["noise-scores"]
    return (
        RecoveryCurve("beta", tuple(cell["beta-levels"].tolist()), beta[0], beta[1], beta[2], None),
        RecoveryCurve("noise", tuple(cell["noise-levels"].tolist()), noise[0], noise[1], noise[2], None),
    )


def undo_figure(run: Run) -> str:
    """Figure 4: the manipulated images at falling beta and growing noise."""
    figure, grid = pyplot.subplots(len(run.methods), 2, figsize=(10.5, 3.6 * len(run.methods)), squeeze=False)
    crossings, levels = [], []
    for name, both in zip(run.methods, grid, strict=True):
        chosen = run.beta(name)
        for axes, curve in zip(both, recovery(run, name), strict=True):
            marks = [(chosen, f"choose_beta: {chosen:g}")] if curve.kind == "beta" else []
            draw_recovery(axes, curve, f"{name}, {curve.kind}", marks)
            crossings += [crossing_row(name, curve, reference, chosen) for reference in REFERENCES]
            levels += level_rows(name, curve, chosen)
    figure.tight_layout()
    picture(figure, PICTURES / "attacked-undo.png")
    head = ["method", "smoothing", "the original's map", "turned pairs that cross", "at, median",
            "original ahead at the chosen beta"]  # fmt: skip
    return "\n\n".join((
        table(head, crossings),
        table(["method", "smoothing", "target", "original, same smoothing", "original, plain"], levels),
    ))  # fmt: skip


def crossing_row(name: str, curve: RecoveryCurve, reference: Reference, chosen: float) -> list[str]:
    """Where the original overtakes the target."""
    found = curve.crossing(reference)
    turned = ~found.already & ~(curve.to_original(reference) - curve.to_target).isnan().any(0)
    crossed = (~found.values.isnan()).double()[turned]
    ahead = ""
    if curve.kind == "beta":
        level = curve.levels.index(chosen)
        ahead = share((curve.to_original(reference) > curve.to_target)[level][turned].double())
    kind = "same smoothing" if reference == "smoothed" else "plain"
    return [name, curve.kind, kind, share(crossed), median(found.values, ".3g"), ahead]


def level_rows(name: str, curve: RecoveryCurve, chosen: float) -> list[list[str]]:
    """Medians with 10 and 90 % at some levels."""
    shown = {0.0, 0.005, 0.01, 0.02, 0.05, 0.1, math.inf, 100.0, 30.0, 10.0, chosen, 3.0, 1.0, 0.8}
    rows: dict[float, list[str]] = {}
    for row in curve.bands():
        words = rows.setdefault(row["smoothing"], [])
        words.append(f"{row['median']:.2f} ({row['q10']:.2f} to {row['q90']:.2f})")
    return [[name, "none" if level in (0.0, math.inf) else f"{curve.kind} {level:g}", *words]
            for level, words in rows.items() if level in shown]  # fmt: skip


def variants(run: Run, name: str) -> dict[str, Explainer]:
    """A method as it is and smoothed, with the chosen beta and as the paper smoothed it."""
    plain, chosen = method(name), run.beta(name)
    return {
        "plain": plain,
        f"beta {chosen:g}": beta_smooth(plain, chosen),
        "beta 0.8": beta_smooth(plain, 0.8),
        "SmoothGrad": smoothgrad(plain, 10, 0.1),
    }


def withstood(run: Run, name: str, variant: str, explain: Explainer) -> Cell:
    """One form of a method under attack, aimed at its own maps of the other images."""
    if variant == "plain":
        return run.attacked(name, explain, ATTACKED[name][0])
    if variant == "SmoothGrad":
        return run.attacked(f"{name}--{variant}", explain, ATTACKED[name][0], COSTLY)
    return run.attacked(f"{name}--{variant}", explain, NONE)


def cost(run: Run, forms: Mapping[str, Explainer], name: str) -> Cell:
    """Forward passes and CPU seconds of one map; the forms in turn, median of seven rounds."""
    x, seen, rounds = run.clean[:8], [0], []

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[0] += len(given[0])

    def make() -> Cell:
        handle = run.model.register_forward_pre_hook(count)
        for _ in range(7):
            spent = []
            for explain in forms.values():
                before, begin = seen[0], time.process_time()
                explain(run.model, x, 0)
                spent.append(((time.process_time() - begin) / len(x), (seen[0] - before) / len(x)))
            rounds.append(spent)
        handle.remove()
        found = torch.tensor(rounds, dtype=torch.float64).median(0).values
        return {"seconds": found[:, 0], "passes": found[:, 1]}

    return run.cell(f"cost--{name}", make)


def robustness_figure(run: Run) -> str:
    """Figure 5: what the same attack does to a method and to its smoothed forms."""
    figure, grid = pyplot.subplots(len(run.methods), 3, figsize=(12, 3.6 * len(run.methods)), squeeze=False)
    rows = []
    for name, line in zip(run.methods, grid, strict=True):
        forms = variants(run, name)
        found = {variant: withstood(run, name, variant, one) for variant, one in forms.items()}
        spent = cost(run, forms, name)
        seconds = spent["seconds"].tolist()
        for axes, what, label in zip(
            line, ("pcc_to_target", "ssim_to_target"), ("PCC", "SSIM"), strict=False
        ):
            scatter(axes, found, what, f"{name}: {label} to the target")
        line[2].bar(
            list(forms), [1000 * second for second in seconds], color=["k", "C0", "C1", "C2"][: len(forms)]
        )
        line[2].set(title=f"{name}: one map", ylabel="CPU milliseconds an image")
        line[2].tick_params(axis="x", labelsize=7)
        for place, (variant, cell) in enumerate(found.items()):
            price = [f"{spent['passes'][place]:g}", f"{1000 * seconds[place]:.1f}"]
            rows.append([*robust_row(name, variant, cell, found["plain"]), *price])
    figure.tight_layout()
    picture(figure, PICTURES / "attacked-robustness.png")
    head = ["method", "form", "n", "PCC to target, before", "after", "PCC to original", "SSIM to target",
            "farther than plain: PCC", "SSIM", "MSE", "PSNR, dB", "class kept", "passes", "ms"]  # fmt: skip
    return table(head, rows)


def beside(plain: Cell, cell: Cell) -> Cell:
    """The plain method's values on the pairs that the other form was measured on."""
    count = len(cell["psnr"])
    step = len(plain["psnr"]) // count
    return {key: value[::step][:count] for key, value in plain.items() if value.shape == plain["psnr"].shape}


def scatter(axes: Any, found: Mapping[str, Cell], what: str, title: str) -> None:
    """One marker a pair: the smoothed form to the right, the plain one upwards."""
    for variant, cell in found.items():
        if variant != "plain":
            plain = beside(found["plain"], cell)[what]
            axes.plot(cell[what], plain, "o", markersize=4, alpha=0.7, label=variant)
    axes.axline((0, 0), slope=1, color="k", linewidth=0.8)
    axes.set(title=title, xlabel="smoothed", ylabel="plain")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def robust_row(name: str, variant: str, cell: Cell, every: Cell) -> list[str]:
    """Where one form ends, and how often farther from its target than the plain method."""
    columns = ("pcc_before", "pcc_to_target", "pcc_to_original", "ssim_to_target")
    farther = ["", "", ""]
    if variant != "plain":
        plain = beside(every, cell)
        ahead = (
            cell["pcc_to_target"] < plain["pcc_to_target"],
            cell["ssim_to_target"] < plain["ssim_to_target"],
            cell["mse_to_target"] > plain["mse_to_target"],
        )
        farther = [share(one.double()) for one in ahead]
    kept = f"{int(cell['class_kept'].sum())} of {len(cell['class_kept'])}"
    return [name, variant, str(len(cell["psnr"])), *(median(cell[key]) for key in columns), *farther,
            median(cell["psnr"], ".1f"), kept]  # fmt: skip


def growth_figure(run: Run) -> str:
    """Supplement figure 1: growing, fixed and no beta in the optimization, with the same budget."""
    figure, every = pyplot.subplots(1, len(run.methods), figsize=(5.3 * len(run.methods), 3.8), squeeze=False)
    rows = []
    for name, axes in zip(run.methods, every[0], strict=True):
        grown = run.attacked(name, method(name), GROWTH)
        for optimization in ATTACKED[name]:
            found = run.attacked(name, method(name), optimization)
            if not found:
                rows.append(
                    [name, optimization, str(run.pairs), "refused: the derivative is exactly 0", *[""] * 5]
                )
                continue
            axes.plot(found["steps"], found["course"].nanmedian(1).values, label=optimization)
            apart = "" if optimization == GROWTH else median(found["pcc_to_target"] - grown["pcc_to_target"])
            kept = f"{int(found['class_kept'].sum())} of {run.pairs}"
            rows.append([name, optimization, str(run.pairs), median(found["pcc_to_target"]), apart,
                         median(found["mse_to_target"], ".2g"), median(found["mse_image"], ".2g"),
                         median(found["psnr"], ".1f"), kept])  # fmt: skip
        axes.set(title=name, xlabel="step", ylabel="median PCC to the target, ReLU network", ylim=(-0.05, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    picture(figure, PICTURES / "attacked-growth.png")
    head = ["method", "optimized on", "n", "PCC to target", "difference from growth, paired", "MSE of maps",
            "MSE of images", "PSNR, dB", "class kept"]  # fmt: skip
    return table(head, rows)


def labels(folder: Path, count: int) -> Tensor:
    """The classes of the same images of the test set that `cifar_images` takes (count,)."""
    with zipfile.ZipFile(folder / "cifar10" / "test.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
    known = sorted({name.split("/")[0] for name in names})
    return torch.tensor([known.index(name.split("/")[0]) for name in names[:: len(names) // count][:count]])


def flipping_forms(run: Run) -> dict[tuple[str, str], Explainer]:
    """Every method, plain and beta-smoothed; for the gradient also what the paper took."""
    patterns = fit_patterns(run.model, cifar_images(run.data, "train15k.zip", FITTED_ON).split(64))
    found: dict[tuple[str, str], Explainer] = {}
    chosen = run.beta("gradient")
    for name, options in FLIPPED.items():
        given: dict[str, Any] = {"patterns": patterns} if name == "pattern-attribution" else {}
        plain = method(name, **options, **given)
        found[name, "plain"] = plain
        found[name, f"beta {chosen:g}"] = beta_smooth(plain, chosen)
    found["gradient", "beta 1"] = beta_smooth(found["gradient", "plain"], 1.0)
    found["gradient", "SmoothGrad 0.2"] = smoothgrad(found["gradient", "plain"], 10, 0.2)
    return found


def flipped(run: Run, key: tuple[str, str], explain: Explainer) -> Cell:
    """Whether each image is classified correctly as its pixels go: float64 (N, S + 1) each."""
    truth = labels(run.data, run.pairs)

    def make() -> Cell:
        chance = key == ("gradient", "plain")
        found = pixel_flipping(run.model, run.clean, explain, target=truth, order="both", reduction="sum-abs",
                               steps=FRACTIONS, random=ORDERS if chance else 0)  # fmt: skip
        curves = {"morf": found.morf, "lerf": found.lerf, "random": found.random}
        right = {
            name: (one.predicted == truth[:, None]).double()
            for name, one in curves.items()
            if one is not None
        }
        if chance:
            right["random"] = right["random"].mean(0)
        return right | {"fractions": found.fractions}

    return run.cell(f"flipping--{'--'.join(key)}", make)


def flipping_figure(run: Run) -> str:
    """Figure 7: accuracy over the share of removed pixels."""
    found = {key: flipped(run, key, explain) for key, explain in flipping_forms(run).items()}
    base = found["gradient", "plain"]
    fractions = base["fractions"]

    def area(curves: Tensor) -> Tensor:
        return torch.trapezoid(curves, fractions, dim=1)

    figure, grid = pyplot.subplots(2, 3, figsize=(9, 5.6))
    for name, axes in zip(FLIPPED, grid.flat, strict=True):
        axes.plot(fractions, base["random"].mean(0), "k:", label="random")
        forms = [key for key in found if key[0] == name]
        for place, key in enumerate(forms):
            for order, style in (("morf", "-"), ("lerf", "--")):
                axes.plot(
                    fractions, found[key][order].mean(0), style, color=f"C{place}", label=f"{key[1]}, {order}"
                )
        axes.set(title=name, xlabel="removed pixels", ylabel="accuracy", ylim=(0, 0.9))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.tight_layout()
    picture(figure, PICTURES / "attacked-flipping.png")
    chance = area(base["random"])
    rows = [["random", f"{ORDERS} orders", str(len(chance)), mean(chance), "", "", "", "", ""]]
    for (name, variant), cell in found.items():
        one, plain = ({k: area(c[k]) for k in ("morf", "lerf")} for c in (cell, found[name, "plain"]))
        gain = (
            ["", ""]
            if variant == "plain"
            else [mean(plain["morf"] - one["morf"]), mean(one["lerf"] - plain["lerf"])]
        )
        rows.append([name, variant, str(len(chance)), mean(one["morf"]), mean(chance - one["morf"]),
                     mean(one["lerf"]), mean(one["lerf"] - chance), *gain])  # fmt: skip
    head = ["method", "form", "n", "MoRF area", "better than random by", "LeRF area", "better than random by",
            "smoothing gains, MoRF", "LeRF"]  # fmt: skip
    return table(head, rows)


FIGURES: Mapping[str, tuple[Callable[[Run], str], int, int]] = {
    "undo": (undo_figure, 16, 100),
    "robustness": (robustness_figure, 16, 100),
    "growth": (growth_figure, 16, 100),
    "flipping": (flipping_figure, 120, 0),
}
"""What makes each figure, and how many pairs (or images) and steps it takes by default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one figure and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("figure", choices=list(FIGURES))
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished cells")
    parser.add_argument("--pairs", type=int, help="pairs, 16 by default; for flipping images, 120")
    parser.add_argument("--steps", type=int, help="of each attack, 100 by default")
    parser.add_argument("--methods", nargs="+", choices=list(ATTACKED), default=list(ATTACKED))
    chosen = parser.parse_args(arguments)
    make, pairs, steps = FIGURES[chosen.figure]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    count, budget = chosen.pairs or pairs, chosen.steps or steps
    print(make(Run(chosen.data, chosen.out, count, budget, tuple(chosen.methods))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
