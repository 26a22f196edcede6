"""The script behind the picture of a training in docs/manifold.md, on tiny images with a known manifold."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

import veridical as vd
from veridical.manifold import DataSetSettings, generate_data_set, open_tangents, store_data_tangents

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


class Decoder(nn.Module):
    """Latents (N, 2) to 1 x 16 x 16 images by a fixed smooth map."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.randn(2, 256, generator=torch.Generator().manual_seed(0)))

    def forward(self, z):
        return (z @ self.rows.to(z)).sigmoid().view(-1, 1, 16, 16)


class Sign(nn.Module):
    """Two classes, by the first latent's direction."""

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ Decoder().rows[0]
        return torch.stack([score, -score], dim=1)


@pytest.fixture
def data(tmp_path):
    settings = DataSetSettings(parts=(("train", 40), ("test", 8)))
    found = generate_data_set(tmp_path / "set", Decoder(), Sign(), 2, settings)
    store_data_tangents(found, Decoder(), "test")
    return found


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
