"""The script behind docs/geometry.md, on a few made-up images."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from networks import Residual, images, seeded

ROOT = Path(__file__).parents[1]
FILE = ROOT / "scripts" / "geometry_figures.py"


@pytest.fixture(scope="module")
def script():
    import matplotlib as mpl

    backend = mpl.get_backend()
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("geometry_figures", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    mpl.use(backend)
    sys.path[:] = path


def test_level_sets_are_drawn(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr(script, "GRID", 9)
    script.levels()
    assert 0 < (tmp_path / "geometry-levels.png").stat().st_size < 150_000


def test_the_chain_grows_from_left_to_right(script):
    rows = script.chain(betas=(2.0,), steps=2).splitlines()
    values = [float(cell) for cell in rows[-1].split("|")[2:-1]]
    assert values == sorted(values) and values[0] > 0


def test_curvature_against_beta_goes_on_after_an_interruption(script, monkeypatch, tmp_path):
    model = seeded(Residual)
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr(script, "BETAS", (1.0, 4.0))
    monkeypatch.setattr(script, "trained_resnet20", lambda data: model)
    monkeypatch.setattr(script, "cifar_images", lambda data, name, count: images(count, 6))
    first = script.against_beta(tmp_path, tmp_path, 2)
    monkeypatch.setattr(script, "curvature", None)
    assert script.against_beta(tmp_path, tmp_path, 2) == first
    assert len(first.splitlines()) == 4


def test_movement_is_predicted_and_attacked(script, tmp_path):
    cell = script.measured_movement(seeded(Residual), images(2, 6), images(2, 6).flip(0), 2)
    assert all(value.shape == (2,) and bool(torch.isfinite(value).all()) for value in cell.values())
    assert bool((cell["distance"] > 0).all())
    value, low, high = script.rank_correlation(torch.arange(9.0), torch.arange(9.0))
    assert [value, low, high] == pytest.approx([1.0] * 3)
