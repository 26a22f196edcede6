"""Fits on tiny images: the same result from a seed, after an interruption, and an end that says why."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from veridical.manifold import (
    FitSettings,
    Quality,
    fit_manifold,
    fit_recipe,
    fit_recipes,
    load_manifold,
    measure_quality,
    save_manifold,
    tangent_space,
)
from veridical.manifold.fitting import _Run
from veridical.manifold.fitting_store import FitEpoch, best_epoch
from veridical.records import RecordError, read_arrays
from veridical.training import DivergedError

QUICK = FitSettings(latents=2, epochs=3, batch=8, lr=3e-3, held_out=0.2, anneal_steps=4)
PLAIN = FitSettings("convolutional", "squared", latents=2, epochs=3, batch=8, lr=3e-3, held_out=0.2)


def pictures(count=24, channels=1, height=8, width=8):
    """A bright square that moves: two numbers say everything about an image."""
    images = torch.zeros(count, channels, height, width)
    for index in range(count):
        row, column = index % (height - 3), (index * 2) % (width - 3)
        images[index, :, row : row + 3, column : column + 3] = 1
    return images


def weights(fitted):
    return fitted.model.state_dict()


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_same_seed_gives_the_same_manifold_and_another_one_another():
    state = torch.get_rng_state()
    one, again = fit_manifold(pictures(), QUICK), fit_manifold(pictures(), QUICK)
    other = fit_manifold(pictures(), replace(QUICK, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    assert same(weights(one), weights(again)) and not same(weights(one), weights(other))
    assert one.history == again.history and one.quality == again.quality
    assert len(one.history) == 3 and one.outcome == "all epochs" and not one.diverged


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        (QUICK, 3),
        (replace(QUICK, loss="beta-vae", beta=1.0), 1),
        (PLAIN, 3),
        (FitSettings("residual", "absolute", epochs=3, batch=8, lr=3e-3, held_out=0.2), 1),
    ],
)
def test_every_model_learns(settings, channels):
    fitted = fit_manifold(pictures(32, channels, 16, 16), replace(settings, epochs=6, latents=_k(settings)))
    assert fitted.history[-1].loss < fitted.history[0].loss
    assert fitted.best == best_epoch(fitted.history) and fitted.shape.channels == channels
    assert len(fitted.quality.errors) == round(settings.held_out * 32)


@pytest.mark.parametrize("name", ["color-bvae", "color-btcvae"])
def test_the_recipes_for_color_images_learn(name):
    """With the recipe's own network and size: after a step on all images the loss is smaller."""
    recipe = fit_recipe(name)
    settings = replace(recipe.settings, epochs=2, batch=8, held_out=0.5, anneal_steps=1)
    fitted = fit_manifold(pictures(16, recipe.channels, recipe.side, recipe.side), settings)
    assert (fitted.shape.channels, fitted.shape.height, fitted.shape.k) == (3, 64, 32)
    assert not fitted.diverged and len(fitted.quality.kl) == 32
    assert fitted.history[1].loss < fitted.history[0].loss
    assert fitted.decoder(torch.zeros(1, 32)).shape == (1, 3, 64, 64)


def _k(settings):
    return None if settings.architecture == "residual" else 4


def test_bytes_are_images_of_a_255th():
    images = (pictures() * 255).byte()
    one, other = fit_manifold(images, PLAIN), fit_manifold(images.float() / 255, PLAIN)
    assert same(weights(one), weights(other)) and one.data != other.data


@pytest.mark.parametrize("settings", [QUICK, PLAIN])
def test_an_interrupted_fit_ends_like_one_that_was_not(tmp_path, settings):
    whole = fit_manifold(pictures(), settings, checkpoint=tmp_path / "whole")

    def stop(moment):
        if moment.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_manifold(pictures(), settings, stop, checkpoint=tmp_path / "parts")
    rest = fit_manifold(pictures(), settings, checkpoint=tmp_path / "parts")
    assert rest.resumed == 2 and rest.history == whole.history and rest.quality == whole.quality
    assert same(weights(rest), weights(whole))
    stored = [read_arrays(tmp_path / name) for name in ("whole", "parts")]
    assert stored[0][1] == stored[1][1] and stored[0][0].keys() == stored[1][0].keys()
    assert all((value == stored[1][0][name]).all() for name, value in stored[0][0].items())
    more = fit_manifold(pictures(), replace(settings, epochs=4), checkpoint=tmp_path / "parts")
    assert more.resumed == 3 and same(
        weights(more), weights(fit_manifold(pictures(), replace(settings, epochs=4)))
    )


