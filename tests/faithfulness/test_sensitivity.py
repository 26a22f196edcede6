"""Sensitivity: known for linear and quadratic networks, and that of Captum."""

import pytest
import torch
from torch import nn

from networks import Sequential, images, seeded
from veridical.attributions import method
from veridical.faithfulness import SensitivitySettings, noise_in_ball, sensitivity


class Quadratic(nn.Module):
    """Class 0 is half the sum of squares: its gradient is the image itself."""

    def __init__(self):
        super().__init__()
        self.sizes = []
        self.eval()

    def forward(self, x):
        self.sizes.append(len(x))
        score = 0.5 * x.square().sum((1, 2, 3))
        return torch.stack([score, -score], 1)


def identity(model, inputs, target):
    return inputs * (1 - 2 * target.to(inputs).reshape(-1, 1, 1, 1))


def constant(model, inputs, target):
    return torch.ones_like(inputs)


def test_the_map_of_a_quadratic_network_moves_as_far_as_the_image():
    x = images(3, 6)
    result = sensitivity(Quadratic(), x, identity, radius=0.1, samples=7)
    noise = torch.stack(list(noise_in_ball(x, result.settings)))
    norms = noise.flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distances, norms[:, None].expand(7, 3))
    torch.testing.assert_close(result.largest, norms.max().expand(3))
    torch.testing.assert_close(result.values, norms.max() / x.flatten(1).norm(dim=1))


def test_a_radius_for_each_channel_and_relevance_that_is_known():
    x = images(2, 6)
    several, one = (
        sensitivity(Quadratic(), x, identity, radius=radius, samples=3) for radius in ((0.1, 0.1, 0.1), 0.1)
    )
    assert torch.equal(several.distances, one.distances)
    still = torch.stack(list(noise_in_ball(x, SensitivitySettings(radius=(0.1, 0.0, 0.4)))))
    assert not still[:, 1].any() and still[:, 0].abs().max() > 0 and still[:, 2].abs().max() > 0.1
    settings = SensitivitySettings(radius=(0.1, 0.2, 0.4))
    for noise in noise_in_ball(x, settings):
        largest = noise.abs().amax(dim=(1, 2))
        assert (largest <= torch.tensor([0.1, 0.2, 0.4])).all() and largest[2] > 0.2
    asked = []

    def counted(model, inputs, target):
        asked.append(len(inputs))
        return identity(model, inputs, target)

    relevance = identity(Quadratic(), x, one.target)
    known = sensitivity(Quadratic(), x, counted, radius=0.1, samples=3, relevance=relevance)
    assert sum(asked) == 6 and torch.equal(known.values, one.values)


def test_a_constant_map_does_not_move_and_a_map_of_zeros_is_not_measured():
    x = images(2, 6)
    assert sensitivity(Quadratic(), x, constant).values.eq(0).all()
    zero = sensitivity(Quadratic(), x, lambda model, inputs, target: 0 * inputs)
    assert zero.values.isnan().all() and zero.largest.eq(0).all()
    assert zero.summary().n == 0


def test_the_class_is_that_of_the_image_itself():
    """Near the boundary the predicted class changes; the explained one does not."""
    asked = []

    def remembers(model, inputs, target):
        asked.append(target.clone())
        return inputs

    class Edge(nn.Module):
        def forward(self, x):
            score = x.sum((1, 2, 3))
            return torch.stack([score, -score], 1)

    x = torch.full((2, 1, 2, 2), 1e-6, dtype=torch.float64)
    result = sensitivity(Edge().eval(), x, remembers, samples=10)
    assert torch.cat(asked).eq(0).all() and result.target.tolist() == [0, 0]


def test_noise_stays_in_the_ball_and_fills_it():
    x = images(1, 8)
    noise = torch.stack(list(noise_in_ball(x, SensitivitySettings(radius=0.3, samples=50))))
    assert noise.abs().max() <= 0.3 and noise.max() > 0.29 and noise.min() < -0.29
    assert abs(noise.mean()) < 0.01 and noise.dtype == x.dtype


