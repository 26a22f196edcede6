"""Print the tables of docs/classes.md and draw its pictures.

    python scripts/class_figures.py difference DATA --out FOLDER       # EfficientNet-Lite0, two classes
    python scripts/class_figures.py random-logit DATA --out FOLDER     # the CIFAR ResNet-20
    python scripts/class_figures.py randomization DATA --out FOLDER
    python scripts/class_figures.py maps DATA --out FOLDER             # EfficientNet-Lite0, one photograph

DATA is the optional data folder. What a method needs is kept in FOLDER: the same command goes on after an
interruption, and draws from what is there.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.pages import Cell, cifar_images, kept, picture, table  # noqa: E402

from networks_real import trained_resnet20  # type: ignore[import-not-found]  # noqa: E402
from veridical.attributions import Patterns, fit_patterns, method  # noqa: E402
from veridical.data import sample_photographs  # noqa: E402
from veridical.faithfulness import (  # noqa: E402
    cascading_randomization,
    class_difference,
    random_logit,
)
from veridical.metrics import (  # noqa: E402
    bootstrap_interval,
    box,
    map_similarity,
    protocol,
    share_interval,
)
from veridical.models import Preprocessing, load_model  # noqa: E402
from veridical.reproduce.sanity import draw_randomization  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

FOLDER = ROOT / "docs"
FIRST, SECOND = (285, "Egyptian cat"), (967, "espresso")
DIFFERENCE = (
    "gradient", "deeplift-rescale", "contrastive-lrp", "lrp-cmp-alpha2", "guided-backprop", "deep-taylor",
    "lrp-zplus",
)  # fmt: skip
METHODS = (
    "gradient", "lrp-z", "deeplift-rescale", "contrastive-lrp", "lrp-cmp-alpha2", "lrp-alpha2-beta1",
    "guided-backprop", "lrp-zplus",
)  # fmt: skip
CASCADED = ("gradient", "lrp-z", "lrp-cmp-alpha1", "lrp-cmp-alpha2", "guided-backprop", "lrp-zplus")
DRAWN = (
    "guided-backprop", "deconvnet", "rectgrad", "deep-taylor", "lrp-alpha1-beta0", "lrp-alpha2-beta1",
    "lrp-alpha5-beta4", "patternnet", "pattern-attribution", "deeplift-ablation", "lrp-cmp-alpha1",
    "lrp-cmp-alpha2", "gradient", "lrp-z", "deeplift-rescale", "deeplift-reveal-cancel",
)  # fmt: skip
DRAWN_STEPS = ("_fc", "_conv_head", "_blocks.12", "_blocks.8", "_blocks.4", "_conv_stem")
FITTED_ON, PATTERN_BATCH = 48, 8
"""Photographs that the patterns of the maps are fitted on, and how many at a time."""
MEASURES = ("ssim", "ssim-adebayo2018", "ssim-plain", "pcc", "abs-pcc", "spearman", "mse", "hog-8")
STEPS = (
    "linear", "layer3.2", "layer3.1", "layer3.0", "layer2.1", "layer2.0", "layer1.1", "layer1.0", "conv1",
)  # fmt: skip
SHOWN, FLIPS = (0, 3, 5, 8), (0, 8)
"""Steps whose medians, and whose sign flips, stand in the table."""
BATCH = 25
CELLS = 56
"""Side of the maps in the picture, in blocks that average the pixels."""
SMALL = 32
"""The same, in the picture of many maps."""


def interval(values: Tensor) -> str:
    """Median and its 99 % bootstrap interval."""
    found = bootstrap_interval(values.numpy())
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def share(values: Tensor) -> str:
    """A share and its 99 % interval."""
    found = share_interval(values)
    return f"{found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}]"


# --- the difference of two classes --------------------------------------------------------------------------


def both_classes(model: nn.Module, x: Tensor, name: str) -> Cell:
    """Maps, their difference, and what it comes to."""
    found = class_difference(model, x, method(name), FIRST[0], SECOND[0])
    maps = {"first": found.first, "second": found.second, "difference": found.difference}
    summed = {key: values.sum(dim=1) for key, values in maps.items()}
    return {
        **{key: values.float() for key, values in summed.items()},
        "mean_absolute": found.mean_absolute,
        "relative": found.relative,
        "ssim": map_similarity(summed["first"], summed["second"]).values,
    }


def cat_and_coffee(preprocessing: Preprocessing) -> Tensor:
    """The middle of a cat's photograph beside the middle of one of a cup of coffee (1, 3, 224, 224)."""
    cat, coffee = (preprocessing.apply(one) for one in sample_photographs(3).images[1:])
    quarter = cat.shape[-1] // 4
    return torch.cat([one[..., quarter : 3 * quarter] for one in (cat, coffee)], dim=-1)[None]


