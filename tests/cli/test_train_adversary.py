"""`veridical train` against an adversary, for another network, and with kept steps."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from veridical.cli.main import app
from veridical.training import Adversary, TrainingRecipe, TrainingSettings

NETWORK = """
import torch
from torch import nn

def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    network.classes = ("0", "1")
    network.preprocessing = {"resize": 8, "crop": 8, "mean": (0,), "std": (1,), "channels": 1}
    return network

def deeper(seed=0):
    return nn.Sequential(small(seed), nn.Tanh())
"""


@pytest.fixture
def images(monkeypatch, tmp_path):
    (tmp_path / "small_gray.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    options = {"source": "here", "network": "small_gray:small", "side": 8, "channels": 1}
    plain = TrainingSettings(epochs=2, batch=4)
    robust = TrainingSettings(
        epochs=2, batch=4, adversary=Adversary(epsilon=(1.0, 2.0), steps=2, bounds=(), budget="batch")
    )
    found = {
        "small": TrainingRecipe(**options, settings=plain),
        "robust": TrainingRecipe(**options, settings=robust),
    }
    monkeypatch.setattr("veridical.training.recipes._published", lambda: found)
    labels = np.arange(12, dtype=np.uint8) % 2
    shown = (np.random.default_rng(0).random((12, 8, 8)) * 100 + 150 * labels[:, None, None]).astype(np.uint8)
    file = tmp_path / "images.npz"
    np.savez(file, train_images=shown, train_labels=labels, test_images=shown[:8], test_labels=labels[:8])
    return file


def call(images, out, *arguments, recipe="small"):
    options = ["train", "--recipe", recipe, "--images", str(images), "--out", str(out)]
    return CliRunner().invoke(app, [*options, *(str(one) for one in arguments)])


def test_an_adversary_is_trained_against_and_robust_accuracy_told(images, tmp_path):
    done = call(images, tmp_path / "out", "--adversary", "linf", "--epsilon", 0.05, "--attacked", 6)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["settings"]["adversary"]["norm"] == "linf"
    assert told["settings"]["adversary"]["epsilon"] == 0.05
    robust = told["robust_accuracy"]
    assert robust["n"] == 6 and robust["settings"]["attack"] == "pgd"
    assert robust["robust"]["share"] <= robust["clean"]["share"]
    assert robust["robust"]["low"] <= robust["robust"]["share"] <= robust["robust"]["high"]
    assert "of 6 images against pgd with linf 0.05 (95% interval" in done.output


def test_the_recipe_s_adversary_may_be_changed(images, tmp_path):
    done = call(images, tmp_path / "out", "--adversary-steps", 1, recipe="robust")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["settings"]["adversary"]["steps"] == 1
    assert told["settings"]["adversary"]["epsilon"] == [1.0, 2.0]
    # Four images share the budget of 2.
    assert told["robust_accuracy"]["settings"]["epsilon"] == 1.0


def test_the_budget_of_a_batch_is_shared_where_it_is_asked_for_or_in_the_recipe(images, tmp_path):
    options = ("--adversary", "l2", "--epsilon", 2.0, "--attacked", 4)
    done = call(images, tmp_path / "asked", *options, "--adversary-budget", "batch")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "asked" / "training.json").read_text())
    assert told["settings"]["adversary"]["budget"] == "batch"
    assert told["robust_accuracy"]["settings"]["epsilon"] == 1.0
    # The recipe's own: kept where the same norm is named, changed where it is asked for.
    for name, more, budget in (("kept", (), "batch"), ("own", ("--adversary-budget", "image"), "image")):
        done = call(images, tmp_path / name, *options, *more, recipe="robust")
        assert done.exit_code == 0, done.output
        adversary = json.loads((tmp_path / name / "training.json").read_text())["settings"]["adversary"]
        assert (adversary["budget"], adversary["epsilon"], adversary["steps"]) == (budget, 2.0, 2)
        assert adversary["bounds"] == []


def test_another_norm_than_the_recipe_s_drops_no_budget_silently(images, tmp_path):
    options = ("--adversary", "linf", "--epsilon", 0.1, "--attacked", 0)
    done = call(images, tmp_path / "out", *options, recipe="robust")
    assert done.exit_code == 2 and "expected --adversary-budget with --adversary linf" in done.output
    done = call(images, tmp_path / "out", *options, "--adversary-budget", "image", recipe="robust")
    assert done.exit_code == 0, done.output


def test_a_plain_training_attacks_nothing_and_another_network_is_taken(images, tmp_path):
    done = call(images, tmp_path / "out", "--network", "small_gray:deeper")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["robust_accuracy"] is None and told["recipe"]["network"] == "small_gray:deeper"
    assert "--model small_gray:deeper" in done.output and "robust" not in done.output


def test_steps_are_kept(images, tmp_path):
    done = call(images, tmp_path / "out", "--keep", 3)
    assert done.exit_code == 0, done.output
    names = sorted(one.name for one in (tmp_path / "out" / "steps").iterdir())
    assert names == [f"step-{step:08d}.safetensors" for step in (0, 1, 6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--adversary", "l2"), "expected --epsilon with --adversary"),
        (("--epsilon", 1.0), "expected --adversary with --epsilon"),
        (("--adversary-budget", "batch"), "expected --adversary with --epsilon"),
        (("--adversary", "l2", "--epsilon", 1.0, "--adversary-budget", "all"), "budget to be one of image"),
        (("--adversary", "linf", "--epsilon", 1.0, "--adversary-budget", "batch"), "for linf, got 'batch'"),
        (("--adversary", "l1", "--epsilon", 1.0), "norm to be one of l2, linf"),
        (("--adversary", "l2", "--epsilon", 0.0), "epsilon above 0"),
        (("--attacked", -1), "--attacked of 0 or more"),
        (("--adversary", "l2", "--epsilon", 1.0, "--attack", "best"), "attack to be one of"),
        (("--keep", 1), "count of at least 2"),
    ],
)
def test_wrong_options_are_named(images, tmp_path, arguments, message):
    done = call(images, tmp_path / "out", *arguments)
    assert done.exit_code != 0 and message in done.output.replace("\n", " ")
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_a_missing_package_is_named_before_the_training(images, tmp_path, monkeypatch):
    monkeypatch.setattr("veridical.training.robustness_art.find_spec", lambda name: None)
    done = call(images, tmp_path / "out", "--adversary", "l2", "--epsilon", 1.0, "--attack", "strong")
    assert done.exit_code != 0 and "adversarial-robustness-toolbox" in done.output
    assert not (tmp_path / "out").exists()
