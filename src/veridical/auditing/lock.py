"""One audit at a time in a run directory."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".audit.lock"


@contextmanager
def locked(directory: Path | None) -> Iterator[None]:
    """Hold a run directory against other audits, in this process and others.

    The operating system keeps the lock and ends it with the process, however that ended: a file that was left
    behind by a killed process is taken over. Where the system has no such locks (Windows), nothing is held.

    Args:
        directory: created where it does not exist; None holds nothing.

    Raises:
        ValueError: another audit is at work there; the message names its process and machine.
        OSError: the directory cannot be written.
    """
    if directory is None or sys.platform == "win32":
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(directory / LOCK)
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for this file finds that it is no longer the one there.
        (directory / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(path)
            os.close(descriptor)
            raise ValueError(
                f"expected a run directory that nobody writes to, got {path.parent}, where {holder} is at "
                "work; wait for it, end it, or give another --out"
            ) from error
        if _is_there(path, descriptor):
            os.ftruncate(descriptor, 0)
            content = {"process": os.getpid(), "machine": socket.gethostname()}
            os.write(descriptor, json.dumps(content).encode())
            return descriptor
        os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        content = json.loads(path.read_text())
        return f"process {content['process']} on {content['machine']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another audit"
