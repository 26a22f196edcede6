"""`veridical train`, on a few images and the smallest of all networks."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tiny_set import tiny_set
from veridical.cli.main import app
from veridical.data import load_labeled
from veridical.models import load_model, read_state_dict
from veridical.training import TrainingRecipe, TrainingSettings, accuracy

NETWORK = """
from torch import nn
import torch

def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * 8 * 8, 2))
    network.classes = ("cat", "dog")
    network.preprocessing = {"resize": 8, "crop": 8, "mean": (0,) * 3, "std": (1,) * 3}
    return network
"""
SPEC = "small_network:small"


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    (tmp_path / "small_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    found = TrainingRecipe(
        source="here", network=SPEC, side=8, channels=3, settings=TrainingSettings(epochs=2, batch=4)
    )
    monkeypatch.setattr("veridical.training.recipes._published", lambda: {"small": found})


def write_images(folder, count=10, size=8):
    generator = np.random.default_rng(0)
    for name, low in (("cat", 0), ("dog", 128)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(low, low + 128, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def call(*arguments):
    return CliRunner().invoke(app, ["train", "--recipe", "small", *(str(one) for one in arguments)])


def test_it_trains_and_the_network_loads_by_what_it_prints(recipe, images, tmp_path):
    out = tmp_path / "out"
    result = call("--images", images, "--out", out, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout and "of 2 images" in result.stdout
    assert f"--model {SPEC} --weights {out / 'weights.safetensors'}" in result.stdout
    told = json.loads((out / "training.json").read_text())
    assert told["recipe"]["name"] == "small" and told["settings"]["seed"] == 3
    assert len(told["epochs"]) == 2 and told["times"]["resumed_after"] == 0
    assert told["images"]["train"]["n"] == 18 and told["accuracy"]["n"] == 2
    loaded = load_model(SPEC, out / "weights.safetensors")
    assert loaded.sha256 == told["model"]["sha256"] and loaded.preprocessing.crop == 8
    held = load_labeled(images).split(0.1, 3)[1]
    measured = accuracy(loaded.module, held.images, held.labels)
    assert told["accuracy"]["correct"] == measured.correct
    assert held.sha256 == told["images"]["test"]["sha256"]
    assert told["accuracy"]["low"] <= measured.share <= told["accuracy"]["high"]


def test_test_images_of_their_own_a_limit_and_other_sizes(recipe, images, tmp_path):
    tests = write_images(tmp_path / "tests", 3, 12)
    result = call("--images", images, "--test", tests, "--out", tmp_path / "out", "--limit", 6, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "brought 6 images to 8 x 8 pixels" in result.stderr
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["images"]["train"]["n"] == 6 and told["accuracy"]["n"] == 6 and len(told["epochs"]) == 1
    assert told["accuracy"]["measured_on"] == "images of their own"


def test_the_test_part_of_an_npz_is_used(recipe, tmp_path):
    shown = np.zeros((6, 8, 8, 3), np.uint8)
    labels = np.arange(6) % 2
    arrays = {
        "train_images": shown,
        "train_labels": labels,
        "test_images": shown[:4],
        "test_labels": labels[:4],
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert call("--images", tmp_path / "a.npz", "--out", tmp_path / "out").exit_code == 0
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (told["images"]["train"]["n"], told["accuracy"]["n"]) == (6, 4)
    assert told["accuracy"]["measured_on"] == "the test part of the images"


def test_an_interrupted_training_ends_like_one_that_was_not(recipe, images, tmp_path, monkeypatch):
    assert call("--images", images, "--out", tmp_path / "whole").exit_code == 0
    module = import_module("veridical.cli.train")
    real = module.train_classifier

    def stopped(*arguments, progress, **options):
        def told(moment):
            progress(moment)
            if moment.epoch == 1:
                raise KeyboardInterrupt

        return real(*arguments, progress=told, **options)

    monkeypatch.setattr(module, "train_classifier", stopped)
    result = call("--images", images, "--out", tmp_path / "parts")
    assert result.exit_code == 130 and "the same command goes on from" in result.stderr
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    monkeypatch.setattr(module, "train_classifier", real)
    assert call("--images", images, "--out", tmp_path / "parts").exit_code == 0
    whole, parts = (read_state_dict(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    told = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "parts")]
    assert [one.pop("times")["resumed_after"] for one in told] == [0, 1]
    assert told[0] == told[1]


def test_broken_files_are_named(recipe, images, tmp_path):
    for index in range(12):
        (images / "cat" / f"broken{index}.png").write_bytes(b"x")
    result = call("--images", images, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "skipped cat/broken" in result.stderr and "training.json names them" in result.stderr
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert sum(len(part["skipped"]) for part in told["images"].values()) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "smal"], "did you mean small?"),
        (["--images", "nowhere"], "there is nothing of this name"),
        (["--epochs", "-1"], "epochs of at least 0"),
        (["--limit", "100"], "a subset of 1 to 18 images, got 100"),
        (["--device", "abacus"], "use --device cpu"),
        (["--out", "file"], "expected a directory to write to"),
        (["--test", "other"], "expected test images of the classes cat, dog, got cat, owl"),
    ],
)
def test_mistakes_are_one_line(recipe, images, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    other = write_images(tmp_path / "other", 2)
    (other / "dog").rename(other / "owl")
    result = call("--images", images, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_other_settings_do_not_go_on_from_a_checkpoint(recipe, images, tmp_path):
    assert call("--images", images, "--out", tmp_path / "out", "--epochs", 1).exit_code == 0
    held = call("--images", images, "--out", tmp_path / "out", "--seed", 1)
    assert held.exit_code == 2 and "seed 1 instead of 0" in held.stderr


def test_a_loss_of_nan_ends_it_with_the_reason(recipe, images, tmp_path, monkeypatch):
    def broken(self, part, rate, source):
        return float("nan"), 0

    monkeypatch.setattr("veridical.training.classifier._Run._step", broken)
    result = call("--images", images, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "a loss of nan in step 1 of epoch 1" in result.stderr and "no epoch ended" in result.stderr
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_a_data_set_with_a_known_manifold_is_trained_on(recipe, tmp_path, monkeypatch):
    """By its parts, as the recipes of Bordt et al. need it."""
    data = tiny_set(tmp_path / "set")
    found = TrainingRecipe(
        source="here",
        network="small_of_a_set:small",
        side=16,
        channels=1,
        settings=TrainingSettings(epochs=1),
    )
    (tmp_path / "small_of_a_set.py").write_text(NETWORK.replace("3 * 8 * 8", "256"))
    monkeypatch.setattr("veridical.training.recipes._published", lambda: {"small": found})
    for place in ("set", "set:train"):
        more = () if place == "set" else ("--test", "set:test")
        result = call("--images", place, *more, "--out", tmp_path / place.replace(":", "-"))
        assert result.exit_code == 0, result.output
        told = json.loads((tmp_path / place.replace(":", "-") / "training.json").read_text())
        assert (told["images"]["train"]["n"], told["accuracy"]["n"]) == (40, 8)
        counts = {str(index): count for index, count in enumerate(data.class_counts("train"))}
        assert told["images"]["train"]["classes"] == counts
