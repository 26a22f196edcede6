"""Fixtures for all tests; and torchvision made importable beside a CPU build of torch."""

import os
import re
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# Defined operators live as long as this library object.
KEPT: list[torch.library.Library] = []


def define_missing_torchvision_operators() -> None:
    """Define, by name only, the operators whose compiled library cannot be loaded here.

    torchvision registers shapes for its compiled operators when it is imported and fails where they do not
    exist. The classification networks and transforms use none of them. Users have a torchvision that fits
    their torch; a machine that installed it without its dependencies has not.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    if compiled_library_loads(folder):
        return
    sources = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in folder.rglob("*.py"))
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(set(re.findall(r"torchvision::(\w+)", sources))):
        library.define(f"{name}() -> ()")
    KEPT.append(library)


def compiled_library_loads(folder: Path) -> bool:
    for path in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(path)
        except (OSError, RuntimeError):
            continue
        return True
    return False


define_missing_torchvision_operators()
torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it brings


@pytest.fixture
def generator() -> torch.Generator:
    """A generator in the same state in every test."""
    return torch.Generator().manual_seed(20190613)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The optional folder of real data: the variable VERIDICAL_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("VERIDICAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the optional data folder; {folder} is absent (set VERIDICAL_DATA)")
    return folder


@pytest.fixture
def torchvision_models() -> object:
    """`torchvision.models`, or a skip with the reason."""
    return pytest.importorskip("torchvision.models", reason="needs torchvision (make peers)")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A suite that a shell started in the background would ignore Ctrl-C, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
