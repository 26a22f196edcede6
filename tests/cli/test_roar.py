"""`veridical roar`, on a few images and the smallest of all networks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from veridical.cli.main import app
from veridical.cli.roar import NewNetwork
from veridical.faithfulness import read_roar
from veridical.records import read_run, read_scores
from veridical.training import classifier

MODULE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 8, "crop": 8, "mean": (0.5,) * 3, "std": (0.25,) * 3}

def network():
    found = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    found.classes, found.preprocessing = ("cat", "dog"), PREPROCESSING
    return found

def by_seed(seed=0):
    torch.manual_seed(seed + 100)
    return network()

def fixed(seed=0):
    torch.manual_seed(0)
    return network()

def one_class():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1))

def needs(classes):
    return network()

def text():
    return "network"

made = network()

def unnamed():
    found = network()
    found.classes = ("a", "b")
    return found
"""


def write_images(folder, count, low=0):
    generator = np.random.default_rng(low)
    for name, least in (("cat", 0), ("dog", 128)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(least, least + 128, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "roarnetworks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "roarnetworks", raising=False)
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "test", 4, 1)

    def run(*more, command="roar"):
        fixed = {
            "roar": (
                "--images", "train", "--test", "test", "--shares", "0.5,0.9", "--repetitions", "3",
                "--epochs", "2", "--lr", "0.01", "--methods", "gradient,smoothgrad", "--out", "out",
            ),
            "audit": ("--images", "test", "--out", "run"),
        }[command]  # fmt: skip
        start = (command, "--model", "roarnetworks:network")
        return CliRunner().invoke(app, [str(one) for one in (*start, *fixed, *more)])

    return run


def cells(folder="out"):
    return sorted(Path(folder, "cells").iterdir())


def test_an_audit_reads_what_it_trains(call, tmp_path):
    result = call()
    assert result.exit_code == 0, result.output
    # 3 of all images; random pixels, edges and two methods at 2 shares.
    assert len(cells()) == 27 and "12 images to train on, 8 to test on" in result.stderr
    stored = read_roar("out")
    assert (
        stored.roar.shares == (0, 0.5, 0.9) and stored.roar.settings.repetitions == 3 and stored.roar.n == 8
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    (row,) = (line for line in lines if "smoothgrad" in line)
    means = [one.estimate for one in stored.roar.mean("smoothgrad")]
    assert [one for one in row if one[:1].isdigit()] == [f"{mean:.3f}" for mean in means]
    assert f"{stored.roar.margin('smoothgrad').estimate:+.3f}" in row and "50.0% of them" in result.stdout
    assert f"veridical audit --roar {tmp_path / 'out'} --preset quick" in result.stdout
    words = ("--roar", "out", "--tests", "roar", "--methods", "smoothgrad,gradient")
    audited = call(*words, command="audit")
    assert audited.exit_code == 0, audited.output
    assert {one.method for one in read_scores("run")} == {"gradient", "smoothgrad"}
    assert not read_run("run").skipped
    other = call(*words, "--preset", "standard", "--out", "other", "--plan", "--json", command="audit")
    assert [one["method"] for one in json.loads(other.stdout)["lines"]] == ["gradient"]


def test_an_interrupted_folder_goes_on_and_more_is_added(call, monkeypatch):
    whole = call("--out", "whole")
    assert whole.exit_code == 0, whole.output
    real, left = classifier.train_classifier, iter(range(5))

    def stopped(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(classifier, "train_classifier", stopped)
    result = call()
    assert result.exit_code == 130 and "finished trainings are kept in out" in result.stderr
    assert len(cells()) == 5
    monkeypatch.setattr(classifier, "train_classifier", real)
    assert call().exit_code == 0
    assert [one.read_text() for one in cells()] == [one.read_text() for one in cells("whole")]
    trained = []
    monkeypatch.setattr(classifier, "train_classifier", lambda *all_: (trained.append(1), real(*all_))[1])
    assert call("--methods", "gradient,gradient-x-input").exit_code == 0
    assert len(trained) == 6 and set(read_roar("out").methods) == {
        "gradient",
        "smoothgrad",
        "gradient-x-input",
    }


def test_half_of_the_maps_the_other_end_and_a_part_of_the_images(call):
    result = call(
        "--order", "both", "--repetitions", 1, "--limit", 8, "--test-limit", 4, "--shares", "0.5",
        "--methods", "gradient", "--network", "roarnetworks:by_seed", "--batch", 4, "--recipe",
        "sixt2020-cifar10-reduced",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "8 images to train on, 4 to test on" in result.stderr and "gradient (least)" in result.stdout
    told = json.loads(Path("out/roar.json").read_text())
    assert "spec='roarnetworks:by_seed'" in told["train"] and "device" not in told["train"]
    assert "flip=True" in told["train"] and "batch=4" in told["train"] and "epochs=2" in told["train"]


def test_without_test_images_a_tenth_is_held_out(call, tmp_path):
    result = CliRunner().invoke(app, [
        "roar", "--model", "roarnetworks:network", "--images", "train", "--methods", "gradient", "--shares",
        "0.5", "--repetitions", "1", "--epochs", "0",
    ])  # fmt: skip
    assert result.exit_code == 0 and "11 images to train on, 1 to test on" in result.stderr, result.output
    assert (tmp_path / "veridical-roar" / "roar.json").is_file()


def test_a_training_that_gives_no_network_is_told(call):
    result = call("--lr", "1e30", "--repetitions", 1, "--methods", "gradient")
    assert result.exit_code == 0, result.output
    assert "none" in result.stdout and "no network for nothing-" in result.stderr
    assert "no network for 2 more; see cells" in result.stderr


def test_a_new_network_depends_on_its_seed_alone(call, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    state = torch.get_rng_state()
    for name in ("network", "by_seed"):
        build = NewNetwork(f"roarnetworks:{name}")
        assert torch.equal(build(3)[0].weight, build(3)[0].weight)
        assert not torch.equal(build(3)[0].weight, build(4)[0].weight)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--network", "roarnetworks:fixed"), "expected other initial weights for another seed"),
        (
            ("--network", "roarnetworks:one_class"),
            "expected at least 2 logits from roarnetworks:one_class, got 1",
        ),
        (("--network", "roarnetworks:needs"), "it is called with seed=NUMBER if it takes that"),
        (("--network", "roarnetworks:text"), "to return a torch.nn.Module, got str"),
        (("--network", "roarnetworks:made"), "to make networks, got Sequential; name a function"),
        (("--network", "roarnetworks:nothing"), "got no such name"),
        (("--network", "timm:resnet18"), "got 'timm:resnet18'; name one by --network"),
        (("--model", "demo"), "got 'demo'; name one by --network"),
        (
            ("--model", "roarnetworks:unnamed", "--images", "odd", "--test", "odd"),
            "got those not known: 3 class",
        ),
        (("--shares", "half"), "expected --shares as numbers with commas, got 'half'"),
        (("--shares", "0.9,0.5"), "expected rising shares"),
        (("--order", "some"), "expected order"),
        (("--repetitions", "0"), "expected repetitions"),
        (("--methods", "gradientt"), "did you mean gradient"),
        (("--methods", ","), "at least one method"),
        (("--preset", "quik"), "did you mean quick"),
        (("--recipe", "nothing"), "expected the name of a training recipe"),
        (("--lr", "0"), "expected lr above 0"),
        (("--epochs", "-1"), "epochs of at least 0"),
        (("--limit", "100"), "a subset of 1 to 12 images, got 100"),
        (("--test-limit", "0"), "a subset of 1 to 8 images, got 0"),
        (("--device", "abacus"), "use --device cpu"),
        (("--test", "nowhere"), "there is nothing of this name"),
        (("--out", "roarnetworks.py"), "got the file"),
        (("--out", "train"), "got train without roar.json"),
    ],
)
def test_a_mistake_is_one_line_before_any_training(options, message, call, tmp_path, monkeypatch):
    for name in ("x", "y", "z"):
        (tmp_path / "odd" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "odd" / name / "0.png")
    monkeypatch.setattr("veridical.cli.roar.roar", lambda *_, **__: pytest.fail("trained"))
    result = call(*options)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_another_experiment_is_refused(call):
    assert call("--repetitions", 1, "--methods", "gradient", "--shares", "0.5").exit_code == 0
    result = call("--epochs", 1)
    assert result.exit_code == 2 and "got another in train; choose another folder" in result.stderr
