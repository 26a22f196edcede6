"""The script that removes what the tangent space names, on a tiny data set with a known manifold."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

from veridical.manifold import DataSetSettings, generate_data_set
from veridical.training import TrainingSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    spec = spec_from_file_location("tangent_roar", ROOT / "scripts" / "tangent_roar.py")
    module = module_from_spec(spec)
    before, backend = list(sys.path), mpl.get_backend()
    spec.loader.exec_module(module)
    sys.path[:] = before
    mpl.use(backend)
    monkeypatch.setattr(module, "SETTINGS", TrainingSettings(epochs=1, batch=10))
    monkeypatch.setattr(module, "SHARES", (0.5,))
    monkeypatch.setattr(module, "REPETITIONS", 1)
    return module


class Decoder(nn.Module):
    """Latents (N, 2) to 1 x 32 x 32 images by a fixed smooth map."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.randn(2, 1024, generator=torch.Generator().manual_seed(0)))

    def forward(self, z):
        return (z @ self.rows.to(z)).sigmoid().view(-1, 1, 32, 32)


class Sign(nn.Module):
    """Two of ten classes, by the first latent's direction."""

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ Decoder().rows[0]
        return torch.stack([score, -score, *[torch.full_like(score, -1e4)] * 8], dim=1)


def test_a_row_a_method_and_the_same_again(script, tmp_path):
    settings = DataSetSettings(parts=(("train", 30), ("test", 10)))
    data = generate_data_set(tmp_path / "set", Decoder(), Sign(), 2, settings)
    sizes = {"train": 20, "test": 8}
    right, found = script.measure(data, Decoder(), sizes, tmp_path / "out")
    assert 0 <= right <= 1 and found.n == 8 and not found.failures
    lines = script.page(found).splitlines()
    names = [row["method"] for row in found.table()]
    assert [line.split("`")[1] for line in lines[2:]] == names
    assert names[2:] == [
        "tangent-scores", "gradient", "gradient-tangent", "gradient-orthogonal", "gradient-x-input",
    ]  # fmt: skip
    known = script.known_spaces(data, Decoder(), sizes, tmp_path / "out" / "spaces")
    assert known.rows(data.load("images", "test", limit=8)) == list(range(20, 28))
    again = script.measure(data, Decoder(), sizes, tmp_path / "out")
    assert again[1].table() == found.table()
