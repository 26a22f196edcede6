"""From what stands after `--images` to a source of images: every form, for every command."""

from dataclasses import replace
from pathlib import Path

from veridical.data._archives import archive
from veridical.data._arrays import PARTS, array_parts, array_source, is_array_source
from veridical.data._generated import data_set_parts, data_set_source, is_data_set
from veridical.data._huggingface import hub_name, hub_source, hub_splits
from veridical.data._packed import is_archive
from veridical.data._tables import SUFFIXES as TABLES
from veridical.data._tables import table_of_files
from veridical.data._torchvision import split_root, torchvision_parts, torchvision_source
from veridical.data.folder import class_folders, flat_folder, holds_images
from veridical.data.images import Images
from veridical.data.labeled import LabeledImages
from veridical.data.source import MAX_BROKEN, ImageSource

FORMS = {
    "FOLDER": "image files directly inside, without labels",
    "FOLDER of folders": "one folder a class, named by the class or its number",
    "FILE.zip": "one folder a class, or images without labels; also .tar, .tar.gz, and shards of WebDataset",
    "FILE.csv": "paths, and labels in a second column; also .tsv",
    "FILE.npz": "images and, if there are, labels; or train_images and train_labels, val_..., test_...",
    "FOLDER of MNIST's files": "train-images-idx3-ubyte and the other three, also with .gz",
    "FOLDER of `veridical manifold generate`": "a data set with a known manifold, also of `reconstruct`",
    "torchvision:NAME[:PART][@FOLDER]": "a data set of torchvision in that folder (default: data)",
    "hf:NAME[:SPLIT]": "a data set of Hugging Face: of the hub, a folder or a parquet file",
}
"""What `--images` takes, with a line about each."""

UNSEEN = ("test", "val", "validation", "valid", "train")
"""The order in which a part is chosen where none is named: images that a network was not trained on first."""


def open_images(
    place: str | Path, part: str | None = None, *, most: int | None = None, seed: int = 0
) -> ImageSource:
    """Find images without decoding any.

    Args:
        place: one of `FORMS`; ":PART" behind a path names a part as well.
        part: of a source that has parts ("train", "val", "test"); None for the first there is of `UNSEEN`.
        most: so many images are enough; only matters to data sets of the hub, which are then streamed.
        seed: of the draw from a stream.

    Returns:
        The source; choose from it with `first`, `subset` or `split`.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: it is of no known form, damaged, or has no such part.
        ImportError: a package that this form needs is missing.
        OSError: something cannot be read or reached.
    """
    text = str(place)
    kind, _, rest = text.partition(":")
    if kind == "torchvision" and rest:
        name, own, root = split_root(rest)
        chosen = own or part or _unseen(torchvision_parts(name, root))
        return replace(torchvision_source(name, chosen, root), place=text)
    if kind == "hf" and rest:
        found = hub_name(rest)
        chosen = found.split or _matching(part, hub_splits(found))
        return hub_source(replace(found, split=chosen), most, seed)
    path, own = _existing(text)
    return _local(path, own or part)


def parts_of(place: str | Path) -> tuple[str, ...]:
    """The parts that a source has, "train" first; () for a source without parts, or a place that names one.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: it is of no known form, or damaged.
        ImportError: a package that this form needs is missing.
        OSError: something cannot be read or reached.
    """
    text = str(place)
    kind, _, rest = text.partition(":")
    if kind == "torchvision" and rest:
        name, own, root = split_root(rest)
        return () if own else torchvision_parts(name, root)
    if kind == "hf" and rest:
        found = hub_name(rest)
        return () if found.split else hub_splits(found)
    path, own = _existing(text)
    return _stored_parts(path) if own is None else ()


