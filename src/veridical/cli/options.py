"""The options that more than one command has, and what they stand for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from veridical.cli.errors import names
from veridical.data import Images, load_folder, sample_photographs
from veridical.models import LoadedModel, find_importable, load_model
from veridical.values import Explainer

Model = Annotated[str, typer.Option("--model", help="demo, torchvision:NAME or package.module:callable.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="A state dict for the model.")]
Folder = Annotated[Path | None, typer.Option("--images", help="A folder of photographs; default: bundled.")]
Methods = Annotated[
    str | None, typer.Option("--methods", help="Names or package.module:callable, separated by commas.")
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


@dataclass(frozen=True)
class Material:
    """A model and its images, ready for it."""

    loaded: LoadedModel
    photographs: Images
    inputs: Tensor

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


def load_material(
    spec: str, weights: Path | None, folder: Path | None, device: str, limit: int | None = None
) -> Material:
    """Read model and images.

    What in the folder could not be used is named on stderr.

    Raises:
        ValueError: the model, the device or the images cannot be used.
        OSError: a file does not exist.
    """
    # Softplus and small relevances are full of denormal numbers, which slow CPU kernels several times.
    torch.set_flush_denormal(True)
    place = find_device(device)
    loaded = load_model(spec, weights)
    photographs = sample_photographs(limit) if folder is None else load_folder(folder, limit)
    tell_skipped(photographs)
    inputs = stacked([loaded.preprocessing.apply(image) for image in photographs.images])
    loaded.module.to(place)
    return Material(loaded, photographs, inputs.to(place))


def tell_skipped(photographs: Images) -> None:
    """Name on stderr what could not be used."""
    for name, reason in photographs.skipped:
        typer.echo(f"skipped {name}: {reason}", err=True)


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
