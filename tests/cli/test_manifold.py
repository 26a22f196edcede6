"""`veridical manifold` on tiny images."""

import json
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from veridical.cli.main import app
from veridical.manifold import (
    TCVAE,
    DataSetRecipe,
    DataSetSettings,
    FitRecipe,
    FitSettings,
    load_manifold,
    open_data_set,
    open_tangents,
)

LABELLER = """
from torch import nn
import torch

def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""


@pytest.fixture
def recipes(monkeypatch, tmp_path):
    """Recipes of seconds, and a labeling network that can be imported."""
    (tmp_path / "small_labeller.py").write_text(LABELLER)
    monkeypatch.chdir(tmp_path)
    variational = FitSettings(latents=2, epochs=2, batch=8, lr=1e-3, held_out=0.2)
    plain = FitSettings("convolutional", "squared", latents=2, epochs=2, batch=8, held_out=0.2)
    fits = {
        "tiny": FitRecipe(source="here", side=8, channels=1, settings=variational),
        "plain": FitRecipe(source="here", channels=3, settings=plain),
    }
    sets = {"small": DataSetRecipe(
        source="here", fit="tiny", classes=2, settings=DataSetSettings(parts=(("train", 30), ("test", 10)))
    )}  # fmt: skip
    monkeypatch.setattr("veridical.manifold.fitting_settings.fit_recipes", lambda: fits)
    monkeypatch.setattr("veridical.manifold.generative.data_set_recipes", lambda: sets)


def pixels(count=12, size=8, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def write_flat(folder, count=12, size=8):
    folder.mkdir(parents=True)
    for index, image in enumerate(pixels(count, size)):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return folder


def write_idx(folder, count=12, size=10):
    folder.mkdir()
    for part in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + np.array([count, size, size], ">u4").tobytes()
        body = pixels(count, size, 1).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + body)
        labels = (np.arange(count) % 2).astype(np.uint8)
        head = bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return folder


def write_zip(path):
    folder = write_flat(path.parent / "zipped")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"things/{file.name}")
    return path


def write_npz(path):
    np.savez(path, images=pixels(), labels=np.arange(12) % 2)
    return path


def call(*arguments):
    return CliRunner().invoke(app, ["manifold", *(str(one) for one in arguments)])


@pytest.mark.parametrize(
    ("name", "write"),
    [("flat", write_flat), ("idx", write_idx), ("a.zip", write_zip), ("a.npz", write_npz)],
)
def test_every_kind_of_images_is_fitted(recipes, tmp_path, name, write):
    source = write(tmp_path / name)
    result = call("fit", "--images", source, "--recipe", "tiny", "--out", "m", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "vae with k = 2 of d = 64, beta-tcvae" in result.stdout
    assert "on 2 held-out images; the mean image:" in result.stdout
    assert "collapsed latents:" in result.stdout and "weights of epoch" in result.stdout
    told = json.loads((tmp_path / "m" / "manifold.json").read_text())
    assert told["settings"]["seed"] == 3 and told["about"]["images"]["n"] == 12
    assert told["about"]["recipe"]["name"] == "tiny"
    assert told["about"]["images"]["resized"] == (12 if name == "idx" else 0)
    shown = call("info", "m")
    assert shown.exit_code == 0 and shown.stdout == result.stdout
    assert load_manifold("m").shape.k == 2


def test_options_replace_the_recipes(recipes, tmp_path):
    source = write_flat(tmp_path / "flat", 12, 12)
    options = ("--epochs", 1, "--latents", 3, "--side", 16, "--limit", 8)
    result = call("fit", "--images", source, "--recipe", "tiny", "--out", "m", *options)
    assert result.exit_code == 0, result.output
    assert "brought 8 images to 16 x 16 pixels" in result.stderr
    found = load_manifold("m")
    assert (found.shape.k, found.shape.height, len(found.history)) == (3, 16, 1)
    assert len(found.quality.errors) == 2


def test_an_interrupted_fit_goes_on(recipes, tmp_path, monkeypatch):
    source = write_flat(tmp_path / "flat")
    assert call("fit", "--images", source, "--recipe", "tiny", "--out", "whole").exit_code == 0
    module = import_module("veridical.cli.manifold")
    real = module.fit_manifold

    def stopped(images, settings, progress, **options):
        def told(moment):
            progress(moment)
            if moment.epoch == 1:
                raise KeyboardInterrupt

        return real(images, settings, told, **options)

    monkeypatch.setattr(module, "fit_manifold", stopped)
    held = call("fit", "--images", source, "--recipe", "tiny", "--out", "parts")
    assert held.exit_code == 130 and "the same command goes on from" in held.stderr
    assert not (tmp_path / "parts" / "manifold.json").exists()
    monkeypatch.setattr(module, "fit_manifold", real)
    assert call("fit", "--images", source, "--recipe", "tiny", "--out", "parts").exit_code == 0
    whole, parts = (tmp_path / name / "weights.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes() and load_manifold("parts").resumed == 1


def test_a_loss_that_is_no_number_leaves_the_best_weights_and_says_why(recipes, tmp_path, monkeypatch):
    run = import_module("veridical.manifold.fitting")._Run
    real = run._step

    def broken(self, images, anneal, source):
        later = (tmp_path / "m" / "checkpoint.safetensors").exists()
        return float("nan") if later else real(self, images, anneal, source)

    monkeypatch.setattr(run, "_step", broken)
    result = call("fit", "--images", write_flat(tmp_path / "flat"), "--recipe", "tiny", "--out", "m")
    assert result.exit_code == 2
    assert "a loss of nan in step 1 of epoch 2; lower lr" in result.stderr
    assert "the weights are those of epoch 1; m holds them" in result.stderr
    found = load_manifold("m")
    assert found.diverged and len(found.history) == 1
    monkeypatch.setattr(run, "_step", lambda *_: float("nan"))
    result = call("fit", "--images", tmp_path / "flat", "--recipe", "tiny", "--out", "other")
    assert result.exit_code == 2 and "no epoch ended" in result.stderr
    assert not (tmp_path / "other" / "manifold.json").exists()


def test_broken_files_are_named_and_the_rest_is_used(recipes, tmp_path):
    folder = write_flat(tmp_path / "flat")
    for index in range(6):
        (folder / f"broken{index}.png").write_bytes(b"x")
    result = call("fit", "--images", folder, "--recipe", "tiny", "--out", "m")
    assert result.exit_code == 0
    assert "skipped broken0.png" in result.stderr and "skipped 1 more" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "tyny"], "did you mean tiny?"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", "empty"], "empty"),
        (
            ["--images", "mixed", "--recipe", "plain"],
            "expected images of one size, got 2 sizes (8 x 8, 9 x 9)",
        ),
        (["--latents", "64"], "k = 64; where k >= d"),
        (["--side", "12"], "8, 16, 32, 64, ... pixels a side, got 12"),
        (["--epochs", "0"], "epochs of at least 1, got 0"),
        (["--limit", "100"], "a subset of 1 to 12 images, got 100"),
        (["--device", "abacus"], "use --device cpu"),
        (["--out", "file"], "expected a directory to write to"),
    ],
)
def test_mistakes_are_one_line(recipes, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    write_flat(tmp_path / "flat")
    mixed = write_flat(tmp_path / "mixed")
    Image.fromarray(pixels(1, 9)[0]).save(mixed / "other.png")
    result = call("fit", "--images", "flat", "--recipe", "tiny", "--out", "m", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "m").exists()


def test_info_of_another_directory(recipes, tmp_path):
    result = call("info", tmp_path)
    assert result.exit_code == 2 and "got no manifold.json" in result.stderr


def test_the_recipes_are_listed():
    result = call("recipes")
    assert result.exit_code == 0 and "mnist-btcvae: vae, beta-tcvae, gray, 32 x 32" in result.stdout
    assert "medical: residual, absolute, color, own size" in result.stdout


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Random weights of an 8 x 8 beta-TCVAE where the published ones would be."""
    (tmp_path / "data" / "models").mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(TCVAE(2, 1, 8).state_dict(), tmp_path / "data" / "models" / "mnist_btcvae.pt")
    monkeypatch.setenv("VERIDICAL_DATA", str(tmp_path / "data"))