def difference(data: Path, out: Path, count: int) -> str:
    """Figure 1 (b to e) of Sixt et al. 2020: one image, two objects."""
    loaded = load_model("demo")
    x = cat_and_coffee(loaded.preprocessing)
    cells = {
        name: kept(out / f"difference--{name}.safetensors", partial(both_classes, loaded.module, x, name))
        for name in DIFFERENCE
    }
    draw_difference(loaded.preprocessing.denormalize(x)[0].clamp(0, 1), cells)
    with torch.no_grad():
        chances = loaded.module(x).softmax(1)[0]
    head = [f"method ({chances[FIRST[0]]:.1%} {FIRST[1]}, {chances[SECOND[0]]:.1%} {SECOND[1]})",
            "mean absolute difference", "relative to the maps", "SSIM of the two maps"]  # fmt: skip
    rows = [
        [name, f"{float(cell['mean_absolute']):.2e}", f"{float(cell['relative']):.3f}",
         f"{float(cell['ssim']):.3f}"]
        for name, cell in cells.items()
    ]  # fmt: skip
    return table(head, rows)


def draw_difference(image: Tensor, cells: Mapping[str, Cell]) -> None:
    """A column for each method: both classes, their difference on the same scale and on its own."""
    figure, every = pyplot.subplots(4, len(cells) + 1, figsize=(1.25 * (len(cells) + 1), 5.2))
    titles = (FIRST[1], SECOND[1], "difference", "difference, own scale")
    for row, title in enumerate(titles):
        every[row, 0].axis("off")
        every[row, 0].text(1.0, 0.5, title, fontsize=8, ha="right", transform=every[row, 0].transAxes)
    every[0, 0].clear()
    every[0, 0].imshow(image.permute(1, 2, 0).numpy())
    every[0, 0].set_ylabel(titles[0], fontsize=8)
    every[0, 0].set(xticks=[], yticks=[])
    for column, (name, cell) in enumerate(cells.items(), start=1):
        largest = max(_bound(cell["first"]), _bound(cell["second"]))
        rows = [(cell["first"], largest), (cell["second"], largest), (cell["difference"], largest),
                (cell["difference"], _bound(cell["difference"]))]  # fmt: skip
        for row, (values, bound) in enumerate(rows):
            small = nn.functional.adaptive_avg_pool2d(values, CELLS)[0]
            every[row, column].imshow(
                small.numpy(), cmap="seismic", vmin=-bound, vmax=bound, interpolation="nearest"
            )
            every[row, column].axis("off")
        every[0, column].set_title(name, fontsize=7)
    figure.subplots_adjust(left=0.03, right=0.99, top=0.95, bottom=0.01, wspace=0.04, hspace=0.04)
    picture(figure, FOLDER / "classes-difference.png")


def _bound(values: Tensor) -> float:
    """The percentile 99 of the magnitude of the pooled map."""
    pooled = nn.functional.adaptive_avg_pool2d(values, CELLS).abs().flatten()
    return max(float(torch.quantile(pooled, 0.99)), 1e-12)


# --- random logit and randomization -------------------------------------------------------------------------


def cifar(data: Path, count: int) -> tuple[nn.Module, Tensor]:
    """The trained ResNet-20, and test images of CIFAR-10 evenly over the classes."""
    return trained_resnet20(data).requires_grad_(False), cifar_images(data, "test.zip", count)


def one_random_logit(model: nn.Module, x: Tensor, name: str) -> Cell:
    """Every measure (N,), and the sign flips."""
    found = random_logit(model, x, method(name), measures=MEASURES, batch=BATCH)
    return {**found.measures, "flips": found.flips}


def one_randomization(model: nn.Module, x: Tensor, name: str) -> Cell:
    """Every measure (S, N), and the sign flips."""
    found = cascading_randomization(model, x, method(name), steps=STEPS, measures=MEASURES, batch=BATCH)
    return {**found.measures, "flips": found.flips}


def other_class(data: Path, out: Path, count: int) -> str:
    """Figure 4a of Sixt et al. 2020, with every measure."""
    model, x = cifar(data, count)
    cells = {
        name: kept(
            out / f"random-logit--{name}--{count}.safetensors",
            partial(one_random_logit, model, x, name),
        )
        for name in METHODS
    }
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    boxes = []
    for name, cell in cells.items():
        one = box(cell["ssim"])
        boxes.append({"label": name, "med": one.median, "q1": one.q25, "q3": one.q75, "whislo": one.q10,
                      "whishi": one.q90, "cilo": one.low, "cihi": one.high})  # fmt: skip
    axes.bxp(boxes, showfliers=False, shownotches=True)
    axes.set(ylabel="SSIM (sixt2020)", title=f"map of the predicted class against a random one, n = {count}")
    axes.tick_params(axis="x", labelsize=8, labelrotation=20)
    axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    picture(figure, FOLDER / "classes-random-logit.png")
    rows = [
        [name, *(interval(cell[measure]) for measure in MEASURES), share(cell["flips"])]
        for name, cell in cells.items()
    ]
    return table(["method", *MEASURES, "sign flips"], rows)


