"""The change of the map that curvature predicts, against walks."""

import pytest
import torch

import veridical as vd
from networks import images
from surfaces import Quadric, perceptron, point
from veridical.geometry import predict_movement


def test_a_sphere_turns_by_the_radius_over_its_own_in_every_direction() -> None:
    found = predict_movement(Quadric([1.0] * 3), point(0.0, 0.0, 4.0), 0, radius=0.2)
    assert found.largest.item() == pytest.approx(0.05)
    assert found.low.item() <= 0.05 <= found.high.item()
    far = predict_movement(Quadric([1.0] * 3), point(0.0, 0.0, 4.0), 0, radius=100.0)
    assert far.largest.item() == 2.0 and far.radius == 100.0


def test_random_walks_turn_as_expected_and_none_by_more_than_the_largest() -> None:
    model, x = perceptron(4, (12, 10, 3), 3.0), images(3, 2)
    found = predict_movement(model, x, 1, radius=0.01)
    walks = [vd.walk(model, x, 1, steps=1, length=0.01, seed=seed).change for seed in range(40)]
    turned = torch.stack(walks)
    assert bool((turned <= found.largest * 1.05).all())
    mean = turned.square().mean(dim=0).sqrt()
    assert bool(((found.low * 0.7 < mean) & (mean < found.high * 1.4)).all())


def test_a_radius_is_positive() -> None:
    with pytest.raises(ValueError, match="positive radius"):
        predict_movement(perceptron(0, (12, 6, 3), 2.0), images(1, 2), 0, radius=0.0)
