"""Networks of torchvision, with the preprocessing that belongs to their weights."""

import importlib
from typing import Any

from torch import nn

from veridical.models.preprocessing import Preprocessing

Built = tuple[nn.Module, Preprocessing, tuple[str, ...] | None]


def build_torchvision(name: str, weights: str | None, *, download: bool = True) -> Built:
    """Build a classification network of torchvision.

    Args:
        name: as in `torchvision.models.list_models()`.
        weights: name of a weights entry such as "IMAGENET1K_V1", or None for the default one.
        download: get the weights; without, the network keeps its random initialization and only the
            preprocessing is taken from the entry.

    Returns:
        Module, preprocessing, labels.

    Raises:
        ImportError: torchvision is missing or does not fit the installed torch.
        ValueError: there is no such network or entry, or the entry has another kind of preprocessing.
        OSError: the weights could not be downloaded.
    """
    models = _torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"expected a network of torchvision, got {name!r}; it has {', '.join(known)}")
    entry = _weights_entry(models, name, weights)
    try:
        module: nn.Module = models.get_model(name, weights=entry if download else None)
    except OSError as error:
        raise OSError(
            f"expected to download {entry}, got {type(error).__name__}: {error}; "
            "download the file elsewhere and give it as weights"
        ) from error
    classes = entry.meta.get("categories")
    return module, read_transforms(entry.transforms(), str(entry)), tuple(classes) if classes else None


def read_transforms(transforms: Any, source: str) -> Preprocessing:
    """Our preprocessing with the values of a torchvision `ImageClassification` transform.

    Args:
        transforms: what a weights entry's `transforms()` returns.
        source: who chose these values, for the record.

    Returns:
        The same preprocessing.

    Raises:
        ValueError: another kind of transform.
    """
    fields = ("resize_size", "crop_size", "mean", "std", "interpolation")
    missing = [field for field in fields if not hasattr(transforms, field)]
    if missing:
        raise ValueError(
            f"expected a transform with {', '.join(fields)}, got {transforms!r} without {missing}; "
            "build the network in a callable of your own and return (module, Preprocessing)"
        )
    return Preprocessing(
        resize=_one_number(transforms.resize_size),
        crop=_one_number(transforms.crop_size),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=str(transforms.interpolation.value),
        source=f"torchvision {source}",
    )


def _torchvision_models() -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"expected torchvision for a torchvision: model, got {error}; pip install the release that "
            "belongs to your torch (see pytorch.org)"
        ) from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            f"expected a torchvision that fits the installed torch, got {type(error).__name__}: {error}; "
            "install torch and torchvision from the same index"
        ) from error


def _weights_entry(models: Any, name: str, weights: str | None) -> Any:
    entries = models.get_model_weights(name)
    if weights is None:
        return entries.DEFAULT
    wanted = weights.rsplit(".", 1)[-1]
    if wanted not in entries.__members__:
        raise ValueError(
            f"expected weights of {name}, got {weights!r}; there are {', '.join(entries.__members__)}"
        )
    return entries[wanted]


def _one_number(size: Any) -> int:
    values = [size] if isinstance(size, int) else list(size)
    if len(set(values)) != 1:
        raise ValueError(f"expected one size for both sides, got {values}; use a callable of your own")
    return int(values[0])
