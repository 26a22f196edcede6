"""`veridical models --check`: what is said of a model, for people and for programs."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from veridical.cli.main import app
from veridical.models import model_specs

NETWORKS = """
from torch import nn
from veridical.models import Preprocessing

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        convolution, pool = nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(2)
        self.body = nn.Sequential(convolution, nn.ReLU(), pool, nn.Flatten())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))

class Ready(Network):
    preprocessing = {"resize": 16, "crop": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "source": "its author"}
    classes = ["cat", "dog", "tree"]

class Labels(Ready):
    output = "labels"

class Normalizing(Network):
    def forward(self, x):
        return super().forward((x - 0.5) / 0.25).softmax(1)

class Wide(nn.Module):
    preprocessing = {"resize": [12, 20], "crop": None, "mean": [0] * 5, "std": [1] * 5, "channels": 5}

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return {"scores": self.head(x.mean((2, 3)))}
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    (tmp_path / "checked_networks.py").write_text(NETWORKS)
    (tmp_path / "photographs").mkdir()
    for index in range(7):
        pixels = np.random.default_rng(index).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "checked_networks", raising=False)

    def run(name, *more):
        spec = f"checked_networks:{name}" if ":" not in name else name
        return CliRunner().invoke(app, ["models", "--check", spec, *map(str, more)])

    return run


def test_without_a_model_the_specifications_are_listed():
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in model_specs())
    rows = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(model_specs())


def test_what_is_said_of_a_model(check):
    result = check("Ready")
    assert result.exit_code == 0, result.output
    for part in (
        "model          Ready",
        "source         checked_networks:Ready, weights as the callable left them",
        "parameters     163",
        "classes        3: cat, dog, tree",
        "output         one logit a class",
        "input          3 x 16 x 16",
        "shorter side to 16 (bilinear); center 16 x 16; mean 0.5, 0.5, 0.5, std 0.25, 0.25, 0.25 [its",
        "24 of 26 methods can run:",
        "lrp-z                            runs; modifies 2 of 5 operations",
        "pattern-attribution              needs patterns; fit them",
    ):
        assert part in result.stdout, result.stdout
    assert "note:" not in result.stdout


def test_as_json_with_images(check):
    result = check("Labels", "--images", "photographs", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["classes"], facts["labels"], facts["output"]) == (3, ["cat", "dog", "tree"], "labels")
    assert facts["preprocessing"]["crop"] == 16 and facts["input"] == [3, 16, 16]
    assert [one["image"] for one in facts["predictions"]] == [f"{index}.png" for index in range(5)]
    assert all(one["label"] == facts["labels"][one["class"]] for one in facts["predictions"])
    assert {one["state"] for one in facts["methods"]} == {"runs", "needs patterns"}


def test_notes_say_what_to_look_at(check):
    text = check("Normalizing").stdout
    assert "the network shifts or scales the image itself" in text
    assert "nobody says how its images are prepared" in text
    assert "the network ends in softmax" in text
    raw = check("Normalizing", "--preprocessing", "none").stdout
    assert "values in [0, 1]" in raw and "shifts or scales" not in raw and "nobody says" not in raw


def test_many_channels_that_are_not_square(check):
    result = check("Wide")
    assert "input          5 x 12 x 20" in result.stdout, result.output
    assert "resized to 12 x 20 (bilinear); values in [0, 1]" in result.stdout
    assert "guided-backprop                  refused; expected a network with an operation" in result.stdout


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("Nothing", (), "got no such name"),
        ("timm:", (), "expected a model specification"),
        ("Ready", ("--weights", "no.pt"), "no.pt"),
        ("Ready", ("--images", "nowhere"), "nowhere"),
        ("Ready", ("--preprocessing", "nonne"), "expected none or a JSON file"),
        ("Wide", ("--images", "photographs"), "one of 5"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(check, name, more, message):
    result = check(name, *more)
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
