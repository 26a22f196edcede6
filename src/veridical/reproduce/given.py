"""What a reproduction is given, and what it makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.auditing import ManifoldLike
from veridical.records import read_arrays, write_arrays
from veridical.reproduce.claims import Claim

PRESETS = ("quick", "full")
LEVELS = {"quick": 0.9, "full": 0.99}
"""Of the intervals: five images can decide something at 90 %, eight at the 99 % of Sixt et al. 2020."""

Told = Callable[[float], None]
"""Called with the share that is done of one cell, in (0, 1]."""
_Settings = TypeVar("_Settings")


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and its images.

    Args:
        model: maps images to logits (N, K); in evaluation mode.
        inputs: (N, C, H, W), as the network takes them.
        bounds: black and white as the network sees them, one number a channel.
        facts: what is recorded: names, sources, digests.
        names: of the images.
        targets: the true classes (N,), where they are known.
    """

    model: nn.Module
    inputs: Tensor
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    facts: Mapping[str, Any]
    names: tuple[str, ...]
    targets: Tensor | None = None

    def __len__(self) -> int:
        """How many images."""
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface on which the images lie; its text says which, for the record."""

    manifold: ManifoldLike
    text: str


@dataclass(frozen=True, eq=False)
class Given:
    """What the user chose.

    Args:
        preset: "quick" or "full".
        seed: of everything random.
        network: where one is needed.
        manifold: where one is needed.
    """

    preset: Literal["quick", "full"] = "quick"
    seed: int = 0
    network: Subject | None = None
    manifold: Surface | None = None

    @property
    def level(self) -> float:
        """Of all intervals."""
        return LEVELS[self.preset]

    @property
    def subject(self) -> Subject:
        """The network.

        Raises:
            ValueError: if there is none.
        """
        if self.network is None:
            raise ValueError("expected a network and images, got none; pass Given(network=Subject(...))")
        return self.network

    @property
    def surface(self) -> Surface:
        """The manifold.

        Raises:
            ValueError: if there is none.
        """
        if self.manifold is None:
            raise ValueError("expected a manifold of the images, got none; pass Given(manifold=Surface(...))")
        return self.manifold


@dataclass(frozen=True, eq=False)
class Cell:
    """One finished piece of work: arrays, and words beside them."""

    arrays: Mapping[str, NDArray[Any]]
    words: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of that name."""
        return self.arrays[name]

    def write(self, path: Path) -> None:
        """Keep it, atomically."""
        write_arrays(path, self.arrays, {"words": dict(self.words)})

    @staticmethod
    def read(path: Path) -> "Cell":
        """What was kept.

        Raises:
            RecordError: the file is something else.
        """
        arrays, words = read_arrays(path)
        return Cell(arrays, words.get("words", {}))


def cell(tensors: Mapping[str, Tensor], **words: Any) -> Cell:
    """A cell of tensors."""
    return Cell({name: value.detach().cpu().numpy() for name, value in tensors.items()}, words)


Cells = Mapping[str, Cell]
Makes = Mapping[str, Callable[[Told], Cell]]


def joined(cells: Cells, name: str, prefix: str = "") -> NDArray[np.float64]:
    """One array of the cells whose names start with the prefix, along the first axis."""
    found = [np.asarray(one[name], dtype=np.float64) for key, one in cells.items() if key.startswith(prefix)]
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a reproduction says.

    Args:
        claims: of the paper.
        figure: drawn like the paper's.
        numbers: all that is in the figure, for result.json; NaN is allowed.
        notes: what differs from the paper, and what a reader has to know.
    """

    claims: tuple[Claim, ...]
    figure: Figure
    numbers: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reproduction(Generic[_Settings]):
    """How one figure is computed.

    Args:
        quick: settings for minutes on one core.
        full: settings as near to the paper's as the figure's sense asks.
        cells: the pieces of work by name, in order; each is kept as soon as it is finished.
        result: from the finished pieces to claims and figure; takes a second or two.
    """

    quick: _Settings
    full: _Settings
    cells: Callable[[Given, _Settings], Makes]
    result: Callable[[Given, _Settings, Cells], Outcome]

    def settings(self, preset: str) -> _Settings:
        """Those of a preset."""
        return self.full if preset == "full" else self.quick