def randomized(data: Path, out: Path, count: int) -> str:
    """Figure 4b of Sixt et al. 2020: the median over the layers with its 99 % interval."""
    model, x = cifar(data, count)
    cells = {
        name: kept(
            out / f"randomization--{name}--{count}.safetensors",
            partial(one_randomization, model, x, name),
        )
        for name in CASCADED
    }
    figure, every = pyplot.subplots(1, 2, figsize=(11, 4))
    rows = []
    for axes, measure in zip(every, ("ssim", "hog-8"), strict=True):
        draw_randomization(axes, {name: cell[measure].numpy() for name, cell in cells.items()}, STEPS)
    for name, cell in cells.items():
        medians = [interval(cell["ssim"][step]) for step in SHOWN]
        rows.append([name, *medians, *(share(cell["flips"][step]) for step in FLIPS)])
    for axes, title in zip(every, ("SSIM (sixt2020)", "HOG, cells of 8 pixels"), strict=True):
        axes.set(title=title, ylim=(-0.15, 1.03), xlabel="randomized from the top down to")
    every[0].legend(fontsize=7)
    figure.tight_layout()
    picture(figure, FOLDER / "classes-randomization.png")
    head = ["method", *(f"SSIM, to {STEPS[step]}" for step in SHOWN)]
    head += [f"sign flips, {STEPS[step]}" for step in FLIPS]
    return table(head, rows)


# --- the maps themselves ------------------------------------------------------------------------------------


@cache
def photographs(data: Path) -> tuple[nn.Module, Tensor, Tensor, Patterns]:
    """EfficientNet-Lite0, a photograph (1, 3, 224, 224) as it takes it and in [0, 1], fitted patterns."""
    loaded = load_model("demo")
    files = sorted((data / "imagenet-sample").glob("*.jpg"))[:FITTED_ON]
    read = [loaded.preprocessing.apply(Image.open(file)) for file in files]
    patterns = fit_patterns(loaded.module, torch.stack(read).split(PATTERN_BATCH))
    x = loaded.preprocessing.apply(sample_photographs(3).images[1])[None]
    return loaded.module, x, loaded.preprocessing.denormalize(x).clamp(0, 1), patterns


def cascaded_maps(data: Path, name: str) -> Cell:
    """Maps of the trained and of the randomized networks (S + 1, H, W), and their SSIM (S,)."""
    model, x, image, patterns = photographs(data)
    explain = method(name, patterns=patterns) if "pattern" in name else method(name)
    chosen = protocol("sixt2020", percentile=100) if name == "rectgrad" else protocol("sixt2020")
    found = cascading_randomization(model, x, explain, steps=DRAWN_STEPS, protocol=chosen)
    maps = torch.cat([found.original, found.maps[:, 0]])
    return {"maps": maps.float(), "ssim": found.similarity[:, 0], "image": image[0]}


def drawn_maps(data: Path, out: Path, count: int) -> str:
    """Figures 1a, 6a and 10 of Sixt et al. 2020: the maps while the network is randomized."""
    cells = {
        name: kept(out / f"maps--{name}.safetensors", partial(cascaded_maps, data, name)) for name in DRAWN
    }
    titles = ("trained", *(f"to {step.strip('_')}" for step in DRAWN_STEPS))
    figure, every = pyplot.subplots(len(cells), 1 + len(titles), squeeze=False,
                                    figsize=(0.6 * (2.6 + len(titles)), 0.6 * len(cells) + 0.2))  # fmt: skip
    for row, (name, cell) in zip(every, cells.items(), strict=True):
        row[0].text(1, 0.5, name, fontsize=6, ha="right", va="center", transform=row[0].transAxes)
        for axes, values in zip(row[1:], cell["maps"], strict=True):
            # Networks without any trained layer have logits, and relevance, of 1e-11.
            scaled = values / values.abs().amax().clamp(min=torch.finfo(values.dtype).tiny)
            small = nn.functional.adaptive_avg_pool2d(scaled[None], SMALL)[0]
            bound = max(float(torch.quantile(small.abs(), 0.99)), 1e-12)
            axes.imshow(small.numpy(), cmap="seismic", vmin=-bound, vmax=bound, interpolation="nearest")
        for axes in row:
            axes.axis("off")
    for axes, title in zip(every[0, 1:], titles, strict=True):
        axes.set_title(title, fontsize=6)
    figure.subplots_adjust(left=0.09, right=0.995, top=0.97, bottom=0.005, wspace=0.03, hspace=0.03)
    picture(figure, FOLDER / "classes-maps.png")
    rows = [[name, *(f"{float(value):.2f}" for value in cell["ssim"])] for name, cell in cells.items()]
    return table(["method", *titles[1:]], rows)


FIGURES: Mapping[str, Callable[[Path, Path, int], str]] = {
    "difference": difference,
    "random-logit": other_class,
    "randomization": randomized,
    "maps": drawn_maps,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one figure and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("figure", choices=list(FIGURES))
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(FIGURES[chosen.figure](chosen.data, chosen.out, chosen.images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
