"""Why a method is where it is: what changes when one thing does. The experiments of docs/partition.md."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from scripts.partition_causes import CAUSES, CLOSELY, WithRule, branch_only, fewer
from scripts.partition_cells import (
    PAPER,
    Measurement,
    Store,
    Variant,
    convergence,
    interval,
    number,
    table,
)
from scripts.partition_networks import Network
from torch import Tensor, nn
from torch.nn import functional

from veridical.attributions import method
from veridical.faithfulness import cosine_convergence
from veridical.rules import signed_sum

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "partition-scatter.png"
WITH_SUMS = ("ResNet-20", "EfficientNet-Lite0")
LRP = ("lrp-alpha1-beta0", "lrp-alpha2-beta1", "lrp-cmp-alpha1", "lrp-cmp-alpha2")


def options(store: Store, networks: Sequence[str]) -> str:
    """Each option of the rules by itself, and all that the code of Sixt et al. sets, on ResNet-20."""
    small, network = fewer(store), "ResNet-20"
    rows = []
    sixt = (("clip_sums", True), ("bias", "whole"), ("fold_batch_norm", False))
    chosen: list[Variant] = []
    for name in LRP:
        each = [sixt[:1], (("bias", "none"),), sixt[1:2], sixt[2:], sixt]
        chosen += [Variant(name), *(Variant(name, one) for one in each)]
    plain = (("bias", "none"),)
    chosen += [Variant("lrp-z"), Variant("lrp-z", plain)]
    chosen += [Variant("lrp-epsilon", (*plain, ("epsilon", size))) for size in (0.01, 0.1, 1.0)]
    for variant in chosen:
        angle, logit = (small.found(network, variant, test) for test in ("csc", "logit"))
        words = ", ".join(f"{key} {value}" for key, value in variant.options) or "default"
        rows.append([variant.name, words, number(interval(angle), ".1e"), number(interval(logit))])
    return table(["method", "option", "1 - cosine", "SSIM, random logit"], rows)


def rectgrad(store: Store, networks: Sequence[str]) -> str:
    """How much of the gradient must go: the percentile below which relevance is cut, in every activation."""
    small, rows = fewer(store), []
    for percentile in (50.0, 80.0, 90.0, 95.0, 98.0):
        row = [f"{percentile:g}"]
        for network in networks:
            found = small.found(network, Variant("rectgrad", (("percentile", percentile),)), "csc")
            missing = interval(found, "missing").estimate
            row.append(f"{number(interval(found), '.1e')}, {missing:.0%} zero")
        rows.append(row)
    return table(["percentile", *networks], rows)


def signs(store: Store, networks: Sequence[str]) -> str:
    """Where the negative relevance of alpha 2, beta 1 matters: in convolutions or in residual sums."""
    small, rows = fewer(store), []
    chosen = [name for name in networks if name in WITH_SUMS]
    for layers in (1.0, 2.0):
        for added in (1.0, 2.0):

            def measure(loaded: Network, layers: float = layers, added: float = added) -> Measurement:
                inner = method("lrp-alpha1-beta0", alpha=layers, beta=layers - 1)
                return convergence(loaded, WithRule(inner, "sum", signed_sum(added, added - 1, clip=False)))

            label = f"lrp-alpha1-beta0 alpha={layers:g} sums={added:g}"
            found = [small.cell(network, label, "csc", measure) for network in chosen]
            words = [f"alpha {value:g}, beta {value - 1:g}" for value in (layers, added)]
            rows.append([*words, *(number(interval(one), ".1e") for one in found)])
    return table(["convolutions", "residual sums", *chosen], rows)


def sums(store: Store, networks: Sequence[str]) -> str:
    """Residual sums as the method has them, and with everything sent into the branch of convolutions."""
    small, rows = fewer(store), []
    chosen = [name for name in networks if name in WITH_SUMS]
    for name in CLOSELY:
        row = [name]
        for network in chosen:
            row.append(f"{interval(small.found(network, Variant(name), 'csc')).estimate:.1e}")
            row.append(f"{interval(_without_shortcut(small, network, name)).estimate:.1e}")
        rows.append(row)
    heads = [head for network in chosen for head in (network, f"{network}, no shortcut")]
    return table(["method", *heads], rows)


def _without_shortcut(store: Store, network: str, name: str) -> Measurement:
    def measure(loaded: Network) -> Measurement:
        return convergence(loaded, WithRule(Variant(name).ready(loaded), "sum", branch_only))

    return store.cell(network, name, "csc-no-shortcut", measure)


def depth(store: Store, networks: Sequence[str]) -> str:
    """The same method at the first convolution of 20 and of 56 layers, and of 20 that learned nothing."""
    small, rows = fewer(store), []
    compared = ("ResNet-20", "ResNet-56", "ResNet-20 untrained")
    for name in CLOSELY:
        found = [small.found(network, Variant(name), "csc") for network in compared]
        rows.append([name, *(number(interval(one), ".1e") for one in found)])
    return table(["method", *compared], rows)


WIDTHS, LAYERS, SIDE = (8, 16, 32, 64, 128), 18, 8
"""Channels, convolutions and the images' side of the untrained networks."""
SMALLER = (1.0, 0.5, 0.25, 0.1)