GENERATE = ("generate", "--recipe", "small", "--labeller", "small_labeller:small", "--labeller-epochs", 1)


def test_a_data_set_is_generated_with_a_labeller_of_its_own(recipes, published, tmp_path):
    source = write_idx(tmp_path / "idx")
    more = ("--images", source, "--tangents", "test", "--seed", 2)
    result = call(*GENERATE, "--manifold", "published", "--out", "set", *more)
    assert result.exit_code == 0, result.output
    assert "of 12 reconstructions that it was not trained on" in result.stdout
    assert "generative data set of 40 images (1, 8, 8): train 30, test 10" in result.stdout
    assert "tangent spaces: 10 in" in result.stdout and "accepted" in result.stdout
    data = open_data_set("set")
    assert data.manifest.seed == 2 and len(open_tangents(tmp_path / "set" / "tangents-test")) == 10
    more = ("--labeller-weights", "set/labeller.safetensors", "--parts", "train=30, test=10", "--seed", 2)
    again = call(*GENERATE, "--manifold", "published", "--out", "other", *more)
    assert again.exit_code == 0, again.output
    assert torch.equal(open_data_set("other").load("images"), data.load("images"))


def test_another_manifold_than_the_recipe_s_is_told(recipes, published, tmp_path):
    source = write_idx(tmp_path / "idx")
    options = ("--images", source, "--parts", "test=4")
    same = call(*GENERATE, "--manifold", "published", "--out", "set", *options)
    assert same.exit_code == 0 and "note:" not in same.stderr
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(TCVAE(3, 1, 8).state_dict(), tmp_path / "other.pt")
    other = call(*GENERATE, "--manifold", "other.pt", "--out", "other", *options)
    assert other.exit_code == 0, other.output
    expected = "note: small is drawn from tiny (k = 2 for 1 x 8 x 8 images), this manifold has k = 3 for"
    assert expected in other.stderr


