"""What stands after `--images`, `--limit`, `--max-broken` and `--target`, in every command that has them."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from veridical.cli.main import app
from veridical.records import read_arrays, read_run

NETWORK = """
import torch
from torch import nn

class Brightness(nn.Module):
    def forward(self, x):
        return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)

def of(classes, channels=3):
    network = Brightness()
    network.classes = classes
    network.preprocessing = {
        "resize": None, "crop": None, "channels": channels, "mean": (0.5,) * channels, "std": (1,) * channels
    }
    return network

def named():
    return of(("bright", "dark", "noisy"))

def gray():
    return of(None, 1)

def deep():
    return of(None, 5)

def explain(model, inputs, target=None):
    return inputs * 2.0
"""
VALUES = {"bright": 220, "dark": 30}


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "brightness.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brightness", raising=False)

    def run(command, *arguments, model="named"):
        fixed = (command, "--model", f"brightness:{model}", "--out", tmp_path / "out", *arguments)
        return CliRunner().invoke(app, [str(one) for one in fixed])

    return run


def explained(call, tmp_path, *arguments, model="named"):
    result = call("explain", "--methods", "gradient", *arguments, model=model)
    assert result.exit_code == 0, result.output
    return result, *read_arrays(tmp_path / "out" / "gradient.safetensors")


def classes(folder, names=("bright", "dark"), count=4, size=(24, 32)):
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.normal(VALUES[name], 9, (*size, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def audited(call, tmp_path, *arguments):
    fixed = ("--tests", "random-logit", "--methods", "gradient")
    result = call("audit", *fixed, *arguments)
    assert result.exit_code == 0, result.output
    return result, read_run(tmp_path / "out")


def test_an_audit_records_labels_choice_and_what_could_not_be_used(call, tmp_path):
    folder = classes(tmp_path / "images")
    (folder / "dark" / "broken.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("notes")
    result, run = audited(call, tmp_path, "--images", folder, "--limit", 8, "--seed", 3)
    assert "skipped dark/broken.png: expected an image" in result.stderr
    assert [(one.truth, one.truth_label) for one in run.images] == [(0, "bright")] * 4 + [(1, "dark")] * 4
    assert [one.target for one in run.images] == [0] * 4 + [1] * 4
    assert (run.data.source, run.data.available, run.data.classes) == (str(folder), 9, 2)
    assert (run.data.limit, run.data.seed) == (8, 3) and "by the network's names" in run.data.labels
    assert {one.name for one in run.data.skipped} == {"dark/broken.png", "notes.txt"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "dark/broken.png" in page and "2 files could not be used" in page


def test_without_a_limit_an_audit_spreads_over_the_classes(call, tmp_path):
    _, run = audited(call, tmp_path, "--images", classes(tmp_path / "images"))
    assert len(run.images) == 5 and {one.truth for one in run.images} == {0, 1} and run.data.limit is None


def test_a_limit_may_exceed_the_preset(call, tmp_path):
    _, run = audited(call, tmp_path, "--images", classes(tmp_path / "images"), "--limit", 7)
    assert len(run.images) == 7


def test_labels_can_be_explained_instead_of_predictions(call, tmp_path):
    folder = classes(tmp_path / "images", ("bright", "dark"), 1)
    # The labels are wrong: the class that they name is not the predicted one.
    (tmp_path / "list.csv").write_text("images/bright/0.png,dark\nimages/dark/0.png,bright\n")
    found = {}
    for target in ("predicted", "label", "1"):
        _, run = audited(call, tmp_path, "--images", tmp_path / "list.csv", "--target", target)
        found[target] = [one.target for one in run.images]
        for file in sorted((tmp_path / "out").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    assert found == {"predicted": [0, 1], "label": [1, 0], "1": [1, 1]}
    _, maps, facts = explained(call, tmp_path, "--images", tmp_path / "list.csv", "--target", "label")
    _, others, _ = explained(call, tmp_path, "--images", folder, "--target", "predicted")
    assert np.allclose(maps["relevance"], -others["relevance"])
    assert facts["truth"] == {"names": ["dark", "bright"], "numbers": [1, 0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "label", "--images", "flat"), "expected images with labels for --target label"),
        (("--target", "label", "--images", "other"), "not known: 1 classes (owl) for a network of 3"),
        (("--target", "best", "--images", "flat"), "--target predicted, label or the number of a class"),
        (("--limit", "0", "--images", "flat"), "--limit of at least 1 image, got 0"),
        (("--limit", "3", "--images", "flat"), "a subset of 1 to 2 images, got 3"),
        (("--limit", "9"), "a subset of 1 to 5 images, got 9"),
        (("--max-broken", "-1", "--images", "flat"), "--max-broken of 0 or more, got -1"),
        (("--max-broken", "0", "--images", "broken"), "at most 0 files"),
        (("--images", "nowhere"), "there is nothing of this name"),
        (("--images", "mixed"), "expected images of one size"),
        (("--images", "torchvision:Nothing"), "torchvision"),
    ],
)
def test_mistakes_are_one_line(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    small = Image.new("RGB", (16, 16))
    for name in ("flat/a", "flat/b", "other/owl/a", "broken/a", "mixed/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        small.save(tmp_path / f"{name}.png")
    Image.new("RGB", (20, 16)).save(tmp_path / "mixed" / "b.png")
    (tmp_path / "broken" / "b.png").write_bytes(b"broken")
    result = call("explain", "--methods", "gradient", *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert result.stderr.strip().count("\n") == 0


def test_a_wrong_target_is_refused_before_the_model_is_loaded(call, tmp_path, monkeypatch):
    for command in ("audit", "explain"):
        result = call(command, "--target", "best", model="missing")
        assert result.exit_code == 2 and "expected --target predicted" in result.stderr


def test_what_could_not_be_used_is_counted_on_stderr_and_stored_with_the_maps(call, tmp_path):
    folder = classes(tmp_path / "images", ("dark",), 2)
    for index in range(9):
        (folder / "dark" / f"broken{index}.png").write_bytes(b"broken")
    result, _, facts = explained(call, tmp_path, "--images", folder)
    assert result.stderr.count("expected an image") == 5 and "skipped 4 more, 9 in all" in result.stderr
    assert len(facts["data"]["skipped"]) == 9 and facts["data"]["available"] == 11


def test_networks_of_other_channels_and_images_that_are_not_square(call, tmp_path):
    folder = classes(tmp_path / "images", ("dark",), 2)
    _, maps, _ = explained(call, tmp_path, "--images", folder, model="gray")
    assert maps["relevance"].shape == (2, 1, 24, 32)
    np.savez(tmp_path / "a.npz", images=np.full((3, 10, 12, 5), 90, np.uint8), labels=[0, 1, 2])
    _, maps, facts = explained(call, tmp_path, "--images", tmp_path / "a.npz", "--limit", 2, model="deep")
    assert maps["relevance"].shape == (2, 5, 10, 12) and len(facts["truth"]["numbers"]) == 2
    np.savez(tmp_path / "b.npz", images=np.full((1, 10, 12), 90, np.uint8), labels=[0])
    for model, channels in (("gray", 1), ("named", 3)):
        _, maps, _ = explained(call, tmp_path, "--images", f"{tmp_path / 'b.npz'}", model=model)
        assert maps["relevance"].shape == (1, channels, 10, 12)
    assert call("explain", "--methods", "gradient", "--images", folder, model="deep").exit_code == 2


def test_the_forms_are_in_the_help():
    for command in ("audit", "explain", "train"):
        text = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout.split())
        assert "FILE.csv" in text and "torchvision:NAME" in text and "--max-broken" in text, command
    assert json.dumps(text)
