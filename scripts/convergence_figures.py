"""Print the tables of docs/convergence.md and draw its pictures.

    python scripts/convergence_figures.py simulation     # about a minute, needs no data
    python scripts/convergence_figures.py theorem        # a second
    python scripts/convergence_figures.py layers DATA    # minutes; DATA is the optional data folder
    python scripts/convergence_figures.py chain DATA
    python scripts/convergence_figures.py cosines DATA --out FOLDER      # CSC over the layers, all methods
    python scripts/convergence_figures.py histogram DATA --out FOLDER    # CSC at the first convolution
    python scripts/convergence_figures.py baseline DATA --out FOLDER     # CSC beside that of random vectors
    python scripts/convergence_figures.py starts DATA --out FOLDER       # CSC from several layers

Those with DATA need its trained CIFAR ResNet-20 and images. The last four take `--images` and `--network`:
resnet20, resnet56, efficientnet-lite0 (the demo, on the photographs of DATA) or appendix-d with its
`--weights`. Every finished method is kept in FOLDER, so that the same command goes on after an interruption
and the pictures come from one measurement; `--stored` draws what is there.
"""

import argparse
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.pages import cifar_images, picture, table  # noqa: E402
from scripts.partition_networks import Network, load_network  # noqa: E402

from networks_real import trained_resnet20  # type: ignore[import-not-found]  # noqa: E402
from veridical.attributions import Patterns, fit_patterns, method  # noqa: E402
from veridical.faithfulness import (  # noqa: E402
    CosineConvergence,
    chain_spectrum,
    cone_convergence,
    cosine_convergence,
    rank_one_analysis,
    simulate_chains,
    simulate_given,
)
from veridical.records import write_bytes  # noqa: E402
from veridical.values import Explainer  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

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
SHOWN = 1e-8
"""1 - cosine below this is drawn there, as in the figures of Sixt et al. 2020."""
NETWORKS = {
    "resnet20": "ResNet-20", "resnet56": "ResNet-56", "efficientnet-lite0": "EfficientNet-Lite0",
    "appendix-d": "appendix D",
}  # fmt: skip
CONVERGING = (
    "patternnet", "pattern-attribution", "deep-taylor", "lrp-zplus", "lrp-alpha1-beta0", "lrp-alpha2-beta1",
    "lrp-alpha5-beta4", "lrp-cmp-alpha1", "lrp-cmp-alpha2", "guided-backprop", "deconvnet", "rectgrad",
    "deeplift-ablation",
)  # fmt: skip
OTHERS = ("gradient", "lrp-z", "deeplift-rescale", "deeplift-reveal-cancel")
STARTED = ("gradient", "lrp-z", "lrp-alpha2-beta1", "guided-backprop", "deconvnet", "lrp-zplus")
STARTS = 5
"""Layers from which the vectors start in figure 9, the logits first, evenly spaced."""


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
    figure.tight_layout()
    picture(figure, FOLDER / "convergence-simulation.png")

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
    figure.tight_layout()
    picture(figure, FOLDER / "convergence-theorem.png")
    return table(["matrices", "n", "lambda", "1 - s_n", "stated bound", "proven bound"], rows)


def with_patterns(folder: Path) -> tuple[nn.Module, Patterns]:
    """The trained ResNet-20 in float64, and patterns of training images."""
    model = trained_resnet20(folder).double()
    return model, fit_patterns(model, cifar_images(folder, "train15k.zip", FITTED_ON).double().split(64))


def layers(folder: Path) -> str:
    """Figure 3 of Sixt et al. 2020, and the learned chains of figure 7, for ResNet-20."""
    model, patterns = with_patterns(folder)
    found = rank_one_analysis(model, cifar_images(folder, "test.zip", 1).double(), patterns=patterns.active)
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
    figure.tight_layout()
    picture(figure, FOLDER / "convergence-layers.png")
    head = ["sigma1 / sigma2 of", "matrix", "median", "least", "most", "above 6", "log10 of the product"]
    return table(head, rows)


