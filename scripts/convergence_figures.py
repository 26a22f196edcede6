"""Print the tables of docs/convergence.md and draw its pictures.

    python scripts/convergence_figures.py simulation     # about a minute, needs no data
    python scripts/convergence_figures.py theorem        # a second
    python scripts/convergence_figures.py layers DATA    # minutes; DATA is the optional data folder
    python scripts/convergence_figures.py chain DATA

The last two need the trained CIFAR ResNet-20 and the images of CIFAR-10.
"""

import argparse
import io
import math
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from networks_real import photograph, trained_resnet20  # type: ignore[import-not-found]  # noqa: E402
from veridical.attributions import Patterns, fit_patterns, method  # noqa: E402
from veridical.faithfulness import (  # noqa: E402
    chain_spectrum,
    cone_convergence,
    cosine_convergence,
    rank_one_analysis,
    simulate_chains,
    simulate_given,
)

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

FOLDER = ROOT / "docs"
STEPS = (2, 4, 6, 8, 12, 16)
ALPHAS = (2.0, 3.0, 4.0, 5.0, 10.0)
FLOOR = 1e-33
FITTED_ON = 1024
IMAGES = 10
METHODS = (
    "gradient",
    "lrp-z",
    "lrp-alpha2-beta1",
    "guided-backprop",
    "pattern-attribution",
    "patternnet",
    "lrp-zplus",
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(figure: Any, name: str) -> None:
    """Write docs/convergence-NAME.png, the same bytes for the same picture."""
    figure.tight_layout()
    figure.savefig(FOLDER / f"convergence-{name}.png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def panel(axes: Any, title: str, ylabel: str = "1 - cosine") -> None:
    """A logarithmic panel with a grid and a legend."""
    axes.set(title=title, yscale="log", xlabel="products", ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def simulation() -> str:
    """Figure 7 of Sixt et al. 2020."""
    found = simulate_chains(alphas=ALPHAS)
    coded, worded = found.median("coded"), found.median("worded")
    low, high = found.range("coded")
    figure, both = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for row, name in enumerate(found.variants):
        axes = both[1] if name.startswith("alpha") else both[0]
        line = axes.plot(coded[row].clamp(min=FLOOR), label=name)[0]
        axes.fill_between(range(coded.shape[1]), low[row].clamp(min=FLOOR), high[row], alpha=0.15,
                          color=line.get_color())  # fmt: skip
    panel(both[0], "random matrices (mean with diagonal, as coded)")
    panel(both[1], "alpha W+ + beta W-")
    save(figure, "simulation")

    def cell(row: int, step: int) -> str:
        return f"{coded[row, step]:.1e} ({worded[row, step]:.1e})"

    return table(
        ["variant", *(f"after {step}" for step in STEPS)],
        [[name, *(cell(row, step) for step in STEPS)] for row, name in enumerate(found.variants)],
    )


def theorem() -> str:
    """Measured smallest cosines beside the stated and the proven bound."""
    source = torch.Generator().manual_seed(0)

    def constant(*rows: Sequence[float]) -> list[Tensor]:
        return [torch.tensor(rows, dtype=torch.float64)] * 40

    chains = {
        "uniform on [0.5, 1], 4 x 4": [
            0.5 + 0.5 * torch.rand(4, 4, generator=source, dtype=torch.float64) for _ in range(15)
        ],
        "[[1, 0], [1, 1]]": constant((1, 0), (1, 1)),
        "[[2, 0, 0], [0, 2, 0], [1, 1, 1]]": constant((2, 0, 0), (0, 2, 0), (1, 1, 1)),
        "[[1, 0], [1/n, 1]]": [torch.tensor([[1, 0], [1 / n, 1]]) for n in range(1, 41)],
    }
    figure, every = pyplot.subplots(1, 4, figsize=(13, 3.4))
    rows = []
    for axes, (name, chain) in zip(every, chains.items(), strict=True):
        found = cone_convergence(chain)
        for label, style in (("measured", "-"), ("stated", "--"), ("proven", ":")):
            axes.plot(getattr(found, label).clamp(min=FLOOR), style, label=label)
        panel(axes, name, "1 - s")
        axes.title.set_fontsize(8)
        last = [f"{float(getattr(found, label)[-1]):.1e}" for label in ("measured", "stated", "proven")]
        rows.append([f"`{name}`", str(len(chain)), f"{found.conditions.rate:.3g}", *last])
    save(figure, "theorem")
    return table(["matrices", "n", "lambda", "1 - s_n", "stated bound", "proven bound"], rows)


def images(folder: Path, archive: str, count: int) -> Tensor:
    """Evenly spaced images of an archive, (count, 3, 32, 32)."""
    with zipfile.ZipFile(folder / "cifar10" / archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        return torch.cat([photograph(io.BytesIO(file.read(name)), 32) for name in chosen]).double()


def trained(folder: Path) -> tuple[nn.Module, Patterns]:
    """The trained ResNet-20 in float64, and patterns of training images."""
    model = trained_resnet20(folder).double()
    return model, fit_patterns(model, images(folder, "train15k.zip", FITTED_ON).split(64))


def layers(folder: Path) -> str:
    """Figure 3 of Sixt et al. 2020, and the learned chains of figure 7, for ResNet-20."""
    model, patterns = trained(folder)
    found = rank_one_analysis(model, images(folder, "test.zip", 1), patterns=patterns.active)
    figure, every = pyplot.subplots(1, 4, figsize=(14, 3.4))
    titles = ("full matrices", "center taps", "between layers")
    ratios: list[Callable[[Any], Any]] = [
        lambda name: found.ratios(name),
        lambda name: found.ratios(name, center=True),
        lambda name: found.pair_ratios(name),
    ]
    rows = []
    for axes, title, of in zip(every, titles, ratios, strict=False):
        for name, label in (("weight", "W"), ("pattern", "A"), ("product", "W * A")):
            values = torch.tensor(list(of(name).values()), dtype=torch.float64)
            axes.plot(values, label=label)
            above = int((values > 6).sum())
            logs = float(values.log10().sum())
            rows.append([title, label, f"{values.median():.2f}", f"{values.min():.2f}",
                         f"{values.max():.2f}", f"{above} of {len(values)}", f"{logs:.1f}"])  # fmt: skip
        panel(axes, title, "sigma1 / sigma2")
        axes.set(xlabel="layer")
    given = {
        "W": simulate_given(found.backward_chain(), name="W"),
        "W, ReLU": simulate_given(found.backward_chain(), rectified=True),
        "A": simulate_given(found.backward_chain("pattern")),
        "W * A": simulate_given(found.backward_chain("product")),
    }
    for name, chain in given.items():
        every[3].plot(chain.median("worded")[0].clamp(min=FLOOR), label=name)
        rows.append([f"chain of center taps, {name}: 1 - median before the image",
                     *["" for _ in range(5)], f"{chain.median('worded')[0, -2]:.1e}"])  # fmt: skip
    panel(every[3], "chain of the center taps")
    save(figure, "layers")
    head = ["sigma1 / sigma2 of", "matrix", "median", "least", "most", "above 6", "log10 of the product"]
    return table(head, rows)


def chain(folder: Path) -> str:
    """Singular values of the whole chain against cosines, at the first convolution of ResNet-20."""
    model, patterns = trained(folder)
    x = images(folder, "test.zip", IMAGES)
    figure, axes = pyplot.subplots(figsize=(5.6, 3.8))
    rows = []
    for place, name in enumerate(METHODS):
        explain = method(name, patterns=patterns) if "pattern" in name else method(name)
        found = chain_spectrum(model, x, explain, layer="conv1")
        cosine = cosine_convergence(model, x, explain, layers=("conv1",))
        apart = float(cosine.one_minus_median[cosine.layers.index("conv1")])
        local = float(found.local_ratio.nanmedian())
        axes.plot(local, apart, "o")
        axes.annotate(
            name, (local, apart), fontsize=7, xytext=(7, -12 if place % 2 else 6), textcoords="offset points"
        )
        rows.append([name, f"{found.ratio.median():.2f}", f"{found.effective_rank.median():.2f}",
                     f"{local:.1f}", f"{apart:.1e}", f"{apart * local**2:.2f}",
                     f"{found.residual.max():.0e}"])  # fmt: skip
    ends = torch.logspace(math.log10(1.5), 3, 50)
    axes.plot(ends, 2 / ends**2, "k:", label="2 (sigma2 / sigma1)^2")
    panel(axes, "ResNet-20, conv1", "1 - median CSC")
    axes.set(xscale="log", xlabel="median sigma1 / sigma2 at a location", ylim=(1e-6, 2))
    save(figure, "chain")
    head = ["method", "sigma1 / sigma2, whole", "effective rank", "sigma1 / sigma2, at a location",
            "1 - median CSC", "its product with the square", "residual"]  # fmt: skip
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one figure and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("figure", choices=["simulation", "theorem", "layers", "chain"])
    parser.add_argument("data", nargs="?", type=Path)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.figure in ("layers", "chain"):
        if chosen.data is None:
            parser.error(f"expected the data folder after {chosen.figure}, got none")
        text = (layers if chosen.figure == "layers" else chain)(chosen.data)
    else:
        text = (simulation if chosen.figure == "simulation" else theorem)()
    print(text)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
