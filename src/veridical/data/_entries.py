"""The files of a folder or of a zip archive that holds one folder a class."""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from veridical.data.folder import SUFFIXES
from veridical.data.images import read_file

MAX_BYTES = 200_000_000


@dataclass(frozen=True)
class Entry:
    """One file: its name inside the source, its folder ("" outside of any), and a function that reads it.

    The function raises ValueError or OSError with the reason where the file cannot be used.
    """

    name: str
    folder: str
    read: Callable[[], bytes]


def folder_entries(root: Path) -> Iterator[Entry]:
    """The files of all folders directly inside a folder, by name; hidden ones are not looked at."""
    for above in _visible(root):
        if not above.is_dir():
            yield Entry(above.name, "", _refused("a file beside the folders of the classes"))
            continue
        for file in _visible(above):
            yield _file_entry(file, f"{above.name}/{file.name}", above.name)


def _file_entry(file: Path, name: str, folder: str) -> Entry:
    if file.is_dir():
        return Entry(name, folder, _refused("a folder; only files directly inside a class are read"))
    reason = _not_an_image(name)
    return Entry(name, folder, _refused(reason) if reason else lambda: read_file(file))


def zip_entries(path: Path) -> Iterator[Entry]:
    """The files of an archive by name; the folder that holds a file is its class.

    Raises:
        ValueError: it is no zip archive, or folders of one name are in several places.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {one.filename: one for one in archive.infolist() if _wanted(one)}
            _check_one_level(path, members)
            for name in sorted(members):
                folder = PurePosixPath(name).parent.name
                yield Entry(name, folder, _member_reader(archive, members[name], folder))
    except zipfile.BadZipFile as error:
        raise ValueError(f"expected a whole zip archive, got {path} ({error}); copy it again") from error


def _wanted(member: zipfile.ZipInfo) -> bool:
    """Whether it is a file, and not one of those that macOS adds."""
    parts = PurePosixPath(member.filename).parts
    return not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _check_one_level(path: Path, names: dict[str, zipfile.ZipInfo]) -> None:
    places = [PurePosixPath(name).parent for name in names if not _not_an_image(name)]
    above = sorted({str(place.parent) for place in places if place.name})
    if len(above) > 1:
        raise ValueError(
            f"expected one place for the classes in {path}, got {', '.join(above[:3])}; "
            "pack one archive for each"
        )


def _member_reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: str) -> Callable[[], bytes]:
    if reason := _not_an_image(member.filename):
        return _refused(reason)
    if not folder:
        return _refused("outside of the folders of the classes")
    if member.file_size > MAX_BYTES:
        return _refused(f"{member.file_size} bytes; expected at most {MAX_BYTES}")

    def read() -> bytes:
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"damaged or locked in the archive ({error})") from error

    return read


def _visible(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if not one.name.startswith("."))


def _not_an_image(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    known = suffix.lower() in SUFFIXES
    return "" if known else f"suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}"


def _refused(reason: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise ValueError(reason)

    return read
