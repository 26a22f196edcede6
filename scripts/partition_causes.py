"""What isolates the causes of the exceptions in docs/partition.md: networks and rules with one change."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import torch
from scripts.partition_cells import Measurement, Store, Variant, convergence, interval, number, table
from scripts.partition_networks import Network
from torch import Tensor, nn

from veridical.faithfulness import cosine_convergence
from veridical.rules import Operation, Rule, RuleSet, Trace, record
from veridical.values import Explainer

IMAGES = 40
"""Images of the experiments on small networks."""

AFFINE = (nn.Conv2d, nn.Linear)
CALIBRATION = 4
"""Batches of training images from which the batch normalization of a changed network is estimated again."""

SHIFTED = ("deconvnet", "lrp-alpha2-beta1", "guided-backprop")
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
CLOSELY = ("gradient", "lrp-z", "lrp-alpha2-beta1", "pattern-attribution", "guided-backprop", "deconvnet",
           "rectgrad", "lrp-zplus", "patternnet")  # fmt: skip
"""The methods whose exceptions are asked for, with two below and two above them."""

POOLED = ("lrp-alpha2-beta1", "pattern-attribution", "guided-backprop", "deconvnet", "rectgrad")


def fewer(store: Store) -> Store:
    """At most as many images as an experiment takes."""
    return replace(store, images=min(IMAGES, store.images))


# --- rules with one thing changed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class WithRule:
    """A method with another rule for one kind of operation."""

    explainer: Explainer
    kind: str
    rule: Rule

    @property
    def rules(self) -> RuleSet:
        """The method's rules, one of them replaced, also after they are completed by a forward pass."""
        inner: RuleSet = self.explainer.rules  # type: ignore[attr-defined]
        bind = inner.bind

        def changed(rules: RuleSet) -> RuleSet:
            return replace(rules, rules={**rules.rules, self.kind: self.rule})

        def bound(trace: Trace) -> RuleSet:
            return changed(bind(trace)) if bind else changed(inner)

        return replace(changed(inner), bind=bound if bind else None)

    def __call__(self, model: torch.nn.Module, inputs: Tensor, target: object = None) -> Tensor:
        """Refused: only the cosine convergence, which asks for the rules alone, has a meaning here."""
        raise TypeError("expected to be asked for its rules, got a call; use cosine_convergence")


