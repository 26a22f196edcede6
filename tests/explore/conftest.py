"""The live view of a tiny network, and a stored run."""

import numpy as np
import pytest

from cli.runs import store
from explore.viewed import Slow, send, serving, tiny
from veridical.explore import Live
from veridical.records import write_arrays


@pytest.fixture
def slow():
    found = Slow()
    yield found
    found.go.set()


@pytest.fixture
def subject(slow):
    whole = tiny()
    return tiny(methods={**whole.methods, "slow": slow})


@pytest.fixture
def live(subject):
    return Live(subject)


@pytest.fixture
def serve():
    return serving


@pytest.fixture
def server(live):
    with serving(live) as running:
        yield running


@pytest.fixture
def ask(server):
    return lambda *arguments: send(server, *arguments)


@pytest.fixture
def ask_of():
    return send


@pytest.fixture
def run_directory(tmp_path):
    """Three photographs with maps of one method; the other method has none."""
    folder = store(
        tmp_path / "run", {name: {"random-logit": [0.1, 0.2, 0.3]} for name in ("gradient", "own")}
    )
    generator = np.random.default_rng(0)
    photographs = generator.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    write_arrays(folder / "maps" / "images.safetensors", {"images": photographs})
    maps = generator.standard_normal((3, 8, 8)).astype(np.float32)
    write_arrays(folder / "maps" / "gradient.safetensors", {"original": maps})
    return folder
