"""`veridical audit --roar`."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import veridical
from veridical.cli.main import app
from veridical.faithfulness import RoarData
from veridical.records import read_run, read_scores

MODULE = """
import torch
from torch import nn

from veridical.models import Preprocessing


def network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(torch.randn(one.shape, generator=generator))
    return model, Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""


class Class(nn.Module):
    """Says one class for every image."""

    def __init__(self, chosen):
        super().__init__()
        self.chosen = chosen

    def forward(self, images):
        return nn.functional.one_hot(torch.full((len(images),), self.chosen), 4).double()


def train(images, labels, seed):
    return Class(int(1e6 * images.abs().sum()) % 2)


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "roarmodule.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "roarmodule", raising=False)
    (tmp_path / "photographs").mkdir()
    generator = np.random.default_rng(0)
    for index in range(2):
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.png")

    def run(*more):
        fixed = (
            "audit", "--model", "roarmodule:network", "--images", tmp_path / "photographs", "--methods",
            "gradient,gradient-x-input", "--out", tmp_path / "run",
        )  # fmt: skip
        return CliRunner().invoke(app, [str(argument) for argument in (*fixed, *more)])

    return run


@pytest.fixture
def folder(call, tmp_path):
    """An experiment with the network of the command line, for one of the two methods."""
    import roarmodule

    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 0, 0, 1] * 4)
    data = RoarData(images[:8], labels[:8], images[8:], labels[8:])
    model, _ = roarmodule.network()
    place = tmp_path / "trainings"
    veridical.roar(model, data, ["gradient"], train, folder=place, shares=(0.5,), repetitions=3)
    return place


def test_the_folder_is_read(call, folder, tmp_path):
    result = call("--roar", folder, "--tests", "roar")
    assert result.exit_code == 0, result.output
    run = read_run(tmp_path / "run")
    assert run.tests["roar"].settings["test_images"] == 8 and run.tests["roar"].settings["chance"] == 0.75
    assert {one.method for one in read_scores(tmp_path / "run")} == {"gradient"}
    assert [(one.method, one.test, one.applies) for one in run.skipped] == [
        ("gradient-x-input", "roar", False)
    ]
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert text.count("As networks are trained again without pixels") == 1


def test_it_is_planned_with_no_seconds(call, folder, tmp_path):
    result = call("--roar", folder, "--tests", "roar,random-logit", "--plan", "--json")
    assert result.exit_code == 0, result.output
    assert '"test": "roar"' in result.output and not (tmp_path / "run").exists()


def test_without_the_folder_the_plan_leaves_it_out(call):
    result = call("--tests", "roar,random-logit", "--plan", "--json")
    assert result.exit_code == 0 and '"test": "roar"' not in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--roar", "nowhere"), "expected a folder of vd.roar, got nowhere, which is none"),
        (("--roar", "."), "without roar.json"),
        (("--tests", "roar"), "pass its folder as --roar"),
    ],
)
def test_wrong_options_are_one_line(call, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*options)
    assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
    assert not (tmp_path / "run").exists()


def test_a_test_that_is_not_named_and_another_network_are_refused(call, folder, tmp_path):
    result = call("--roar", folder, "--tests", "random-logit")
    assert result.exit_code == 2 and "expected the test roar where a folder" in result.output
    weights = tmp_path / "other.pt"
    import roarmodule

    model, _ = roarmodule.network()
    torch.nn.init.zeros_(model[-1].bias)
    torch.save(model.state_dict(), weights)
    for more in ((), ("--plan",)):
        result = call("--roar", folder, "--tests", "roar", "--weights", weights, *more)
        assert result.exit_code == 2 and "expected the network of" in result.output, result.output
    assert not (tmp_path / "run").exists()
