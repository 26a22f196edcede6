"""How many bytes an audit stores, told before it starts: the lines and values of its tasks, and its maps.

How many values a test stores is known from its settings and from the network: the layers that the cosine
convergence reads, the steps of the randomization.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from veridical.faithfulness import ConvergenceSettings, randomizable
from veridical.rules import record

LINE = 90
"""Bytes of a statistic of a layer in a task's file, besides its values: the names of both, punctuation."""

NUMBER, FLAG = 20, 4
"""Bytes of a value in a task's file, and of one that is a 0, a 1 or NaN."""

ROW = 12
"""Bytes of a row in the table of scores."""

PIXEL = 8
"""Bytes of a pixel of a stored map: in single precision, once with its task and once for the report."""

HEAD = 150
"""Bytes of a task's file besides its lines."""


@dataclass(frozen=True)
class Measured:
    """What the size of the results depends on.

    Attributes:
        layers: that the cosine convergence reads, the input included; 0 where it is not planned.
        units: steps of the randomization at most; 0 where it is not planned.
        channels: of an image.
        pixels: of an image.
        name: bytes of an image's name in a list of them, on average.
    """

    layers: int
    units: int
    channels: int
    pixels: int
    name: float


@dataclass(frozen=True)
class Lines:
    """What a test stores of the images of a task.

    Attributes:
        named: statistics with a number for each image, beside the image's name.
        named_flags: those with a 0 or 1.
        pooled: summaries, from a number for each image.
        pooled_flags: those from a 0 or 1.
    """

    named: int
    named_flags: int
    pooled: int
    pooled_flags: int

    @property
    def by_image(self) -> int:
        """Values of an image in a task's file."""
        return self.named + self.named_flags + self.pooled + self.pooled_flags

    def times(self, count: int) -> "Lines":
        """The lines for each of so many layers."""
        return Lines(
            count * self.named, count * self.named_flags, count * self.pooled, count * self.pooled_flags
        )


def measured_on(model: nn.Module, image: Tensor, names: tuple[str, ...], tests: Set[str]) -> Measured:
    """Look at the network, as far as the planned tests need it.

    Args:
        model: in evaluation mode.
        image: (1, C, H, W).
        names: of the images.
        tests: names of the planned tests.
    """
    layers = _or_none(_layers, model, image) if "cosine-convergence" in tests else 0
    units = _or_none(_units, model, image) if "cascading-randomization" in tests else 0
    name = sum(len(one.encode()) + 3 for one in names) / len(names)
    return Measured(layers, units, image.shape[1], image[0, 0].numel(), name)


def _or_none(count: Callable[[nn.Module, Tensor], int], model: nn.Module, image: Tensor) -> int:
    """The number, or 0 where the network is none that the test can work on: it will store nothing."""
    try:
        return count(model, image)
    except (TypeError, ValueError):
        return 0


def _layers(model: nn.Module, image: Tensor) -> int:
    trace, kinds = record(model, image.detach()), ConvergenceSettings().kinds
    return 1 + sum(one.kind in kinds or one.output is trace.logits for one in trace.operations)


def _units(model: nn.Module, image: Tensor) -> int:
    return len(randomizable(model, image))


def lines_of(test: str, settings: Mapping[str, Any], network: Measured) -> Lines:
    """What a test stores, by its settings, with no more steps than the network has.

    `tests/auditing/test_size.py` compares it with what audits store.
    """
    if test == "cascading-randomization":
        return Lines(1, 1, 1, 1).times(settings["steps"])
    if test == "pixel-flipping":
        shares = len(settings["steps"]) + 1
        return Lines(10, 0, 10 + 3 * shares, 3 * shares)
    if test == "cosine-convergence":
        layers = Lines(1, 0, 14, 2).times(network.layers)
        return Lines(layers.named, 0, layers.pooled, layers.pooled_flags + BINS)
    if test == "roar":
        # Rows with an interval, whatever the number of images; each is about as long as two lines.
        curves = 1 + len(settings["controls"])
        margins = 2 if "edges" in settings["controls"] else 1
        return Lines(0, 0, 2 * (curves * len(settings["shares"]) + margins), 0)
    return _FIXED[test]


BINS = 13
"""Of the histogram at the first convolution."""

_FIXED: Mapping[str, Lines] = {
    "random-logit": Lines(1, 1, 1, 1),
    "manipulation": Lines(12, 1, 12, 1),
    "tangent-space": Lines(6, 2, 4, 0),
    "curvature": Lines(6, 0, 5, 0),
    "infidelity": Lines(5, 0, 5, 0),
    "sensitivity": Lines(2, 0, 2, 0),
}


def file_bytes(lines: Lines, images: int, network: Measured) -> float:
    """Bytes of the JSON file of a task on so many images."""
    named = lines.named + lines.named_flags
    numbers = NUMBER * (lines.named + lines.pooled) + FLAG * (lines.named_flags + lines.pooled_flags)
    return HEAD + LINE * lines.by_image + images * (numbers + network.name * named)


def table_bytes(lines: Lines, images: int) -> float:
    """Bytes of a test's rows in `scores.parquet`: one for each image, and the summaries."""
    return ROW * (images * (lines.named + lines.named_flags) + lines.pooled + lines.pooled_flags)


def map_bytes(test: str, settings: Mapping[str, Any], images: int, network: Measured) -> int:
    """Bytes of the maps of so many images, in the task's file and in that for the report."""
    # A manipulation keeps three maps and three images; the maps of the network itself are stored once for
    # the report, whichever tests have them.
    each = {
        "random-logit": 2, "cascading-randomization": 0.5, "manipulation": 3 + 3 * network.channels,
    }.get(test, 0)  # fmt: skip
    if test == "cascading-randomization":
        each += settings["steps"]
    return int(PIXEL * each * images * network.pixels)


def picture_bytes(images: int, network: Measured) -> int:
    """Bytes of so many images, stored once to be shown."""
    return PIXEL // 2 * images * network.channels * network.pixels