def test_checkpoints_of_other_fits_are_refused(tmp_path):
    place = tmp_path / "checkpoint"
    fit_manifold(pictures(), PLAIN, checkpoint=place)
    with pytest.raises(ValueError, match=r"continue the fit of .*, got lr 0.1 instead of 0.003"):
        fit_manifold(pictures(), replace(PLAIN, lr=0.1), checkpoint=place)
    with pytest.raises(ValueError, match="got other images"):
        fit_manifold(pictures(25), PLAIN, checkpoint=place)
    with pytest.raises(ValueError, match="epochs 1, of which 3 are done"):
        fit_manifold(pictures(), replace(PLAIN, epochs=1), checkpoint=place)
    place.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="a damaged file; delete it to start again"):
        fit_manifold(pictures(), PLAIN, checkpoint=place)


def test_the_fit_stops_early_and_keeps_the_best_epoch(monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    seen = []

    def scripted(self):
        seen.append({name: value.clone() for name, value in self.network.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(_Run, "_held_out", scripted)
    fitted = fit_manifold(pictures(), replace(PLAIN, epochs=10, patience=2))
    assert fitted.outcome == "no smaller loss on held-out images for 2 epochs"
    assert fitted.best == 2 and len(fitted.history) == 4
    assert same(weights(fitted), seen[1]) and not same(weights(fitted), seen[3])


def test_the_fit_without_patience_keeps_the_best_epoch_too(monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(_Run, "_held_out", lambda self: next(losses))
    fitted = fit_manifold(pictures(), PLAIN)
    assert fitted.best == 2 and fitted.outcome == "all epochs"


def broken_after(epoch, value=math.nan):
    real = _Run._step

    done = {"epochs": 0}
    whole = _Run.epoch

    def count(self, number, history):
        done["epochs"] = number
        return whole(self, number, history)

    def loss(self, images, anneal, source):
        return value if done["epochs"] >= epoch else real(self, images, anneal, source)

    return count, loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, value):
    good = fit_manifold(pictures(), replace(PLAIN, epochs=2), checkpoint=tmp_path / "good")
    count, loss = broken_after(2, value)
    monkeypatch.setattr(_Run, "epoch", count)
    monkeypatch.setattr(_Run, "_step", loss)
    fitted = fit_manifold(pictures(), replace(PLAIN, epochs=9), checkpoint=tmp_path / "bad")
    assert fitted.diverged and len(fitted.history) == 2
    assert f"a loss of {value} in step 1 of epoch 3; lower lr" in fitted.outcome
    assert f"the weights are those of epoch {fitted.best}" in fitted.outcome
    assert same(weights(fitted), weights(good))
    monkeypatch.undo()
    resumed = fit_manifold(pictures(), PLAIN, checkpoint=tmp_path / "bad")
    assert resumed.resumed == 2 and same(weights(resumed), weights(fit_manifold(pictures(), PLAIN)))


def test_a_real_divergence_is_found_whatever_its_first_sign(tmp_path):
    with pytest.raises(DivergedError, match=r"expected a finite loss, got .* of epoch 1; lower lr"):
        fit_manifold(pictures(), replace(QUICK, lr=1e30), checkpoint=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([torch.zeros(1, 8, 8), torch.zeros(1, 8, 9)], TypeError, "images of different sizes"),
        (torch.zeros(8, 1, 8, 8, dtype=torch.int64), TypeError, "uint8 or floating point images"),
        (torch.zeros(3, 1, 8, 8), ValueError, "at least 4 images"),
        (torch.zeros(0, 1, 8, 8), ValueError, "at least 4 images"),
        (torch.zeros(8, 8, 8), ValueError, "at least 4 images"),
        (torch.full((8, 1, 8, 8), 2.0), ValueError, r"values in \[0, 1\]"),
        (torch.full((8, 1, 8, 8), math.nan), ValueError, r"values in \[0, 1\], got others, or NaN"),
        (torch.zeros(8, 1, 28, 28), ValueError, "8, 16, 32, 64"),
    ],
)
def test_images_that_cannot_be_used_are_named(images, error, message):
    with pytest.raises(error, match=message):
        fit_manifold(images, QUICK)


def test_a_latent_as_large_as_the_image_is_refused():
    with pytest.raises(ValueError, match=r"k = 64; where k >= d"):
        fit_manifold(pictures(), replace(QUICK, latents=64))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "squared"}, ValueError, "beta-tcvae or beta-vae"),
        ({"architecture": "residual"}, ValueError, "absolute or squared"),
        ({"loss": "none"}, ValueError, "loss"),
        ({"epochs": 0}, ValueError, "epochs of at least 1"),
        ({"batch": 1}, ValueError, "batch of at least 2"),
        ({"epochs": 1.5}, TypeError, "whole number"),
        ({"patience": 0}, ValueError, "patience of at least 1"),
        ({"lr": math.nan}, ValueError, "lr above 0"),
        ({"beta": -1.0}, ValueError, "beta of 0 or more"),
        ({"held_out": 1.0}, ValueError, "held_out as a share"),
    ],
)
def test_settings_that_do_not_exist_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        replace(QUICK, **changes)