def chain(folder: Path) -> str:
    """Singular values of the whole chain against cosines, at the first convolution of ResNet-20."""
    model, patterns = with_patterns(folder)
    x = cifar_images(folder, "test.zip", IMAGES).double()
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
    figure.tight_layout()
    picture(figure, FOLDER / "convergence-chain.png")
    head = ["method", "sigma1 / sigma2, whole", "effective rank", "sigma1 / sigma2, at a location",
            "1 - median CSC", "its product with the square", "residual"]  # fmt: skip
    return table(head, rows)


@dataclass(frozen=True)
class Sweep:
    """The cosine convergence of many methods on one network: what is measured, and where it is kept."""

    data: Path
    out: Path
    network: str
    images: int
    stored: bool = False
    weights: Path | None = None

    def measured(self) -> dict[str, Mapping[str, Any]]:
        """By method; what is missing is measured now, or left out where only what is stored is asked for."""
        paths = {
            name: self.out / f"{self.network}--{name}--{self.images}.npz" for name in (*OTHERS, *CONVERGING)
        }
        missing = [name for name, path in paths.items() if not path.exists()]
        if self.stored:
            return {name: dict(np.load(path)) for name, path in paths.items() if name not in missing}
        # Patterns take long to fit: what needs none comes first.
        patterned = [name for name in missing if "pattern" in name]
        for names in ([name for name in missing if name not in patterned], patterned):
            if names:
                model, x, explainers = self._subject(names)
                for name in names:
                    write_bytes(paths[name], packed(self._measure(name, (model, x, explainers[name]))))
                    print(f"finished {name}", file=sys.stderr, flush=True)
        return {name: dict(np.load(path)) for name, path in paths.items()}

    def started(self, name: str) -> dict[str, Mapping[str, Any]]:
        """One method from each of several layers, by the layer; what is missing as in `measured`."""
        found: dict[str, Mapping[str, Any]] = {}
        model, x, explainers = (nn.Identity(), torch.empty(0), {}) if self.stored else self._subject([name])
        for place in range(STARTS):
            path = self.out / f"{self.network}--{name}--start {place}--{self.images}.npz"
            if not path.exists() and not self.stored:
                layers = next(iter(found.values()))["layers"][:-2] if found else [None]
                start = layers[place * (len(layers) - 1) // STARTS]
                start = None if start is None else str(start)
                measured = cosine_convergence(model, x, explainers[name], start=start)
                write_bytes(path, packed(measured))
                print(f"finished {path.stem}", file=sys.stderr, flush=True)
            if path.exists():
                one = dict(np.load(path))
                found[str(one["layers"][0])] = one
        return found

    def _measure(self, name: str, subject: tuple[nn.Module, Tensor, Explainer]) -> CosineConvergence:
        """In single precision; in double where the numbers leave that before the first convolution."""
        found = cosine_convergence(*subject)
        if found.nan_fraction[-2] < 1:
            return found
        model, x, explainers = self._subject([name], torch.float64)
        return cosine_convergence(model, x, explainers[name])

    def _subject(
        self, names: Sequence[str], dtype: torch.dtype = torch.float32
    ) -> tuple[nn.Module, Tensor, dict[str, Explainer]]:
        """Network, images and methods."""
        network = load_network(NETWORKS[self.network], self.data, self.images, self.weights)
        network.model.to(dtype)
        patterns = self._patterns(network, dtype) if any("pattern" in name for name in names) else None
        ready = {
            name: method(name, patterns=patterns) if "pattern" in name else method(name) for name in names
        }
        return network.model, network.images.to(dtype), ready

    def _patterns(self, network: Network, dtype: torch.dtype) -> Patterns:
        """Of 1024 training images, of those of the partition, or of the photographs not explained."""
        if self.network in ("efficientnet-lite0", "appendix-d"):
            fitted: Sequence[Tensor] = network.training()
        else:
            fitted = cifar_images(self.data, "train15k.zip", FITTED_ON).split(64)
        return fit_patterns(network.model, [batch.to(dtype) for batch in fitted])


def packed(found: CosineConvergence) -> bytes:
    """What the pictures need, as the content of a .npz file."""
    first = found.layers[-2]
    arrays: dict[str, Any] = {
        "layers": np.array(found.layers), "baseline": found.random_baseline, "missing": found.nan_fraction,
        "resolution": found.resolution, "median": found.one_minus_percentiles[50],
        "low": found.one_minus_percentiles[80], "high": found.one_minus_percentiles[20],
        "coarse": found.histogram(first).counts, "fine": found.histogram(first, "log").counts,
        "edges": found.histogram(first, "log").edges,
    }  # fmt: skip
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def cosines(sweep: Sweep) -> str:
    """Figures 5a to 5d and 6c of Sixt et al. 2020."""
    found = sweep.measured()
    figure, (plain, close) = pyplot.subplots(1, 2, figsize=(12, 4.6))
    rows = []
    for place, (name, one) in enumerate(found.items()):
        style = {"color": pyplot.get_cmap("tab20")(place % 20), "linestyle": "--" if name in OTHERS else "-"}
        steps = range(len(one["layers"]))
        plain.plot(steps, 1 - one["median"], label=name, **style)
        close.plot(steps, one["median"].clip(SHOWN), label=name, **style)
        close.fill_between(steps, one["low"].clip(SHOWN), one["high"].clip(SHOWN), alpha=0.07,
                           color=style["color"])  # fmt: skip
        first = [f"{one[part][-2]:.1e}" for part in ("median", "low", "high")]
        rows.append([name, first[0], f"{first[1]} to {first[2]}", f"{one['missing'][-2]:.1%}",
                     f"{one['resolution'][-2]:.0e}"])  # fmt: skip
    plain.plot(one["baseline"], "k:", label="random vectors")
    plain.set(title=f"{sweep.network}, {sweep.images} images", ylabel="median |cosine|", ylim=(0, 1.02))
    close.set(yscale="log", title="with the 20th to 80th percentile", ylabel="1 - median |cosine|")
    for axes in (plain, close):
        axes.set(xlabel="layers, from the logits to the image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    close.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    picture(figure, FOLDER / f"convergence-cosines-{sweep.network}.png")
    head = ["method", "1 - median at the first convolution", "20th to 80th percentile", "without a cosine",
            "rounding"]  # fmt: skip
    return table(head, rows)


def distribution(sweep: Sweep) -> str:
    """Figures 5e to 5g of Sixt et al. 2020: shares of cosines at the first convolution."""
    found = sweep.measured()
    figure, (bars, curves) = pyplot.subplots(1, 2, figsize=(12, 4.6))
    labels = ("above 0.9999", "0.999 to 0.9999", "0.99 to 0.999", "0.9 to 0.99", "below 0.9")
    rows = []
    for place, (name, one) in enumerate(found.items()):
        count = max(1, one["coarse"].sum())
        shares = np.append(one["coarse"][:4], one["coarse"][4:].sum()) / count
        left = 0.0
        for shade, share in enumerate(shares):
            bars.barh(name, share, left=left, color=pyplot.get_cmap("viridis")(1 - shade / 4),
                      label="" if place else labels[shade])  # fmt: skip
            left += share
        rows.append([name, *(f"{share:.1%}" for share in shares)])
        curves.stairs(one["fine"] / count, one["edges"].clip(1e-16), label=name,
                      color=pyplot.get_cmap("tab20")(place % 20),
                      linestyle="--" if name in OTHERS else "-")  # fmt: skip
    bars.invert_yaxis()
    bars.set(title=f"{sweep.network}, {sweep.images} images", xlabel="share of |cosines|", xlim=(0, 1))
    bars.legend(fontsize=7, loc="lower center", ncols=5, bbox_to_anchor=(0.5, -0.25))
    curves.set(
        xscale="log", title="first convolution", xlabel="1 - |cosine|", ylabel="share of a quarter decade"
    )
    curves.set(xlim=(1e-10, 1))
    curves.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    picture(figure, FOLDER / f"convergence-histogram-{sweep.network}.png")
    return table(["method", *labels], rows)


def beside_random(sweep: Sweep) -> str:
    """The cosines of what does not converge beside the baseline of Sixt et al. 2020, figure 5."""
    rows = []
    for name, one in sweep.measured().items():
        if name in OTHERS:
            cosine, baseline = 1 - one["median"], one["baseline"]
            # The start is random itself, and the image has three channels.
            times = (cosine / baseline)[1:-1]
            rows.append([name, f"{cosine[-2]:.2f}", f"{baseline[-2]:.2f}", f"{times[-1]:.1f}",
                         f"{times.min():.1f} to {times.max():.1f}", f"{cosine[1]:.2f}",
                         f"{cosine[1:-1].max():.2f}"])  # fmt: skip
    head = ["method", "median cosine at the first convolution", "of random vectors", "times random",
            "times random, all layers", "below the logits", "largest on the way"]  # fmt: skip
    return table(head, rows)


def from_layers(sweep: Sweep) -> str:
    """Figure 9 of Sixt et al. 2020: vectors that start at different layers."""
    figure, every = pyplot.subplots(2, 3, figsize=(12, 6), sharey=True)
    rows = []
    for axes, name in zip(every.flat, STARTED, strict=False):
        found = sweep.started(name)
        whole = [str(layer) for layer in next(iter(found.values()))["layers"]] if found else []
        for start, one in found.items():
            steps = range(len(whole) - len(one["layers"]), len(whole))
            axes.plot(steps, one["median"].clip(SHOWN), label=f"from {start}")
            rows.append([name, start, str(len(one["layers"]) - 2), f"{one['median'][1]:.1e}",
                         f"{one['median'][-2]:.1e}"])  # fmt: skip
        axes.set(title=name, yscale="log", ylim=(SHOWN, 2))
        axes.grid(alpha=0.3)
    for axes in every[1]:
        axes.set(xlabel="layers, from the logits to the image")
    for axes in every[:, 0]:
        axes.set(ylabel="1 - median |cosine|")
    every[0, 0].legend(fontsize=7)
    figure.tight_layout()
    picture(figure, FOLDER / f"convergence-starts-{sweep.network}.png")
    head = ["method", "start", "layers below", "1 - median one layer below", "at the first convolution"]
    return table(head, rows)


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("figure", choices=[*FREE, *ON_DATA, *SWEEPS])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, help="the folder that keeps finished methods")
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet20")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--stored", action="store_true", help="draw what FOLDER holds, measure nothing")
    parser.add_argument("--weights", type=Path, help="trained weights of the network of appendix D")
    chosen = parser.parse_args(arguments)
    if chosen.network == "appendix-d" and chosen.weights is None and not chosen.stored:
        parser.error("expected --weights FILE for appendix-d, got none; see docs/training.md")
    if chosen.figure not in FREE and chosen.data is None:
        parser.error(f"expected the data folder after {chosen.figure}, got none")
    if chosen.figure in SWEEPS and chosen.out is None:
        parser.error(f"expected --out FOLDER for {chosen.figure}, got none")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one figure and print its table."""
    chosen = arguments_of(arguments)
    torch.set_num_threads(1)
    if chosen.figure in FREE:
        text = FREE[chosen.figure]()
    elif chosen.figure in ON_DATA:
        text = ON_DATA[chosen.figure](chosen.data)
    else:
        sweep = Sweep(chosen.data, chosen.out, chosen.network, chosen.images, chosen.stored, chosen.weights)
        text = SWEEPS[chosen.figure](sweep)
    print(text)  # noqa: T201
    return 0


FREE: dict[str, Callable[[], str]] = {"simulation": simulation, "theorem": theorem}
ON_DATA: dict[str, Callable[[Path], str]] = {"layers": layers, "chain": chain}
SWEEPS: dict[str, Callable[[Sweep], str]] = {
    "cosines": cosines, "histogram": distribution, "baseline": beside_random, "starts": from_layers,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