def load_labeled(
    place: str | Path, *, part: str | None = None, side: int | None = None, channels: int = 3
) -> LabeledImages:
    """Read all labeled images of a source, and say what could not be read.

    Args:
        place: one of `FORMS` with labels.
        part: `"train"` or another part of a source that has parts; None takes the only part.
        side: height and width; images of another size are scaled so that they fill it, and what sticks
            out is cut off on both sides. None keeps the size, which must be the same for all.
        channels: 3 for RGB, 1 for gray.

    Returns:
        At least one image of every class.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: the source cannot be read, has no such part or no labels, a class has no image, or sizes
            differ.
    """
    return open_labeled(place, part).arrays(side, channels)


def open_labeled(place: str | Path, part: str | None = None) -> ImageSource:
    """As `open_images`, of a source with labels; a part must be named where there are several.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: the source has no such part or no labels, or see `open_images`.
    """
    parts = parts_of(place)
    if part is None and parts:
        raise ValueError(
            f"expected a part without a name in {place}, got {', '.join(parts)}; name one of them"
        )
    path = Path(place)
    folders = path.is_dir() and part is None and not is_array_source(path) and not is_data_set(path)
    found = class_folders(path) if folders else open_images(place, part)
    if found.labels is None or not len(found):
        raise ValueError(
            f"expected a folder of images for each class in {place}, got no usable image with a label; put "
            "the images of each class into a folder of its own, write a table of paths and labels, or store "
            "labels beside the array of images"
        )
    return found


def load_images(
    place: str | Path, limit: int | None = None, seed: int | None = None, *, max_broken: int = MAX_BROKEN
) -> Images:
    """Read images of any form as they are.

    Args:
        place: one of `FORMS`.
        limit: so many; None for all.
        seed: draws them, see `ImageSource.subset`; None takes the first ones.
        max_broken: more files than this that cannot be used are an error.

    Returns:
        At least one image.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: see `open_images`; or there are fewer images than a draw asks for.
        ImportError: see `open_images`.
        OSError: see `open_images`.
    """
    found = open_images(place, most=limit, seed=seed or 0)
    if limit is not None:
        found = found.first(limit) if seed is None else found.subset(limit, seed)
    return found.photographs(max_broken)


def _existing(text: str) -> tuple[Path, str | None]:
    """The path, and the part where ":PART" stands behind it."""
    path, part = Path(text), None
    head, colon, tail = text.rpartition(":")
    if not path.exists() and colon and (tail in PARTS or tail in _stored_parts(Path(head))):
        path, part = Path(head), tail
    if not path.exists():
        raise FileNotFoundError(f"expected images, got {path}; there is nothing of this name")
    known = is_archive(path) or path.suffix.lower() in (".npz", *TABLES)
    if not path.is_dir() and not known:
        raise ValueError(
            f"expected a folder, a .zip, a .tar, a .csv or an .npz file, got the file {path}; name the "
            "folder that holds it, or pack the images so"
        )
    return path, part


def _stored_parts(path: Path) -> tuple[str, ...]:
    """The parts of a source that stores arrays; () of any other."""
    if is_array_source(path) and path.exists():
        return array_parts(path)
    return data_set_parts(path) if is_data_set(path) else ()


def _local(path: Path, part: str | None) -> ImageSource:
    if is_array_source(path):
        return array_source(path, part or _unseen(array_parts(path)))
    if is_data_set(path):
        return data_set_source(path, part or _unseen(data_set_parts(path)))
    if part is not None:
        raise ValueError(f"expected a source with parts for {part!r}, got {path}; name the folder of it")
    if is_archive(path) and path.is_file():
        return archive(path)
    if path.suffix.lower() in TABLES and path.is_file():
        return table_of_files(path)
    if not holds_images(path):
        nested = class_folders(path)
        if len(nested):
            return nested
    return flat_folder(path)


def _unseen(parts: tuple[str, ...]) -> str | None:
    return next((part for part in UNSEEN if part in parts), parts[0] if parts else None)


def _matching(part: str | None, splits: tuple[str, ...]) -> str | None:
    """The split of a part; the hub's sets call the part "val" also "validation"."""
    if part is None or not splits:
        return _unseen(splits)
    names = ("val", "validation", "valid") if part == "val" else (part,)
    return next((one for one in names if one in splits), part)