def test_annealing_is_linear():
    assert [QUICK.anneal(step) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert replace(QUICK, anneal_steps=0).anneal(0) == 1


def test_a_manifold_is_stored_and_loaded(tmp_path):
    fitted = fit_manifold(pictures(), QUICK)
    save_manifold(tmp_path / "m", fitted, {"images": "squares"})
    loaded = load_manifold(tmp_path / "m")
    assert same(weights(loaded), weights(fitted)) and not loaded.model.training
    for name in ("settings", "shape", "history", "quality", "outcome", "data"):
        assert getattr(loaded, name) == getattr(fitted, name)
    assert json.loads((tmp_path / "m" / "manifold.json").read_text())["about"] == {"images": "squares"}
    z = loaded.encode(pictures(3))
    assert tangent_space(loaded.decoder, z).shape == (3, 2, 1, 8, 8)


def test_broken_directories_are_named(tmp_path):
    with pytest.raises(RecordError, match=r"got no manifold.json; let `veridical manifold fit` finish"):
        load_manifold(tmp_path)
    save_manifold(tmp_path, fit_manifold(pictures(), PLAIN))
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(RecordError, match="weights.safetensors"):
        load_manifold(tmp_path)
    save_manifold(tmp_path, fit_manifold(pictures(), PLAIN))
    told = json.loads((tmp_path / "manifold.json").read_text())
    del told["shape"]["latents"]
    (tmp_path / "manifold.json").write_text(json.dumps(told))
    with pytest.raises(RecordError, match="damaged files .* fit it again"):
        load_manifold(tmp_path)


def test_quality_counts_what_reconstruction_and_latents_do():
    model = fit_manifold(pictures(), QUICK).model
    held = pictures(5) * 0.5
    with torch.no_grad():
        last = model.encoder.mu_logvar_gen
        last.weight.zero_()
        # The first latent has mean 2 and variance 1, the second is the prior: it says nothing.
        last.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0]))
    found = measure_quality(model, held, torch.full((1, 8, 8), 0.25))
    assert found.kl == pytest.approx((2.0, 0.0)) and found.collapsed == [1]
    shown = model.decoder(torch.tensor([[2.0, 0.0]])).detach()
    expected = (shown - held).flatten(1).double().square().mean(1).sqrt()
    assert found.errors == pytest.approx(expected.tolist(), rel=1e-5)
    assert found.reference_errors[0] == pytest.approx(0.25)
    assert found.error().low <= found.error().estimate <= found.error().high


def test_latents_without_a_prior_collapse_where_they_do_not_move():
    assert Quality((0.1,), (0.2,), (), (1.0, 0.001, 0.5, 0.0)).collapsed == [1, 3]
    assert Quality((0.1,), (0.2,), (), (0.0, 0.0)).collapsed == [0, 1]


def test_the_smallest_loss_comes_first():
    assert best_epoch(tuple(FitEpoch(1, loss) for loss in (3, 1, 1, 2))) == 2
    assert best_epoch(()) == 0


def test_every_recipe_makes_a_model():
    for name, recipe in fit_recipes().items():
        side = recipe.side or 224
        assert recipe.settings.model(recipe.channels, side, side).k >= 1, name
    assert fit_recipe("cifar10").settings.model(3, 32, 32).k == 144
    assert fit_recipe("medical").settings.model(3, 256, 224).k == 7168
    published = fit_recipe("mnist-btcvae").settings
    assert (published.lr, published.batch, published.epochs, published.beta) == (5e-4, 64, 400, 6)
    assert published.anneal_steps == 10_000 and published.patience is None
    with pytest.raises(ValueError, match=r"a manifold recipe, got 'mnist'"):
        fit_recipe("mnist")


@pytest.mark.real_data
def test_a_very_short_fit_to_mnist_knows_more_than_the_mean_image(data_folder: Path) -> None:
    from veridical.cli.manifold_images import read_images

    found = read_images(data_folder / "MNIST" / "raw", 32, 1).subset(3000)
    settings = replace(fit_recipe("mnist-btcvae-short").settings, epochs=6, anneal_steps=100, lr=1e-3)
    fitted = fit_manifold(found.images, settings)
    assert fitted.quality.error().high < 0.9 * fitted.quality.reference_error().low
    assert len(fitted.quality.collapsed) < 10
