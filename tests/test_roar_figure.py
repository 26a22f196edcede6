"""The script behind docs/roar.md, on a few made-up digits."""

import io
import sys
import zipfile
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = spec_from_file_location("roar_figure", ROOT / "scripts" / "roar_figure.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "roar_figure", module)  # its dataclass looks itself up
    backend = mpl.get_backend()
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
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


def write_photographs(folder):
    """Color images of ten classes in two archives, as those of the data folder."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("train15k", 2), ("test", 1)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for place in range(10 * count):
                drawn, kind = io.BytesIO(), "abcdefghij"[place % 10]
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(drawn, "PNG")
                archive.writestr(f"{kind}/{place:04}.png", drawn.getvalue())


def small(script, name, train=12, test=8):
    """The experiment on a few images, trained for one epoch."""
    experiment = script.EXPERIMENTS[name]
    return replace(experiment, settings=replace(experiment.settings, epochs=1), train=train, test=test)


def test_it_measures_prints_and_draws(script, tmp_path, capsys):
    write_digits(tmp_path / "MNIST" / "raw")
    measured = script.measure(small(script, "mnist"), tmp_path, tmp_path / "cells")
    # Nothing removed, and random, edges and three methods with two shares.
    assert capsys.readouterr().out.splitlines()[-1] == "11 of 11 networks trained"
    lines = script.table(measured.found).splitlines()
    assert len(lines) == 2 + 5
    assert lines[0].startswith("| method | 0% removed | 50% removed |") and lines[2].startswith("| random | ")
    script.draw(measured.found, tmp_path / "roar.png")
    assert 1000 < (tmp_path / "roar.png").stat().st_size < 150_000
    assert 0 <= measured.explained <= 1


def test_color_images_are_read_from_archives_and_cells_are_kept(script, tmp_path, capsys):
    write_photographs(tmp_path / "cifar10")
    experiment = small(script, "cifar10", train=20, test=10)
    first = script.measure(experiment, tmp_path, tmp_path / "cells")
    stored = [path for path in (tmp_path / "cells").rglob("*.json") if path.name != "roar.json"]
    assert first.found.n == 10 and len(stored) == 11
    before = [path.stat().st_mtime_ns for path in stored]
    again = script.measure(experiment, tmp_path, tmp_path / "cells")
    assert script.table(again.found) == script.table(first.found)
    assert [path.stat().st_mtime_ns for path in stored] == before


def test_the_page_says_how_every_experiment_is_made(script):
    page = (ROOT / "docs" / "roar.md").read_text(encoding="utf-8")
    for name, experiment in script.EXPERIMENTS.items():
        assert experiment.picture in page
        assert name == "mnist" or f"--data-set {name}" in page
        assert f"{experiment.train:,}" in page and f"{experiment.test:,}" in page
