"""What zip and tar archives hold, read in place: nothing is ever extracted to a path."""

import gzip
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol

MAX_UNPACKED = 4 * 2**30
"""Bytes that a compressed tar archive may unpack to; as for arrays."""

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
_BROKEN_GZIP = (zlib.error, EOFError, gzip.BadGzipFile)
_BROKEN_TAR = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
_BLOCK = tarfile.BLOCKSIZE


class Packed(Protocol):
    """An open archive."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each regular file by its name; of several with one name the last, as tar and zip do."""
        ...

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of members that are no regular files."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            ValueError: it is damaged or locked.
        """
        ...


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def open_packed(path: Path) -> Packed:
    """Open an archive and list what it holds.

    Raises:
        ValueError: it is damaged, cut off, or unpacks to more than `MAX_UNPACKED` bytes.
        OSError: it cannot be read.
    """
    return ZipPacked(path) if path.suffix.lower() == ".zip" else TarPacked(path)


class ZipPacked:
    """A zip archive, see `open_packed`."""

    refused: tuple[tuple[str, str], ...] = ()

    def __init__(self, path: Path) -> None:
        """List its files."""
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"expected a whole zip archive, got {path} ({error}); copy it again") from error
        self.sizes = {one.filename: one.file_size for one in self._archive.infolist() if not one.is_dir()}

    def read(self, name: str) -> bytes:
        """See `Packed`."""
        try:
            return self._archive.read(name)
        except _BROKEN_ZIP as error:
            raise ValueError(f"damaged or locked in the archive ({error})") from error


class TarPacked:
    """A tar archive, see `open_packed`; a compressed one is unpacked into an unnamed temporary file."""

    def __init__(self, path: Path) -> None:
        """List its files; of each only the place is kept."""
        self._file = _unpacked(path) if path.suffix.lower() != ".tar" else path.open("rb")
        self._closer = weakref.finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}
        refused: list[tuple[str, str]] = []
        for member in _members(path, self._file):
            reason = _irregular(member)
            if reason:
                refused.append((member.name, reason))
            elif member.isreg():
                self._places[member.name] = (member.offset_data, member.size)
        self.refused = tuple(refused)
        self.sizes = {name: size for name, (_, size) in self._places.items()}

    def read(self, name: str) -> bytes:
        """See `Packed`."""
        offset, size = self._places[name]
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) < size:
            raise ValueError(f"cut off in the archive after {len(content)} of {size} bytes")
        return content


def _irregular(member: tarfile.TarInfo) -> str:
    """Why a member cannot be read; "" for plain files, and for folders, which need not be."""
    if member.issym() or member.islnk():
        return "a link; only files are read"
    if member.issparse() or not (member.isreg() or member.isdir()):
        return "no plain file; only files are read"
    if "\N{REPLACEMENT CHARACTER}" in member.name:
        return "its name is not UTF-8"
    return ""


def _members(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar archive, of which none is kept.

    Raises:
        ValueError: it is damaged, or its end is missing.
    """
    count, end = 0, 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="replace") as archive:
            while (member := archive.next()) is not None:
                if archive.offset <= end:
                    # A negative size leads back to an earlier header, and on for ever.
                    raise tarfile.ReadError("a header that points back")
                yield member
                count, end = count + 1, archive.offset
                archive.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
    except _BROKEN_TAR as error:
        raise ValueError(f"expected a whole tar archive, got {path} ({error}); copy it again") from error
    # tarfile takes whatever is no header for the end; a whole archive ends in a block of zeros.
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise ValueError(
            f"expected a whole tar archive, got {path}, which is damaged or cut off after {count} members; "
            "copy it again"
        )


def _unpacked(path: Path) -> IO[bytes]:
    """The content of a gzip file, in a temporary file without a name.

    Raises:
        ValueError: it is damaged or too large.
    """
    target = tempfile.TemporaryFile(prefix="veridical-")
    try:
        with gzip.open(path) as source:
            while content := source.read(2**20):
                target.write(content)
                if target.tell() > MAX_UNPACKED:
                    raise ValueError(
                        f"expected an archive of at most {MAX_UNPACKED} bytes when unpacked, got more in "
                        f"{path}; unpack it into a folder"
                    )
    except _BROKEN_GZIP as error:
        target.close()
        raise ValueError(f"expected a whole gzip file, got {path} ({error}); copy it again") from error
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target
