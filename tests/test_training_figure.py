"""The script behind the picture of a training in docs/manifold.md, on tiny images with a known manifold."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest

import veridical as vd
from tiny_set import tiny_set
from veridical.manifold import open_tangents

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    spec = spec_from_file_location("training_figure", ROOT / "scripts" / "training_figure.py")
    module = module_from_spec(spec)
    before, backend = list(sys.path), mpl.get_backend()
    sys.modules["training_figure"] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    mpl.use(backend)
    monkeypatch.setattr(module, "STEPS", 4)
    monkeypatch.setattr(module, "PLAIN", replace(module.PLAIN, batch=10))
    yield module
    del sys.modules["training_figure"]


@pytest.fixture
def data(tmp_path):
    return tiny_set(tmp_path / "set")


def test_every_step_is_measured_once_and_drawn(script, data, tmp_path, monkeypatch, capsys):
    arguments = [str(data.folder), "--out", str(tmp_path / "cells"), "--images", "6", "--epochs", "2"]
    arguments += ["--picture", str(tmp_path / "found.png")]
    script.main(arguments)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ") and "%" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| 0", "| 1", "| 3", "| 8"]
    assert printed.count("to the last") == len(script.NAMES)
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    network = script.network((1, 16, 16), 2, 0).eval()
    images = data.load("images", "test")[:6]
    first = vd.measure_alignment(network, images, open_tangents(data.folder / "tangents-test")[:6])
    assert f"{first.summary('gradient').mean.estimate:.3f} (" in rows[0]
    monkeypatch.setattr(script.vd, "measure_alignment", lambda *_, **__: pytest.fail("measured twice"))
    script.main(arguments)
    assert capsys.readouterr().out == printed
