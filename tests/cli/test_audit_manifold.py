"""`veridical audit --manifold`, `--decoder` and `--latents`."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from veridical.cli.audit_manifold import find_manifold
from veridical.cli.main import app
from veridical.manifold import FitSettings, fit_manifold, save_manifold
from veridical.records import read_run

MODULE = """
import torch
from torch import nn

from veridical.models import Preprocessing

generator = torch.Generator().manual_seed(0)
ROWS = torch.linalg.qr(torch.randn(192, 2, generator=generator))[0].T


def network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    return model, Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def decode(z):
    return 0.5 + (z @ ROWS).view(-1, 3, 8, 8)


def encode(images):
    return (images - 0.5).flatten(1) @ ROWS.T


NUMBER = 3
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "manifoldmodule.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "manifoldmodule", raising=False)
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(2):
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")

    def run(*more):
        fixed = (
            "audit", "--model", "manifoldmodule:network", "--images", folder, "--methods", "gradient",
            "--tests", "tangent-space", "--out", tmp_path / "run",
        )  # fmt: skip
        return CliRunner().invoke(app, [str(argument) for argument in (*fixed, *more)])

    return run


def test_a_decoder_with_its_encoder(call, tmp_path):
    result = call("--decoder", "manifoldmodule:decode", "--latents", "manifoldmodule:encode")
    assert result.exit_code == 0, result.output
    settings = read_run(tmp_path / "run").tests["tangent-space"].settings
    assert (settings["latents"], settings["dimension"], settings["source"]) == (2, 192, "decode")
    assert 'id="manifold"' in (tmp_path / "run" / "report.html").read_text()


def test_a_fitted_manifold(call, tmp_path):
    pictures = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = FitSettings("convolutional", "squared", latents=2, epochs=1, batch=8, lr=3e-3, held_out=0.2)
    save_manifold(tmp_path / "manifold", fit_manifold(pictures, settings))
    result = call("--manifold", tmp_path / "manifold")
    assert result.exit_code == 0, result.output
    source = read_run(tmp_path / "run").tests["tangent-space"].settings["source"]
    assert source.startswith("convolutional model of 3 x 8 x 8 images") and "manifold" in source


def test_latents_from_files(tmp_path, call):
    z = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.savez(tmp_path / "one.npz", latents=z, labels=z)
    np.savez(tmp_path / "single.npz", codes=z)
    save_file({"latents": z}, tmp_path / "one.safetensors")
    for name in ("one.npz", "single.npz", "one.safetensors"):
        _, latents = find_manifold(None, "manifoldmodule:decode", str(tmp_path / name))
        assert torch.equal(latents, torch.from_numpy(z))
    np.savez(tmp_path / "two.npz", first=z, second=z)
    (tmp_path / "broken.npz").write_bytes(b"half")
    for name, expected in (
        ("two.npz", "an array 'latents' in .*got first, second"),
        ("broken.npz", "expected arrays in"),
        ("none.npz", "got no such file"),
    ):
        with pytest.raises((ValueError, OSError), match=expected):
            find_manifold(None, "manifoldmodule:decode", str(tmp_path / name))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--decoder", "manifoldmodule:decode"), "got no --latents"),
        (("--latents", "manifoldmodule:encode"), "got no --decoder"),
        (("--manifold", "published", "--decoder", "manifoldmodule:decode"), "got both"),
        (("--decoder", "decode", "--latents", "manifoldmodule:encode"), "package.module:callable"),
        (("--decoder", "manifoldmodule:NUMBER", "--latents", "manifoldmodule:encode"), "to be callable"),
        (("--manifold", "nowhere"), "got no file"),
        (("--manifold", "."), "no manifold.json"),
        ((), "expected a manifold for the test tangent-space"),
    ],
)
def test_wrong_options_are_one_line(options, expected, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*options)
    assert result.exit_code == 2 and expected in result.output
    assert not (tmp_path / "run").exists()


def test_the_published_manifold_needs_its_folder(call, monkeypatch):
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    result = call("--manifold", "published")
    assert result.exit_code == 2 and "VERIDICAL_DATA" in result.output
