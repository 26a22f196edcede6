"""Data sets of torchvision by their names, from a folder on this machine; nothing is downloaded."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from veridical.checks import nearest_names
from veridical.data.images import checked, digest
from veridical.data.source import ImageSource

ROOT = "data"
PARTS = ("train", "val", "test")
LABELS = ("targets", "labels", "_labels", "y")
"""Where the data sets keep the labels of all images; a set without these is taken as one without labels."""


def torchvision_parts(name: str, root: str) -> tuple[str, ...]:
    """The parts of a data set that are on this machine.

    Raises:
        ImportError: there is no torchvision that works.
        ValueError: it has no data set of this name.
    """
    kind = _kind(name)
    return tuple(part for part in PARTS if _opened(kind, part, root)[0] is not None)


def torchvision_source(name: str, part: str | None, root: str) -> ImageSource:
    """The images of a data set.

    Args:
        name: of the class in `torchvision.datasets`.
        part: "train", "val" or "test", or another split that the class knows; None for a set without parts.
        root: the folder that the class is given.

    Raises:
        ImportError: there is no torchvision that works.
        ValueError: it has no such data set or part, or the set is not in that folder.
    """
    found, reason = _opened(_kind(name), part, root)
    if found is None:
        raise ValueError(
            f"expected the data set {name}{f', part {part},' if part else ''} of torchvision in {root}, got "
            f"{reason}; download it with torchvision.datasets.{name}(..., download=True), or name its "
            f"folder: torchvision:{name}@FOLDER"
        )
    names = tuple(f"{part or name}-{index:0{len(str(len(found) - 1))}d}" for index in range(len(found)))
    labels, classes = _labels(found)
    return ImageSource(f"torchvision:{name}@{root}", names, SetReader(found, names), labels, classes)


def _kind(name: str) -> Any:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"expected a torchvision that works, got {error}; install torch and torchvision from one index"
        ) from error
    known = [one for one in datasets.__all__ if inspect.isclass(getattr(datasets, one, None))]
    if name not in known:
        raise ValueError(f"expected a data set of torchvision, got {name!r}; {nearest_names(name, known)}")
    return getattr(datasets, name)


def _opened(kind: Any, part: str | None, root: str) -> tuple[Any, str]:
    """The data set, or None and why not."""
    known = inspect.signature(kind.__init__).parameters
    chosen: dict[str, Any] = {}
    if part is not None and "train" in known:
        if part not in ("train", "test"):
            return None, "no such part, only train and test"
        chosen["train"] = part == "train"
    elif part is not None and "split" in known:
        chosen["split"] = part
    elif part is not None:
        return None, "a data set without parts"
    try:
        found = kind(root, **chosen)
        return (found, "") if len(found) else (None, "no image")
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _labels(found: Any) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and names of classes, without reading an image."""
    values = next((getattr(found, one) for one in LABELS if hasattr(found, one)), None)
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None, ()
    whole = labels.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    if not whole or labels.shape != (len(found),) or int(labels.min()) < 0:
        return None, ()
    return labels.long(), _named(getattr(found, "classes", None), int(labels.max()) + 1)


def _named(classes: Sequence[Any] | None, count: int) -> tuple[str, ...]:
    """The names of the classes; those with several names get the first."""
    if classes is None or len(classes) < count:
        return tuple(str(index) for index in range(count))
    return tuple(one if isinstance(one, str) else str(one[0]) for one in classes)


@dataclass(frozen=True, eq=False)
class SetReader:
    """Reads the images of a data set of torchvision."""

    found: Any
    names: tuple[str, ...]

    def __call__(self, index: int) -> tuple[Image.Image, str]:
        """See `Read`."""
        image = self.found[index][0]
        if not isinstance(image, Image.Image):
            raise ValueError(f"expected an image, got {type(image).__name__} in {self.names[index]}")
        rgb = checked(image, self.names[index])
        return rgb, digest(rgb.tobytes())


def split_root(rest: str) -> tuple[str, str | None, str]:
    """Name, part and folder of "NAME[:PART][@FOLDER]"."""
    head, _, root = rest.partition("@")
    name, _, part = head.partition(":")
    return name, part or None, str(Path(root or ROOT).expanduser())
