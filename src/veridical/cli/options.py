"""The options that more than one command has, and what they stand for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from veridical.cli.errors import names
from veridical.cli.images import Choice, Labels, labels_of, read_photographs
from veridical.data import Images
from veridical.models import LoadedModel, find_importable, load_model
from veridical.values import Explainer

Model = Annotated[str, typer.Option("--model", help="A specification: see veridical models.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="A state dict for the model.")]
Normalization = Annotated[
    str | None,
    typer.Option(
        "--preprocessing", help="none: values in [0, 1]; or a JSON file. Default: what comes with the model."
    ),
]
Methods = Annotated[
    str | None, typer.Option("--methods", help="Names or package.module:callable, separated by commas.")
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


@dataclass(frozen=True)
class Network:
    """What the options say of the network.

    Attributes:
        spec: `--model`.
        weights: `--weights`.
        preprocessing: `--preprocessing`.
        device: `--device`.
    """

    spec: str
    weights: Path | None
    preprocessing: str | None
    device: str

    def load(self) -> LoadedModel:
        """The network on its device.

        Raises:
            ValueError: the device or the network cannot be used.
            OSError: a file does not exist.
        """
        # Softplus and small relevances are full of denormal numbers, which slow CPU kernels several times.
        torch.set_flush_denormal(True)
        where = find_device(self.device)
        loaded = load_model(self.spec, self.weights, preprocessing=self.preprocessing)
        loaded.module.to(where)
        return loaded


def bounds_of(loaded: LoadedModel) -> tuple[list[float], list[float]]:
    """Black and white as the network sees them, one number a channel."""
    low, high = loaded.preprocessing.bounds()
    return low.flatten().tolist(), high.flatten().tolist()


@dataclass(frozen=True, eq=False)
class PhotographInputs:
    """Photographs as a network takes them, preprocessed anew at every reading."""

    photographs: Images
    preprocess: Callable[[Any], Tensor]
    device: torch.device

    def __len__(self) -> int:
        """How many there are."""
        return len(self.photographs)

    def read(self, start: int, stop: int) -> Tensor:
        """Some of them, (stop - start, C, H, W).

        Raises:
            ValueError: they have different sizes, or a file was changed and cannot be used now.
            OSError: a file is no longer there.
        """
        return stacked([self.preprocess(one) for one in self.photographs.images[start:stop]]).to(self.device)


@dataclass(frozen=True, eq=False)
class Material:
    """A network and its images; `labels` where the images have some."""

    loaded: LoadedModel
    photographs: Images
    inputs: PhotographInputs
    labels: Labels | None

    def all_inputs(self) -> Tensor:
        """Every image as the network takes it, (N, C, H, W).

        Raises:
            ValueError: see `PhotographInputs.read`.
            OSError: see `PhotographInputs.read`.
        """
        return self.inputs.read(0, len(self.inputs))


def load_material(network: Network, place: str | None, choice: Choice, *, later: bool = False) -> Material:
    """Read a network, and look at the images; what of them cannot be used is named on stderr.

    Args:
        network: which.
        place: of the images.
        choice: which of them.
        later: keep no image in memory, see `read_photographs`.

    Raises:
        ValueError: the network, the device or the images cannot be used.
        OSError: a file does not exist.
    """
    choice.check()
    loaded = network.load()
    photographs = read_photographs(place, choice, later=later)
    inputs = PhotographInputs(photographs, loaded.preprocessing.apply, find_device(network.device))
    return Material(loaded, photographs, inputs, labels_of(photographs, loaded, inputs.read(0, 1)))


def find_explainers(text: str | None) -> list[str | Explainer] | None:
    """The methods of a list "name,package.module:callable": names as they are, callables imported.

    Raises:
        ValueError: nothing of such a name can be imported.
    """
    found = names(text)
    return None if found is None else [find_importable(one) if ":" in one else one for one in found]


def stacked(tensors: list[Tensor]) -> Tensor:
    """Preprocessed images (C, H, W) as one tensor (N, C, H, W).

    Raises:
        ValueError: they have different sizes.
    """
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"expected images of one size after preprocessing, got {sorted(shapes)}; "
            "give the model a preprocessing that crops, or make the files equal"
        )
    return torch.stack(tensors)


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is none on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"expected a device of this machine, got {name!r}; use --device cpu") from error
    return device
