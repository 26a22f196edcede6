"""What is measured for docs/partition.md, and the folder that keeps what is finished."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.partition_networks import Network, load_network

from veridical.attributions import method
from veridical.faithfulness import cascading_randomization, cosine_convergence, random_logit
from veridical.metrics import Interval, bootstrap_interval, protocol
from veridical.records import write_bytes
from veridical.values import Explainer

PAPER: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "patternnet", "pattern-attribution", "deep-taylor", "lrp-alpha1-beta0", "lrp-alpha2-beta1",
            "lrp-zplus", "excitation-backprop", "guided-backprop", "deconvnet", "rectgrad",
            "deeplift-ablation",
        ),
        "converges",
    ),
    **dict.fromkeys(("gradient", "lrp-z", "lrp-epsilon", "deeplift-rescale"), "does not"),
    **dict.fromkeys(
        ("lrp-cmp-alpha1", "lrp-cmp-alpha2", "contrastive-lrp", "contrastive-excitation-backprop"),
        "converges",
    ),
    "deeplift-reveal-cancel": "does not",
}  # fmt: skip
"""The group of each method by Sixt et al. 2020: sections 2 to 4, of the cures section 5. lrp-zplus is their
z+ rule, lrp-epsilon their lrp-z with a stabilizer, lrp-cmp from the last convolution down."""

BLOCKS, LARGEST = 8, 10
"""The interval of the cosine is made of at least that many blocks of at most so many images (20 for 200)."""

STEPS = 2
TESTS = ("csc", "logit", "random")


@dataclass(frozen=True)
class Variant:
    """A method with options, as a file name and a table call it."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The name, and the options in words."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options)])

    def ready(self, network: Network) -> Explainer:
        """The method, with the patterns of the network where it needs them."""
        options = dict(self.options)
        if self.name in ("patternnet", "pattern-attribution"):
            options["patterns"] = network.patterns
        return method(self.name, **options)


Measurement = dict[str, list[float]]
"""What a test found: lists of one value an image, or a block of images."""


def convergence(network: Network, explain: Explainer) -> Measurement:
    """1 - cosine at the first convolution: the median over images, pairs and locations, block by block.

    Blocks of images are independent where single locations are not; and they are faster than single images.
    """
    size = min(LARGEST, max(1, len(network.images) // BLOCKS))
    values, missing = [], []
    for index in range(0, len(network.images), size):
        images = network.images[index : index + size]
        found = cosine_convergence(network.model, images, explain, layers=(network.first,),
                                   first_index=index)  # fmt: skip
        place = found.layers.index(network.first)
        values.append(float(found.one_minus_median[place]))
        missing.append(float(found.nan_fraction[place]))
    return {"value": values, "missing": missing}


def _protocol(variant: Variant) -> Any:
    """That of Sixt et al.; their code takes the largest value of rectgrad for the 99.5th percentile."""
    return protocol("sixt2020", percentile=100) if variant.name == "rectgrad" else protocol("sixt2020")


def other_class(network: Network, variant: Variant) -> Measurement:
    """SSIM of the maps of the labeled class and of a random other class."""
    found = random_logit(network.model, network.images, variant.ready(network), target=network.labels,
                         batch=network.batch, protocol=_protocol(variant))  # fmt: skip
    return {"value": found.similarity.tolist(), "flipped": found.flipped.double().tolist()}


def other_weights(network: Network, variant: Variant) -> Measurement:
    """SSIM of the map and that of the network with its last, then with all of its modules random."""
    found = cascading_randomization(network.model, network.images, variant.ready(network),
                                    target=network.labels, batch=network.batch, steps=STEPS,
                                    protocol=_protocol(variant))  # fmt: skip
    return {"first": found.similarity[0].tolist(), "value": found.similarity[-1].tolist()}


RUN: Mapping[str, Callable[[Network, Variant], Measurement]] = {
    "csc": lambda network, variant: convergence(network, variant.ready(network)),
    "logit": other_class,
    "random": other_weights,
}


@dataclass(frozen=True)
class Store:
    """The folder of finished cells, and what is needed for those that are not."""

    folder: Path
    data: Path
    images: int
    photographs: int
    weights: Path | None
    compute: bool = True

    @cached_property
    def _networks(self) -> dict[str, Network]:
        return {}

    def network(self, name: str) -> Network:
        """The network of that name, loaded when it is first needed."""
        if name not in self._networks:
            self._networks[name] = load_network(name, self.data, self.count(name), self.weights)
        return self._networks[name]

    def count(self, network: str) -> int:
        """How many images of a network."""
        return self.photographs if network == "EfficientNet-Lite0" else self.images

    def cell(
        self, network: str, label: str, test: str, measure: Callable[[Network], Measurement]
    ) -> Measurement:
        """The stored measurement; where there is none, it is made (or all is empty, if told not to)."""
        name = f"{network}--{label}--{test}--{self.count(network)}.json"
        path = self.folder / name.replace(" ", "_")
        if not path.exists():
            if not self.compute:
                return {}
            found = measure(self.network(network))
            write_bytes(path, json.dumps(found).encode())
            print(f"finished {path.stem}", file=sys.stderr, flush=True)
        stored: Measurement = json.loads(path.read_text(encoding="utf-8"))
        return stored

    def found(self, network: str, variant: Variant, test: str) -> Measurement:
        """One test of one method on one network."""
        return self.cell(network, variant.label, test, lambda loaded: RUN[test](loaded, variant))


def interval(found: Measurement, key: str = "value") -> Interval:
    """The median over the images with its 99 % bootstrap interval."""
    return bootstrap_interval(found.get(key, [math.nan]), "median")


def number(found: Interval, form: str = ".2f") -> str:
    """The median and its interval."""
    if not found.n:
        return "-"
    return f"{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
