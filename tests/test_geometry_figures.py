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
    monkeypatch.setattr("veridical.reproduce.level_sets.GRID", 9)
    script.levels()
    assert 0 < (tmp_path / "geometry-levels.png").stat().st_size < 150_000


def test_the_chain_grows_from_left_to_right(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    rows = script.chain(betas=(2.0,), steps=2).splitlines()
    assert 0 < (tmp_path / "geometry-chain.png").stat().st_size < 150_000
    values = [float(cell) for cell in rows[-1].split("|")[2:-1]]
    assert values == sorted(values) and values[0] > 0


def test_curvature_against_beta_goes_on_after_an_interruption(script, monkeypatch, tmp_path):
    model = seeded(Residual)
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr(script, "BETAS", (1.0, 4.0))
    monkeypatch.setattr(script, "trained", lambda data, name: model)
    monkeypatch.setattr(script, "cifar_images", lambda data, name, count: images(count, 6))
    first = script.against_beta(tmp_path, tmp_path, 2)
    monkeypatch.setattr(script, "curvature", None)
    assert script.against_beta(tmp_path, tmp_path, 2) == first
    assert len(first.splitlines()) == 4


def test_movement_is_predicted_and_attacked(script, tmp_path):
    cell = script.measured_movement(seeded(Residual), images(2, 6), images(2, 6).flip(0), 2)
    assert all(value.shape == (2,) and bool(torch.isfinite(value).all()) for value in cell.values())
    assert bool((cell["distance"] > 0).all()) and set(cell) > {"near map", "near normal", "map", "normal"}
    value, low, high = script.rank_correlation(torch.arange(9.0), torch.arange(9.0))
    assert [value, low, high] == pytest.approx([1.0] * 3)


def test_movement_is_correlated_and_goes_on_after_an_interruption(script, monkeypatch, tmp_path):
    monkeypatch.setattr(
        script, "subject", lambda data, network, count, size: (seeded(Residual), images(count, 6))
    )
    monkeypatch.setattr(script, "PART", 2)
    first = script.movement(tmp_path, tmp_path, 4, 1, "resnet56", 224)
    monkeypatch.setattr(script, "measured_movement", lambda *args: {})
    assert script.movement(tmp_path, tmp_path, 4, 1, "resnet56", 224) == first
    assert len(list(tmp_path.glob("movement-resnet56-6-4-1-*.safetensors"))) == 2
    assert first.count("| near map |") == 2 and first.count("| map |") == 4 and "distance" in first


def test_twins_are_measured_between_the_straight_line_and_the_path(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "SWEEPS", 1)
    monkeypatch.setattr(script, "subject", lambda data, network, count: (seeded(Residual), images(count, 6)))
    found = script.twins(tmp_path, tmp_path, 2, 1)
    ratio = next(line for line in found.splitlines() if line.startswith("| upper / lower"))
    assert all(float(cell) >= 1 for cell in ratio.split("|")[2:-1]) and found.endswith("2 of 2 measured")