class Plain(nn.Module):
    """Convolutions of one width with ReLU, with a shortcut around each but the first or without."""

    def __init__(self, width: int, shortcut: bool, layers: int = LAYERS, branch: float = 1.0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        sizes = [3, *[width] * layers]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.head = nn.Linear(width, 10, bias=False)
        self.shortcut, self.branch = shortcut, branch
        for parameter in self.parameters():
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=source) * (2 / fan_in) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        x = functional.relu(self.convs[0](x))
        for conv in list(self.convs)[1:]:
            branch = conv(x * self.branch)
            x = functional.relu(x + branch if self.shortcut else branch)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def width(store: Store, networks: Sequence[str]) -> str:
    """Untrained networks of 18 convolutions that differ in nothing but the number of channels."""
    x = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    rows = []
    for name in [name for name in CLOSELY if "pattern" not in name]:
        for shortcut in (False, True):
            row = [name, "yes" if shortcut else "no"]
            for channels in WIDTHS:
                found = cosine_convergence(Plain(channels, shortcut).eval(), x, method(name),
                                           layers=("convs.0",))  # fmt: skip
                row.append(f"{found.one_minus_median[found.layers.index('convs.0')]:.1e}")
            rows.append(row)
    return table(["method", "shortcuts", *(f"{channels} channels" for channels in WIDTHS)], rows)


def untrained(store: Store, networks: Sequence[str]) -> str:
    """Untrained networks of 18 convolutions and 16 channels: the branch smaller beside its shortcut."""
    x = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    rows = []
    for name in ("lrp-alpha2-beta1", "guided-backprop", "lrp-zplus"):
        row = [name]
        for factor in SMALLER:
            model = Plain(16, True, branch=factor).eval()
            found = cosine_convergence(model, x, method(name), layers=("convs.0",))
            row.append(f"{found.one_minus_median[found.layers.index('convs.0')]:.1e}")
        rows.append(row)
    return table(["method", *(f"branches x {factor:g}" for factor in SMALLER)], rows)


LENGTHS = (3, 4, 6, 9, 12, 18)
"""Convolutions of untrained networks of 64 channels without shortcuts."""


def length(store: Store, networks: Sequence[str]) -> str:
    """Untrained networks of 64 channels that differ in nothing but the number of convolutions."""
    x = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    rows = []
    for name in [name for name in CLOSELY if "pattern" not in name]:
        row = [name]
        for layers in LENGTHS:
            model = Plain(64, False, layers).eval()
            found = cosine_convergence(model, x, method(name), layers=("convs.0",))
            row.append(f"{found.one_minus_median[found.layers.index('convs.0')]:.1e}")
        rows.append(row)
    return table(["method", *(f"{layers} layers" for layers in LENGTHS)], rows)


def biases(store: Store, networks: Sequence[str]) -> str:
    """Where the bias goes, on the network of appendix D, which has no residual sums and nothing to fold."""
    small, rows = fewer(store), []
    for name in ("lrp-alpha1-beta0", "lrp-alpha2-beta1", "lrp-cmp-alpha2"):
        each = [Variant(name), *(Variant(name, (("bias", bias),)) for bias in ("none", "whole"))]
        found = [interval(small.found("appendix D", variant, "csc")) for variant in each]
        rows.append([name, *(number(one, ".1e") for one in found)])
    return table(["method", "signed", "none", "whole"], rows)


def picture(store: Store, networks: Sequence[str]) -> str:
    """Cosine convergence against the random logit, all methods and networks."""
    figure, every = pyplot.subplots(1, len(networks), figsize=(4.4 * len(networks), 4.4), squeeze=False)
    colors = {"converges": "tab:red", "does not": "tab:blue"}
    for axes, network in zip(every[0], networks, strict=True):
        for name, paper in PAPER.items():
            angle, logit = (interval(store.found(network, Variant(name), test)) for test in ("csc", "logit"))
            axes.plot(angle.estimate, logit.estimate, "o", color=colors[paper], markersize=4)
            if angle.n and logit.n:
                axes.annotate(name, (angle.estimate, logit.estimate), fontsize=5, rotation=55,
                              xytext=(1, 3), textcoords="offset points")  # fmt: skip
        axes.axvspan(0.01, 0.1, color="0.9")
        axes.set(title=network, xscale="log", xlim=(1e-8, 10), ylim=(0, 1.5), xlabel="1 - cosine",
                 yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0])  # fmt: skip
        axes.grid(alpha=0.3)
    every[0][0].set_ylabel("SSIM, random logit")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    return f"wrote {PICTURE.name}"


EXPERIMENTS: Mapping[str, Callable[[Store, Sequence[str]], str]] = {
    **{
        one.__name__: one
        for one in (options, signs, sums, depth, width, untrained, length, biases, rectgrad, picture)
    },
    **CAUSES,
}
