"""A zip archive that holds one folder a class."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from veridical.data._files import by_name, decoded, labels_of, not_an_image
from veridical.data.source import ImageSource

MAX_BYTES = 200_000_000
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def zip_archive(path: Path) -> ImageSource:
    """The images of an archive; the folder that holds an image is its class.

    Raises:
        ValueError: it is no zip archive, or folders of one name are in several places.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted((one.filename, one.file_size) for one in archive.infolist() if _wanted(one))
    except zipfile.BadZipFile as error:
        raise ValueError(f"expected a whole zip archive, got {path} ({error}); copy it again") from error
    _check_one_level(path, [name for name, _ in found])
    names: list[str] = []
    ignored: list[tuple[str, str]] = []
    for name, size in found:
        reason = not_an_image(name) or _too_large(size) or _outside(name)
        if reason:
            ignored.append((name, reason))
        else:
            names.append(name)
    classes = by_name({_owner(name) for name, _ in found} - {""})
    labels = labels_of([_owner(name) for name in names], classes)
    read = ZipReader(path, tuple(names))
    return ImageSource(str(path), tuple(names), read, labels, classes, tuple(ignored))


def _owner(name: str) -> str:
    return PurePosixPath(name).parent.name


def _outside(name: str) -> str:
    return "" if _owner(name) else "outside of the folders of the classes"


def _too_large(size: int) -> str:
    return f"{size} bytes; expected at most {MAX_BYTES}" if size > MAX_BYTES else ""


def _wanted(member: zipfile.ZipInfo) -> bool:
    """Whether it is a file, and not one of those that macOS adds."""
    parts = PurePosixPath(member.filename).parts
    return not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _check_one_level(path: Path, names: list[str]) -> None:
    places = [PurePosixPath(name).parent for name in names if not not_an_image(name)]
    above = sorted({str(place.parent) for place in places if place.name})
    if len(above) > 1:
        raise ValueError(
            f"expected one place for the classes in {path}, got {', '.join(above[:3])}; "
            "pack one archive for each"
        )


@dataclass
class ZipReader:
    """Reads members of an archive, which stays open; a copy in another process opens it again."""

    path: Path
    names: tuple[str, ...]
    archive: zipfile.ZipFile | None = None

    def __call__(self, index: int) -> tuple[Image.Image, str]:
        """See `Read`."""
        name = self.names[index]
        try:
            self.archive = self.archive or zipfile.ZipFile(self.path)
            content = self.archive.read(name)
        except DAMAGED as error:
            raise ValueError(f"damaged or locked in the archive ({error})") from error
        return decoded(content, name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file."""
        return {"path": self.path, "names": self.names, "archive": None}
