"""Robust accuracy on networks whose robustness is known, and what adversarial training does to it."""

import builtins
import importlib.util
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from veridical.training import (
    Adversary,
    RobustAccuracy,
    RobustnessSettings,
    Snapshots,
    TrainingSettings,
    log_steps,
    robust_accuracy,
    train_classifier,
)
from veridical.training.robustness import summed_margin

SMALL = RobustnessSettings(epsilon=0.5, steps=10, restarts=2, bounds=(-10.0, 10.0))


class Threshold(nn.Module):
    """Class 1 where the first pixel is above 0: changes below that pixel's size are withstood."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, x):
        score = self.scale * x[:, 0, 0, 0]
        return torch.stack([-score, score], dim=1)


def first_pixels(*values):
    found = torch.zeros(len(values), 1, 2, 2, dtype=torch.float64)
    found[:, 0, 0, 0] = torch.tensor(values)
    return found


IMAGES = first_pixels(0.2, -0.45, 0.6, -0.9, 0.3)
LABELS = torch.tensor([1, 0, 1, 0, 0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_robust_images_are_those_far_from_the_boundary(norm):
    found = robust_accuracy(Threshold(), IMAGES, LABELS, replace(SMALL, norm=norm))
    assert found.clean.tolist() == [True, True, True, True, False]
    assert found.robust.tolist() == found.pgd.tolist() == [False, False, True, True, False]
    assert found.share == 0.4
    assert found.distance[4] == 0 and found.distance[2:4].isnan().all()
    assert 0.2 <= float(found.distance[0]) <= 0.5 + 1e-6
    assert 0.45 <= float(found.distance[1]) <= 0.5 + 1e-6
    # Wilson for 2 of 5 at 95 %.
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx((0.1176, 0.7693), abs=1e-4)
    assert found.interval("clean").estimate == 0.8


def test_the_margin_finds_what_a_vanished_gradient_hides():
    # The softmax of logits of 1e5 has no gradient left, so steps up the cross-entropy go nowhere.
    masked = Threshold(1e6)
    alone = robust_accuracy(masked, IMAGES, LABELS, replace(SMALL, restarts=1))
    both = robust_accuracy(masked, IMAGES, LABELS, SMALL)
    assert alone.robust.tolist()[:2] != both.robust.tolist()[:2] == [False, False]


def test_the_margin_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, 1.0]])
    assert float(summed_margin(logits, torch.tensor([1, 2]))) == (2 - 4) + (3 - 1)


def test_the_result_belongs_to_the_seed_and_not_to_the_batch():
    network = trained(None)
    images, labels = striped()
    settings = RobustnessSettings("linf", 0.15, steps=2, restarts=2)
    whole, parts = (
        robust_accuracy(network, images, labels, replace(settings, batch=batch)) for batch in (64, 5)
    )
    assert torch.equal(whole.robust, parts.robust)
    torch.testing.assert_close(whole.distance, parts.distance, equal_nan=True, rtol=0, atol=1e-6)


def test_more_restarts_find_no_less():
    images, labels = striped()
    few, many = (
        robust_accuracy(trained(None), images, labels, RobustnessSettings("linf", 0.1, steps=2, restarts=n))
        for n in (1, 4)
    )
    assert bool((many.robust <= few.robust).all())


def test_everything_is_left_as_it_was():
    network, calls = Threshold().train(), []
    before = torch.get_rng_state()
    robust_accuracy(network, IMAGES, LABELS, SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert network.training and network.scale.grad is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attack": "best"}, ValueError, "attack to be one of pgd, strong"),
        ({"norm": "l0"}, ValueError, "norm to be one of"),
        ({"epsilon": -1.0}, ValueError, "epsilon above 0"),
        ({"epsilon": (1.0, 2.0)}, ValueError, "expected one epsilon"),
        ({"steps": 0}, ValueError, "steps of at least 1"),
        ({"restarts": 0}, ValueError, "restarts of at least 1"),
        ({"queries": 1.5}, TypeError, "queries as a whole number"),
        ({"batch": 0}, ValueError, "batch of at least 1"),
        ({"seed": -1}, ValueError, "seed of at least 0"),
        ({"level": 1.0}, ValueError, "level between 0 and 1"),
        ({"attack": "strong", "bounds": ()}, ValueError, "expected bounds for the strong attack"),
    ],
)
def test_wrong_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        RobustnessSettings(**options)


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match="within the adversary's bounds"):
        robust_accuracy(Threshold(), IMAGES * 20, LABELS, SMALL)
    with pytest.raises(ValueError, match="the network has 2 classes"):
        robust_accuracy(Threshold(), IMAGES, LABELS + 1, SMALL)
    with pytest.raises(ValueError, match="finite logits"):
        robust_accuracy(Threshold(float("nan")), IMAGES, LABELS, SMALL)
    with pytest.raises(ValueError, match="which to be one of clean, pgd, robust"):
        robust_accuracy(Threshold(), IMAGES, LABELS, SMALL).interval("best")


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("veridical.training.robustness_art.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"veridical\[robustness\]\""):
        robust_accuracy(nn.Identity(), IMAGES, LABELS, replace(SMALL, attack="strong"))


def test_pgd_needs_no_package(monkeypatch):
    real = builtins.__import__

    def refusing(name, *rest, **options):
        if name.split(".")[0] == "art":
            raise AssertionError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    assert isinstance(robust_accuracy(Threshold(), IMAGES, LABELS, SMALL), RobustAccuracy)


def striped(count=48, seed=0):
    """Two classes that differ much in one pixel and a little, but surely, in 63 others."""
    labels = torch.arange(count) % 2
    side = (2.0 * labels - 1)[:, None]
    noise = torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))
    pixels = 0.5 + 0.02 * noise + 0.04 * side
    pixels[:, 0] = (0.5 + 0.25 * side + 0.03 * noise[:, :1])[:, 0]
    return pixels.clamp(0, 1).view(count, 1, 8, 8), labels


@cache
def trained(adversary):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    settings = TrainingSettings(epochs=20, batch=16, lr=0.05, adversary=adversary)
    train_classifier(network, *striped(), settings)
    return network


def test_adversarial_training_makes_a_network_robust():
    images, labels = striped(seed=1)
    settings = RobustnessSettings("linf", 0.12, steps=10, restarts=2)
    plain, robust = (
        robust_accuracy(trained(adversary), images, labels, settings)
        for adversary in (None, Adversary("linf", 0.12, steps=3))
    )
    assert plain.interval("clean").estimate == 1
    assert robust.share > plain.share + 0.5
    assert robust.interval().low > plain.interval().high


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("side", [IMAGES.shape[-1], 12])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_strong_attack_finds_no_less_and_keeps_everything(norm, side):
    pytest.importorskip("art")
    more = side - IMAGES.shape[-1]  # Square takes part from 8 pixels on
    images = torch.nn.functional.pad(IMAGES, (0, more, 0, more))
    # PGD of one short step is too weak; the strong attacks are not.
    settings = replace(SMALL, norm=norm, steps=1, restarts=1, queries=50)
    network = Threshold().train()
    weak = robust_accuracy(network, images, LABELS, settings)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = [
        robust_accuracy(network, images, LABELS, replace(settings, attack="strong", steps=20)) for _ in "ab"
    ]
    assert bool((found[0].robust <= found[0].pgd).all()) and found[0].share <= weak.share
    assert found[0].robust.tolist() == [False, False, True, True, False]
    assert torch.equal(found[0].robust, found[1].robust)
    assert bool((found[0].distance.nan_to_num() <= 0.5 + 1e-6).all())
    assert network.training and network.scale.grad is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_steps_are_spaced_by_their_logarithm():
    assert log_steps(1000, 5) == (0, 1, 10, 100, 1000)
    assert log_steps(3, 20) == (0, 1, 2, 3)
    assert log_steps(7, 2) == (0, 7)
    for wrong in ((0, 5), (5, 1)):
        with pytest.raises(ValueError, match="at least"):
            log_steps(*wrong)


def test_snapshots_are_the_network_at_its_steps(tmp_path):
    images, labels = striped(12)

    def fresh():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    settings = TrainingSettings(epochs=2, batch=4, lr=0.1)
    network, calls = fresh(), []
    kept = Snapshots(tmp_path / "steps", network, (0, 2, 3, 6), calls.append)
    kept.keep_first()
    train_classifier(network, images, labels, settings, progress=kept)
    assert len(calls) == settings.total_steps(12) == 6
    plain, after_one = fresh(), fresh()
    train_classifier(plain, images, labels, settings)
    train_classifier(after_one, images, labels, replace(settings, epochs=1))
    other = fresh()
    states = {step: other[1].weight.detach().clone() for step in kept.load(other)}
    assert list(states) == [0, 2, 3, 6]
    assert torch.equal(states[0], fresh()[1].weight) and torch.equal(states[6], plain[1].weight)
    assert torch.equal(states[3], after_one[1].weight)


def test_snapshots_that_are_missing_or_others_are_named(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    kept = Snapshots(tmp_path, network, (0, 5))
    kept.keep_first()
    with pytest.raises(ValueError, match="expected the network after step 5"):
        next(kept.load(network))
    with pytest.raises(ValueError, match="expected the weights of this network"):
        next(Snapshots(tmp_path, network, (0,)).load(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="expected steps at which to keep"):
        Snapshots(tmp_path, network, ())
    with pytest.raises(ValueError, match="step of at least 0"):
        Snapshots(tmp_path, network, (-1,))