def branch_only(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """All relevance of a residual sum to its first operand, the branch of convolutions."""
    return relevance[0], *(torch.zeros_like(relevance[0]) for _ in operation.inputs[1:])


def whole_window(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The relevance of a maximum over 2 x 2 values to all four alike, in the place of the largest one."""
    spread = relevance[0].repeat_interleave(2, -1).repeat_interleave(2, -2) / 4
    return spread, *(torch.zeros_like(spread) for _ in operation.inputs[1:])


# --- networks with one thing changed ------------------------------------------------------------------------

Weights = Callable[[Tensor, torch.Generator], Tensor]


def _shuffled(weight: Tensor, source: torch.Generator) -> Tensor:
    return weight.flatten()[torch.randperm(weight.numel(), generator=source)].view_as(weight)


def _normal(weight: Tensor, source: torch.Generator) -> Tensor:
    return torch.randn(weight.shape, generator=source) * weight.std()


def _mean(share: float) -> Weights:
    """The weights as they are, with that multiple of their standard deviation for their mean."""
    return lambda weight, source: weight - weight.mean() + share * weight.std()


CHANGES: Mapping[str, Weights | None] = {
    "trained": None,
    "mean 0": _mean(0.0),
    "mean -0.1": _mean(-0.1),
    "mean +0.1": _mean(0.1),
    "shuffled": _shuffled,
    "shuffled, mean 0": lambda weight, source: _shuffled(weight - weight.mean(), source),
    "normal": lambda weight, source: _normal(weight, source) + weight.mean(),
    "normal, mean 0": _normal,
}
"""What is done to the weights of every convolution and linear layer, each layer by itself."""


@cache
def _calibration(network: Network) -> tuple[Tensor, ...]:
    return tuple(network.training()[:CALIBRATION])


def normalized_again(model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """The model with the statistics of its batch normalization estimated anew, in evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches if norms else ():
            model(batch)
    return model.eval()


def reweighted(network: Network, change: Weights) -> Network:
    """The network with other weights; biases and what batch normalization learned stay."""
    model, source = copy.deepcopy(network.model), torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, AFFINE):
            module.weight.data = change(module.weight.data, source)
    return replace(network, model=normalized_again(model, _calibration(network)))


def _own_means(network: Network) -> Measurement:
    """The mean weight of each layer in standard deviations."""
    weights = [module.weight.detach() for module in network.model.modules() if isinstance(module, AFFINE)]
    return {"value": [float(weight.mean() / weight.std()) for weight in weights]}


def means(store: Store, networks: Sequence[str]) -> str:
    """Each layer's mean weight moved; its weights shuffled or drawn anew, with their mean and without."""
    few = replace(store, images=min(16, store.images), photographs=min(2, store.photographs))
    rows = []
    for network in networks:
        own = few.cell(network, "weights", "mean", _own_means).get("value", [math.nan])
        negative = f"{sum(value < 0 for value in own)} of {len(own)} layers below 0"
        rows.append([network, f"mean weight: median {median(own):+.3f}, {negative}", *[""] * len(CHANGES)])
        # Of the large network deconvnet alone: it takes a minute there, the others many.
        for name in SHIFTED[:1] if network == "EfficientNet-Lite0" else SHIFTED:
            row = [network, name]
            for change in CHANGES.items():
                row.append(f"{interval(_reweighted(few, network, name, change)).estimate:.1e}")
            rows.append(row)
    return table(["network", "method", *CHANGES], rows)


def _reweighted(store: Store, network: str, name: str, change: tuple[str, Weights | None]) -> Measurement:
    label, weights = change
    if weights is None:
        return store.found(network, Variant(name), "csc")

    def measure(loaded: Network) -> Measurement:
        return convergence(reweighted(loaded, weights), Variant(name).ready(loaded))

    return store.cell(network, f"{name}--{label.replace(',', '')}", "csc", measure)


def scaled(model: nn.Module, factor: float) -> nn.Module:
    """The CIFAR ResNet with the branch of each block times that factor, normalization and bias included."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if name.endswith("bn2") and isinstance(module, nn.BatchNorm2d):
            module.weight.data *= factor
            module.bias.data *= factor
    return model


def branch_share(model: nn.Module, images: Tensor) -> float:
    """Of a residual sum's two magnitudes, the share of the branch: the median over the sums."""
    shares = []
    for operation in record(model, images).operations:
        if operation.kind == "sum":
            branch, shortcut = (float(value.detach().abs().mean()) for value in operation.values[:2])
            shares.append(branch / (branch + shortcut))
    return float(torch.tensor(shares).median())


def branches(store: Store, networks: Sequence[str]) -> str:
    """The branches of the trained ResNet-20 made smaller and larger beside its shortcuts."""
    small, rows = fewer(store), []
    if store.compute:
        loaded = small.network("ResNet-20")
        shares = (branch_share(scaled(loaded.model, factor), loaded.images) for factor in FACTORS)
        rows.append(["share of the branch", *(f"{share:.2f}" for share in shares)])
    for name in ("lrp-alpha2-beta1", "lrp-cmp-alpha2", "lrp-zplus"):
        row = [name]
        for factor in FACTORS:

            def measure(loaded: Network, name: str = name, factor: float = factor) -> Measurement:
                changed = replace(loaded, model=scaled(loaded.model, factor))
                return convergence(changed, Variant(name).ready(changed))

            found = small.cell("ResNet-20", f"{name}--branch {factor:g}", "csc", measure)
            row.append(number(interval(found), ".1e"))
        rows.append(row)
    return table(["method", *(f"branches x {factor:g}" for factor in FACTORS)], rows)


def pools(store: Store, networks: Sequence[str]) -> str:
    """Max pooling on appendix D: relevance to the largest value, and to the whole window."""
    small, rows = fewer(store), []
    for name in POOLED:

        def measure(loaded: Network, name: str = name) -> Measurement:
            return convergence(loaded, WithRule(Variant(name).ready(loaded), "max_pool", whole_window))

        each = (
            small.found("appendix D", Variant(name), "csc"),
            small.cell("appendix D", name, "csc-whole-window", measure),
        )
        rows.append([name, *(number(interval(one), ".1e") for one in each)])
    return table(["method", "to the largest", "to the whole window"], rows)


STARTS = ("conv2", "conv3", "conv4", "fc5", "fc6")


def starts(store: Store, networks: Sequence[str]) -> str:
    """Vectors that start at each layer of the network of appendix D, compared at its first convolution."""
    small, rows = fewer(store), []
    for name in CLOSELY:
        row = [name]
        for start in STARTS:

            def measure(loaded: Network, name: str = name, start: str = start) -> Measurement:
                found = cosine_convergence(loaded.model, loaded.images, Variant(name).ready(loaded),
                                           start=start, layers=(loaded.first,))  # fmt: skip
                return {"value": [float(found.one_minus_median[found.layers.index(loaded.first)])]}

            found = small.cell("appendix D", f"{name}--{start}", "csc-start", measure)
            row.append(f"{interval(found).estimate:.1e}")
        rows.append(row)
    return table(["method", *(f"from {start}" for start in STARTS)], rows)


CAUSES: Mapping[str, Callable[[Store, Sequence[str]], str]] = {
    one.__name__: one for one in (means, branches, pools, starts)
}
