"""An archive of images: one folder a class, each with its class in a file beside it, or without labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from veridical.data._files import by_name, decoded, labels_of, not_an_image
from veridical.data._packed import Packed, open_packed
from veridical.data.source import ImageSource

MAX_BYTES = 200_000_000
CLASS_FILE = ".cls"
MAX_CLASS_BYTES = 200

_OUTSIDE = "outside of the folders of the classes"
_UNNAMED = f"no class in a {CLASS_FILE} file of the same name beside it"


def archive(path: Path) -> ImageSource:
    """The images of an archive with their classes.

    The folder that holds an image is its class. Where there is a .cls file, as in the shards of WebDataset,
    an image's class is the text of the .cls file of the same name instead. Where every image is directly
    inside the archive there are no labels.

    Raises:
        ValueError: the archive is damaged, or folders of one name are in several places.
        OSError: it cannot be read.
    """
    packed = open_packed(path)
    found = {name: size for name, size in sorted(packed.sizes.items()) if not _hidden(name)}
    written = {name for name in found if PurePosixPath(name).suffix == CLASS_FILE and not _leads_out(name)}
    if written:
        images = {name: size for name, size in found.items() if name not in written}
        owners = _written(packed, images, written)
    else:
        images, owners = found, {name: PurePosixPath(name).parent.name for name in found}
    reasons = {
        name: _leads_out(name) or not_an_image(name) or _too_large(size) for name, size in images.items()
    }
    flat = not written and not any(owners[name] for name, reason in reasons.items() if not reason)
    missing = _UNNAMED if written else "" if flat else _OUTSIDE
    reasons = {name: reason or ("" if owners.get(name) else missing) for name, reason in reasons.items()}
    names = tuple(name for name, reason in reasons.items() if not reason)
    if not written:
        _check_one_level(path, names)
    ignored = [*packed.refused, *((name, reason) for name, reason in reasons.items() if reason)]
    if flat and names:
        return ImageSource(str(path), names, ArchiveReader(path, names, packed), ignored=tuple(ignored))
    classes = by_name({owners[name] for name in owners if not _leads_out(name)} - {""})
    labels = labels_of([owners[name] for name in names], classes)
    return ImageSource(str(path), names, ArchiveReader(path, names, packed), labels, classes, tuple(ignored))


def _hidden(name: str) -> bool:
    """Whether it is hidden, or one of the files that macOS adds."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts)


def _leads_out(name: str) -> str:
    path = PurePosixPath(name)
    return "a path that leads out of the archive" if path.is_absolute() or ".." in path.parts else ""


def _too_large(size: int) -> str:
    return f"{size} bytes; expected at most {MAX_BYTES}" if size > MAX_BYTES else ""


def _written(packed: Packed, images: Iterable[str], files: set[str]) -> Mapping[str, str]:
    """The class of each image that has a file of its class beside it; "" where that holds none."""
    beside = ((name, name.removesuffix(PurePosixPath(name).suffix) + CLASS_FILE) for name in images)
    return {name: _class_in(packed, file) for name, file in beside if file in files}


def _class_in(packed: Packed, file: str) -> str:
    if packed.sizes[file] > MAX_CLASS_BYTES:
        return ""
    try:
        text = packed.read(file).decode().strip()
    except ValueError:
        return ""
    return text if text.isprintable() else ""


def _check_one_level(path: Path, names: Iterable[str]) -> None:
    above = sorted({str(PurePosixPath(name).parent.parent) for name in names})
    if len(above) > 1:
        raise ValueError(
            f"expected one place for the classes in {path}, got {', '.join(above[:3])}; "
            "pack one archive for each"
        )


@dataclass
class ArchiveReader:
    """Reads members of an archive, which stays open; a copy in another process opens it again."""

    path: Path
    names: tuple[str, ...]
    packed: Packed | None = None

    def __call__(self, index: int) -> tuple[Image.Image, str]:
        """See `Read`."""
        name = self.names[index]
        self.packed = self.packed or open_packed(self.path)
        return decoded(self.packed.read(name), name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file."""
        return {"path": self.path, "names": self.names, "packed": None}
