"""Data sets of Hugging Face: by name from the hub, or from this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from veridical.data._files import by_name, decoded, labels_of
from veridical.data.images import read_file
from veridical.data.source import ImageSource

BUFFER = 1000
"""Rows of a stream among which the next one is drawn."""
SPARE = 10
"""Rows of a stream beyond those that are wanted, in the place of broken images."""

IMAGES = ("image", "img", "images", "picture", "pixel_values")
LABELS = ("label", "labels", "fine_label", "class", "target")
SAVED = ("dataset_dict.json", "state.json")
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class HubName:
    """What follows "hf:": NAME[:SPLIT] or NAME:CONFIG:SPLIT; a NAME may be a folder or a parquet file."""

    name: str
    config: str | None = None
    split: str | None = None

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return Path(self.name).exists()

    @property
    def saved(self) -> bool:
        """Whether it is a folder that `save_to_disk` wrote."""
        return any((Path(self.name) / one).is_file() for one in SAVED)


def hub_name(rest: str) -> HubName:
    """The parts of what follows "hf:".

    Raises:
        ValueError: there are more than three.
    """
    if Path(rest).exists():
        return HubName(rest)
    parts = rest.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f"expected hf:NAME[:SPLIT] or hf:NAME:CONFIG:SPLIT, got {rest!r}; write it so")
    config = parts[1] if len(parts) == 3 else None
    return HubName(parts[0], config, parts[-1] if len(parts) > 1 else None)


def hub_splits(found: HubName) -> tuple[str, ...]:
    """The splits of a data set; those of the hub need the network.

    Raises:
        ImportError: there is no package `datasets`.
        OSError: the data set cannot be reached or read.
    """
    datasets = _package()
    if found.saved:
        loaded = _guarded(found, lambda: datasets.load_from_disk(found.name))
        return tuple(loaded) if isinstance(loaded, dict) else ()
    if Path(found.name).is_file():
        return ()
    return tuple(_guarded(found, lambda: datasets.get_dataset_split_names(found.name, found.config)))


def hub_source(found: HubName, most: int | None, seed: int) -> ImageSource:
    """The images of a data set.

    With `most` a data set that is not on this machine is streamed: only about as many rows are fetched, drawn
    by the seed among `BUFFER` rows. Otherwise all of it is downloaded into the package's cache.

    Args:
        found: see `hub_name`; the split must be given where there are several.
        most: so many images are enough; None for all.
        seed: of the draw from a stream.

    Raises:
        ImportError: there is no package `datasets`.
        OSError: the data set cannot be reached or read.
        ValueError: there is no column of images.
    """
    place = ":".join(one for one in ("hf", found.name, found.config, found.split) if one)
    stream = most is not None and not found.local
    rows = _guarded(found, lambda: _loaded(found, stream))
    image, label = _columns(place, rows)
    raw = rows.cast_column(image, _package().Image(decode=False))
    kept: Any = raw
    if stream and most is not None:
        shuffled = raw.shuffle(seed=seed, buffer_size=BUFFER)
        kept = _guarded(found, lambda: list(islice(shuffled, most + SPARE)))
    names = tuple(f"{found.split or 'image'}-{index:0{len(str(len(kept)))}d}" for index in range(len(kept)))
    labels, classes = _labels(kept, label, rows.features)
    return ImageSource(place, names, RowReader(kept, image, names), labels, classes)


def _package() -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise ImportError(f"expected the package datasets, got {error}; pip install datasets") from error


def _guarded(found: HubName, action: Callable[[], Any]) -> Any:
    """What the action gives; any failure of the package becomes an OSError in one line."""
    try:
        return action()
    except Exception as error:
        # The package, its file systems and its network client raise errors of many kinds.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise OSError(
            f"expected the data set {found.name} of Hugging Face, got {reason}; check its name, its "
            "split and the network"
        ) from error


def _loaded(found: HubName, stream: bool) -> Any:
    datasets = _package()
    if found.saved:
        loaded = datasets.load_from_disk(found.name)
        return loaded[found.split] if isinstance(loaded, dict) else loaded
    if Path(found.name).is_file():
        return datasets.load_dataset("parquet", data_files=found.name, split="train")
    return datasets.load_dataset(found.name, found.config, split=found.split, streaming=stream)


def _columns(place: str, rows: Any) -> tuple[str, str | None]:
    """The columns of images and labels."""
    features = rows.features
    if features is None:
        raise ValueError(f"expected a data set that names its columns, got none in {place}; convert it")
    datasets = _package()
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    images += [name for name in IMAGES if isinstance(features.get(name), dict)]
    if not images:
        raise ValueError(
            f"expected a column of images in {place}, got {', '.join(features)}; name another set"
        )
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = classes + [name for name in LABELS if name in features]
    return images[0], labels[0] if labels else None


def _labels(rows: Any, column: str | None, features: Any) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and names of classes, without reading an image; none where some image has no label."""
    if column is None:
        return None, ()
    found = [row[column] for row in rows] if isinstance(rows, list) else list(rows[column])
    if all(isinstance(one, str) for one in found):
        classes = by_name(set(found))
        return labels_of(found, classes), classes
    if not all(isinstance(one, int) and 0 <= one < MAX_CLASSES for one in found):
        return None, ()
    named = getattr(features[column], "names", None)
    classes = tuple(named) if named else tuple(str(index) for index in range(max(found, default=0) + 1))
    return torch.tensor(found, dtype=torch.long), classes


@dataclass(frozen=True, eq=False)
class RowReader:
    """Reads the images of rows of a data set, encoded in this column."""

    rows: Any
    column: str
    names: tuple[str, ...]

    def __call__(self, index: int) -> tuple[Image.Image, str]:
        """See `Read`."""
        stored = self.rows[index][self.column]
        if not stored or not (stored.get("bytes") or stored.get("path")):
            raise ValueError(f"expected an image, got none in {self.names[index]}")
        content = stored.get("bytes") or read_file(Path(stored["path"]))
        return decoded(content, self.names[index])