def test_more_samples_cannot_lower_the_maximum():
    model, x = seeded(Sequential), images(2)
    few = sensitivity(model, x, method("gradient"), radius=0.5, samples=3)
    many = sensitivity(model, x, method("gradient"), radius=0.5, samples=12)
    torch.testing.assert_close(many.distances[:3], few.distances)
    assert (many.values >= few.values).all() and many.values.max() > few.values.min()


def test_a_batch_is_its_images_and_the_size_of_batches_does_not_matter():
    model, x, explain = seeded(Sequential), images(4), method("gradient")
    whole = sensitivity(model, x, explain, radius=0.5)
    for batch in (1, 3, 9):
        found = sensitivity(model, x, explain, radius=0.5, batch=batch)
        torch.testing.assert_close(found.distances, whole.distances)
    for index in range(4):
        alone = sensitivity(model, x[index : index + 1], explain, radius=0.5)
        torch.testing.assert_close(alone.values, whole.values[index : index + 1])


def test_nothing_is_left_behind():
    model, x = seeded(Sequential), images(2)
    state, given = torch.get_rng_state(), x.clone()
    first = sensitivity(model, x, method("gradient"), radius=0.5)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, given)
    assert all(one.grad is None for one in model.parameters())
    assert torch.equal(first.values, sensitivity(model, x, method("gradient"), radius=0.5).values)
    other = sensitivity(model, x, method("gradient"), radius=0.5, seed=1)
    assert not torch.equal(first.values, other.values)
    assert first.summary("median").n == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0.0}, "positive radius, got 0.0"),
        ({"radius": float("inf")}, "positive radius, got inf"),
        ({"radius": (0.0, 0.0, 0.0)}, r"positive radius, got \(0.0, 0.0, 0.0\)"),
        ({"radius": (0.1, -0.1, 0.1)}, r"positive radius, got \(0.1, -0.1, 0.1\)"),
        ({"radius": (0.1, float("nan"), 0.1)}, r"positive radius, got \(0.1, nan, 0.1\)"),
        ({"radius": ()}, r"positive radius, got \(\)"),
        ({"radius": (0.1, 0.1)}, "one radius, or 3 of them, got 2"),
        ({"samples": 0}, "at least one sample, got 0"),
        ({"batch": 0}, "at least one image, got 0"),
        ({"target": 2}, r"target in 0..1, got 2"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        sensitivity(Quadratic(), images(2, 4), identity, **settings)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="speed"):
        sensitivity(Quadratic(), images(2, 4), identity, speed=1)
    with pytest.raises(TypeError, match="method that can be called"):
        sensitivity(Quadratic(), images(2, 4), 3)
    with pytest.raises(ValueError, match="relevance of shape"):
        sensitivity(Quadratic(), images(2, 4), lambda model, inputs, target: inputs[:, :1])


@pytest.mark.peer
@pytest.mark.parametrize("name", ["gradient", "lrp-epsilon"])
def test_the_value_is_that_of_captum_for_the_same_noise(name):
    captum = pytest.importorskip("captum.metrics", reason="needs captum (make peers)")
    model, x, target = seeded(Sequential), images(3), torch.tensor([1, 2, 0])
    ours = sensitivity(model, x, method(name), target=target, radius=0.3, samples=8)
    noise = torch.stack(list(noise_in_ball(x, ours.settings))).repeat(3, 1, 1, 1)

    def explain(inputs, target):
        if isinstance(inputs, tuple):
            return (method(name)(model, inputs[0], target),)
        return method(name)(model, inputs, target)

    theirs = captum.sensitivity_max(
        explain, x, perturb_func=lambda inputs: inputs + noise, n_perturb_samples=8, target=target
    )
    assert theirs.min() > 1e-3
    torch.testing.assert_close(ours.values, theirs, rtol=1e-5, atol=0)
