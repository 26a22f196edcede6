"""The command line on tiny networks and tiny photographs."""

import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.attacking import NETWORK
from veridical.cli.main import app


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "attackmodule.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "attackmodule", raising=False)
    generator = np.random.default_rng(0)
    for name in ("one", "two"):
        small = generator.integers(20, 235, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((40, 36), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")

    def run(*more, image="one.png", steps=25):
        # A large step: the network is small, and so are the images.
        fixed = ("attack", "--model", "attackmodule:build", "--image", tmp_path / image, "--steps", steps,
                 "--lr", "0.01", "--out", tmp_path / "out")  # fmt: skip
        return CliRunner().invoke(app, [str(argument) for argument in (*fixed, *more)])

    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Without the figure, which takes most of the time of a tiny attack."""
    monkeypatch.setattr("veridical.cli.attack_files.attack_pictures", lambda shown: {})
