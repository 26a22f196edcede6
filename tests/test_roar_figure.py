"""The script behind docs/roar.md, on a few made-up digits."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = spec_from_file_location("roar_figure", ROOT / "scripts" / "roar_figure.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "roar_figure", module)  # its dataclass looks itself up
    backend = mpl.get_backend()
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "SETTINGS", replace(module.SETTINGS, epochs=1))
    monkeypatch.setattr(module, "SHARES", (0.5, 0.9))
    monkeypatch.setattr(module, "REPETITIONS", 1)
    yield module
    mpl.use(backend)


def write_digits(folder):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for start, count in (("train", 20), ("t10k", 10)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8) % 10)):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (folder / f"{start}-{name}-ubyte").write_bytes(head + values.tobytes())
    return folder


def test_it_measures_prints_and_draws(script, tmp_path, capsys):
    measured = script.measure(write_digits(tmp_path / "raw"), tmp_path / "cells", train=12, test=8)
    # Nothing removed, and random, edges and three methods with two shares.
    assert capsys.readouterr().out.splitlines()[-1] == "11 of 11 networks trained"
    lines = script.table(measured.found).splitlines()
    assert len(lines) == 2 + 5
    assert lines[0].startswith("| method | 0% removed | 50% removed |") and lines[2].startswith("| random | ")
    script.draw(measured.found, tmp_path / "roar.png")
    assert 1000 < (tmp_path / "roar.png").stat().st_size < 150_000
    assert 0 <= measured.explained <= 1
