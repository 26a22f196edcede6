"""Settings refuse what cannot be carried out; schedules and changes of images in closed form."""

import math

import pytest
import torch

from veridical.training import TrainingSettings
from veridical.training.augmentation import augment


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": "rmsprop"}, ValueError, "optimizer to be one of adam, sgd"),
        ({"schedule": "linear"}, ValueError, "schedule to be one of"),
        ({"epochs": -1}, ValueError, "epochs of at least 0"),
        ({"epochs": 1.5}, TypeError, "epochs as a whole number, got 1.5"),
        ({"batch": 0}, ValueError, "batch of at least 1"),
        ({"seed": -1}, ValueError, "seed of at least 0"),
        ({"step_epochs": True}, TypeError, "step_epochs as a whole number"),
        ({"lr": 0}, ValueError, "lr above 0"),
        ({"lr": math.nan}, ValueError, "lr above 0"),
        ({"weight_decay": -1}, ValueError, "weight_decay of 0 or more"),
        ({"momentum": 0.9}, ValueError, "only for sgd, got 0.9 for adam"),
        ({"optimizer": "sgd", "momentum": 1}, ValueError, r"momentum in \[0, 1\)"),
        ({"step_factor": 0}, ValueError, "step_factor in"),
        ({"shift": 1}, ValueError, "shift as a share"),
    ],
)
def test_wrong_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        TrainingSettings(**settings)


def test_settings_are_values():
    assert TrainingSettings() == TrainingSettings() and len({TrainingSettings(), TrainingSettings()}) == 1


def test_schedules():
    assert TrainingSettings().factor(50, 3, 10) == 1
    step = TrainingSettings(schedule="step", step_epochs=10, step_factor=0.5)
    assert [step.factor(epoch, 0, 1) for epoch in (0, 9, 10, 20)] == [1, 1, 0.5, 0.25]
    cosine = TrainingSettings(schedule="cosine", epochs=4)
    assert cosine.factor(0, 0, 8) == 1
    assert cosine.factor(2, 0, 8) == pytest.approx(0.5)
    assert cosine.factor(1, 4, 8) == pytest.approx(0.5 * (1 + math.cos(math.pi * 1.5 / 4)))


def test_only_a_cosine_depends_on_the_number_of_epochs():
    short, long = TrainingSettings(epochs=2), TrainingSettings(epochs=3)
    assert short.difference(long) == ""
    assert short.difference(TrainingSettings(flip=True)) == "flip True instead of False"
    curved = TrainingSettings(epochs=2, schedule="cosine")
    assert curved.difference(TrainingSettings(epochs=3, schedule="cosine")) == "epochs 3 instead of 2"


def source():
    return torch.Generator().manual_seed(0)


def test_nothing_asked_for_changes_nothing():
    images = torch.rand(4, 2, 6, 6, generator=source())
    assert augment(images, 0.0, False, source()) is images


def test_a_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 1, 2, 3, generator=source())
    found = augment(images, 0.0, True, source())
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    kept = (found == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 160 < int(mirrored.sum()) < 240


def test_a_shift_moves_a_ramp_by_a_number_of_pixels_within_the_limit():
    side, share = 20, 0.1
    ramp = torch.arange(side, dtype=torch.float64).expand(100, 1, side, side)
    found = augment(ramp, share, False, source())
    inner = found[:, 0, 5:-5, 5:-5] - ramp[:, 0, 5:-5, 5:-5]
    # Shifted, a ramp is the ramp plus one number: the shift in pixels.
    moved = inner[:, 0, 0]
    assert torch.allclose(inner, moved[:, None, None].expand_as(inner), atol=1e-5)
    assert 1.5 < float(moved.max()) <= share * side + 1e-5
    assert -share * side - 1e-5 <= float(moved.min()) < -1.5
    # Edges are continued: no value that was not there.
    assert 0 <= float(found.min()) and float(found.max()) <= side - 1 + 1e-5


def test_both_axes_move_each_in_its_own_way():
    ramp = torch.arange(10.0)
    across = ramp.expand(1, 1, 10, 10).repeat(50, 1, 1, 1)
    moves = [
        (augment(one, 0.2, False, source()) - one)[:, 0, 5, 5]
        for one in (across, across.transpose(2, 3).contiguous())
    ]
    assert not torch.allclose(moves[0], moves[1], atol=1e-2)