def test_letters_at_128_pixels_by_their_recipe(published, tmp_path, monkeypatch):
    """26 classes, numbered from 1 as EMNIST's letters are, by the paper's labeling network."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(TCVAE(10, 1, 32).state_dict(), tmp_path / "letters.pt")
    labels = np.arange(52) % 26 + 1
    letters = {"images": pixels(52, 28, 1), "labels": labels}
    np.savez(tmp_path / "letters.npz", **letters)
    options = ("generate", "--recipe", "emnist128", "--manifold", "letters.pt", "--labeller-epochs", 1)
    monkeypatch.setattr("veridical.cli.manifold_generate.Bordt2023Labeller", few_parameters)
    result = call(*options, "--images", "letters.npz", "--parts", "test=3", "--out", "set")
    assert result.exit_code == 0, result.output
    data = open_data_set("set")
    assert data.manifest.shape == (1, 128, 128) and data.manifest.classes == 26
    assert data.manifest.precision == "float16" and int(data.load("labels").max()) < 26
    # Digits and letters: more classes than the network has.
    np.savez(tmp_path / "both.npz", images=pixels(54, 28, 1), labels=np.arange(54) % 27)
    more = call(*options, "--images", "both.npz", "--parts", "test=3", "--out", "other")
    assert more.exit_code == 2 and "expected labels" in more.stderr, more.output


def few_parameters(seed, channels, classes):
    """In place of a network of five million parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16 * channels, classes))


def test_images_without_labels_are_fitted_and_train_no_labeller(recipes, published, tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels())
    folder = write_idx(tmp_path / "idx")
    (folder / "train-labels-idx1-ubyte").unlink()
    flat = write_flat(tmp_path / "flat")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        for file in sorted(flat.iterdir()):
            archive.write(file, file.name)
    np.savez(tmp_path / "gaps.npz", images=pixels(), labels=np.arange(12) % 2 * 5)
    for name in ("a.npz", "idx", "flat.zip", "gaps.npz"):
        result = call("fit", "--images", name, "--recipe", "tiny", "--out", f"m-{name}", "--epochs", 1)
        assert result.exit_code == 0, result.output
        told = json.loads((tmp_path / f"m-{name}" / "manifold.json").read_text())
        assert told["about"]["images"]["n"] == 12
    drawn = call(*GENERATE, "--manifold", "published", "--images", "a.npz", "--out", "set")
    assert drawn.exit_code == 2 and "images of at least two classes in a.npz, got all" in drawn.stderr


