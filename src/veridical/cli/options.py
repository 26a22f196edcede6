"""The options that more than one command has, and what they stand for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
class Material:
    """A model and its images, ready for it; `labels` where the images have some."""

    loaded: LoadedModel
    photographs: Images
    inputs: Tensor
    labels: Labels | None = None

    def display(self, inputs: Tensor) -> Tensor:
        """The images as they can be shown, in [0, 1]."""
        return self.loaded.preprocessing.denormalize(inputs)

    def bounds(self) -> tuple[list[float], list[float]]:
        """Black and white as the model sees them, one number a channel."""
        low, high = self.loaded.preprocessing.bounds()
        return low.flatten().tolist(), high.flatten().tolist()


def find_explainers(text: str | None) -> list[str | Explainer] | None:
    """The methods of a list "name,package.module:callable": names as they are, callables imported.

    Raises:
        ValueError: nothing of such a name can be imported.
    """
    found = names(text)
    return None if found is None else [find_importable(one) if ":" in one else one for one in found]


def load_material(  # noqa: PLR0913 - the options that say what is explained
    spec: str,
    weights: Path | None,
    place: str | None,
    device: str,
    choice: Choice,
    preprocessing: str | None = None,
) -> Material:
    """Read model and images.

    What of the images could not be used is named on stderr. `preprocessing` is the text of that option.

    Raises:
        ValueError: the model, the device or the images cannot be used.
        OSError: a file does not exist.
    """
    # Softplus and small relevances are full of denormal numbers, which slow CPU kernels several times.
    torch.set_flush_denormal(True)
    choice.check()
    where = find_device(device)
    loaded = load_model(spec, weights, preprocessing=preprocessing)
    photographs = read_photographs(place, choice)
    inputs = stacked([loaded.preprocessing.apply(image) for image in photographs.images]).to(where)
    loaded.module.to(where)
    return Material(loaded, photographs, inputs, labels_of(photographs, loaded, inputs))


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