def test_parts_of_different_classes_are_not_mixed(recipes, tmp_path):
    shown = pixels(6, 8, 1)[..., 0]
    labels = {"train_labels": [0, 1, 2, 0, 1, 2], "test_labels": [1, 2, 1, 2, 1, 2]}
    np.savez(tmp_path / "a.npz", train_images=shown, test_images=shown, **labels)
    assert call("fit", "--images", "a.npz", "--recipe", "plain", "--out", "m").exit_code == 0
    result = call("reconstruct", "--manifold", "m", "--images", "a.npz", "--out", "set")
    assert result.exit_code == 2 and "parts of the same classes, got 0, 1, 2 and 1, 2" in result.stderr


def test_reconstructions_keep_the_parts_of_the_source(recipes, tmp_path):
    source = write_idx(tmp_path / "idx", size=8)
    assert call("fit", "--images", source, "--recipe", "plain", "--out", "m").exit_code == 0
    options = ("--images", source, "--out", "set", "--tangents", "all")
    result = call("reconstruct", "--manifold", "m", *options)
    assert result.exit_code == 0, result.output
    data = open_data_set("set")
    assert data.manifest.parts == (("train", 12), ("test", 12)) and data.manifest.shape == (3, 8, 8)
    assert data.load("labels", "test").tolist() == [0, 1] * 6
    assert (tmp_path / "set" / "tangents-all").is_dir()
    drawn = call(*GENERATE, "--manifold", "m", "--images", source, "--out", "other")
    assert drawn.exit_code == 2 and "`veridical manifold reconstruct`" in drawn.stderr


def test_the_memory_of_tangent_spaces_is_bounded_and_may_be_raised(recipes, tmp_path):
    source = write_idx(tmp_path / "idx", size=8)
    assert call("fit", "--images", source, "--recipe", "plain", "--out", "m").exit_code == 0
    options = ("reconstruct", "--manifold", "m", "--images", source, "--out", "set", "--tangents", "test")
    small = call(*options, "--memory-gib", 1e-5)
    assert small.exit_code == 2 and "--memory-gib to 0.01)" in small.stderr, small.output
    assert call(*options, "--memory-gib", 0.01).exit_code == 0
    none = call(*options, "--memory-gib", 0)
    assert none.exit_code == 2 and "expected --memory-gib above 0, got 0" in none.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --labeller-weights, or --images"),
        (["--images", "idx", "--parts", "train"], "parts as train=60000,test=10000, got 'train'"),
        (["--images", "idx", "--tangents", "validation"], "--tangents of one of train, test, all"),
        (["--images", "idx", "--recipe", "smal"], "did you mean small?"),
        (["--images", "idx", "--manifold", "nowhere"], "weights of a beta-TCVAE at nowhere, got no file"),
        (["--labeller-weights", "nowhere"], "nowhere"),
        (["--images", "idx", "--labeller", "small_labeller:torch"], "small_labeller:torch"),
        (["--images", "idx", "--out", "file"], "expected a directory to write to"),
    ],
)
def test_mistakes_of_generating_are_one_line(recipes, published, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    write_idx(tmp_path / "idx")
    result = call(*GENERATE, "--manifold", "published", "--out", "set", *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1


def test_the_published_weights_need_a_folder(recipes, tmp_path, monkeypatch):
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    result = call(*GENERATE, "--manifold", "published", "--images", "x", "--out", "set")
    assert result.exit_code == 2 and "VERIDICAL_DATA" in result.stderr


@pytest.mark.real_data
def test_a_few_digits_of_mnist32_by_one_command(tmp_path: Path, data_folder: Path) -> None:
    """With the paper's own labeling network, after two steps of its training."""
    folder = tmp_path / "digits"
    folder.mkdir()
    from veridical.data import load_labeled

    some = load_labeled(data_folder / "MNIST" / "raw", part="train", channels=1).subset(200)
    np.savez(folder / "a.npz", images=some.images[:, 0].numpy(), labels=some.labels.numpy())
    weights = data_folder / "models" / "mnist_btcvae.pt"
    options = ("--images", folder / "a.npz", "--labeller-epochs", 1, "--parts", "test=20")
    result = call("generate", "--manifold", weights, "--out", tmp_path / "set", *options)
    assert result.exit_code == 0, result.output
    data = open_data_set(tmp_path / "set")
    assert data.manifest.shape == (1, 32, 32) and data.manifest.latent == (10,) and len(data) == 20
