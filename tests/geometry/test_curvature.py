"""Principal curvatures against closed forms and against dense Hessians."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import veridical as vd
from networks import Attention, Residual, images, seeded
from surfaces import Quadric, Saddle, by_size, dense, perceptron, point
from veridical.geometry import CurvatureSettings, NormSettings
from veridical.geometry.output import ShapeOperator, output_of
from veridical.smoothing import SmoothedModel


def test_a_sphere_has_one_over_its_radius_in_every_direction() -> None:
    x = point(1.0, 2.0, -2.0, 4.0)
    found = vd.curvature(Quadric([1.0] * 4), x, 0, top=3)
    assert torch.allclose(found.top, torch.full((1, 3), 0.2, dtype=torch.float64), atol=1e-12)
    assert found.residuals.max() < 1e-12 and bool(found.converged.all())
    assert found.value.item() == pytest.approx(12.5) and found.gradient_norm.item() == pytest.approx(5.0)


def test_a_cylinder_has_one_over_its_radius_and_zero() -> None:
    found = vd.curvature(Quadric([1.0, 1.0, 0.0]), point(0.6, 0.8, 7.0), 0, top=2)
    assert torch.allclose(found.top, torch.tensor([[1.0, 0.0]], dtype=torch.float64), atol=1e-12)


def test_a_saddle_bends_both_ways() -> None:
    found = vd.curvature(Saddle(), point(0.0, 0.0, 0.0), 0, top=2)
    assert torch.allclose(found.top[0].sort().values, torch.tensor([-2.0, 2.0]).double(), atol=1e-12)


def test_the_sign_follows_the_gradient() -> None:
    found = vd.curvature(Quadric([-1.0, -1.0, -1.0]), point(0.0, 0.0, 2.0), 0, top=1)
    assert found.largest.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_network_has_the_eigenvalues_of_its_dense_hessian(seed: int) -> None:
    model = perceptron(seed, (12, 10, 8, 3), 3.0)
    x = images(2, 2, seed)
    found = vd.curvature(model, x, 1, top=11, steps=20)
    for row in range(2):
        _, _, expected = dense(model, x[row : row + 1], 1)
        assert torch.allclose(found.top[row], by_size(expected), atol=1e-8)
        assert found.residuals[row].max() < 1e-8


def test_few_steps_find_the_largest_of_a_convolutional_network() -> None:
    model, x = seeded(Residual), images(2, 8)
    found = vd.curvature(model, x, 2, beta=5.0, top=2, tolerance=1e-6)
    assert bool(found.converged.all()) and int(found.steps.max()) <= 50
    for row in range(2):
        _, _, expected = dense(SmoothedModel(model, 5.0), x[row : row + 1], 2)
        assert torch.allclose(found.top[row], by_size(expected)[:2], atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_solver_of_scipy_finds_the_same(seed: int) -> None:
    model, x = seeded(Residual, seed), images(1, 8, seed)
    operator = ShapeOperator(output_of(model, x, 1, 5.0), x)
    size = x.numel()

    def product(v: np.ndarray) -> np.ndarray:
        return operator(torch.from_numpy(v).view(1, -1)).numpy()[0]

    start = np.random.default_rng(0).normal(size=size)
    expected = eigsh(LinearOperator((size, size), product, dtype=float), 3, which="LM", v0=start)[0]
    found = vd.curvature(model, x, 1, beta=5.0, top=3, tolerance=1e-8, steps=80)
    assert torch.allclose(found.top[0], by_size(torch.from_numpy(expected)), atol=1e-8)


def test_a_softplus_so_sharp_that_it_is_a_relu_has_curvature_zero() -> None:
    model, x = perceptron(0, (12, 8, 3), None), images(2, 2)
    found = vd.curvature(model, x, 0, beta=1e9, top=2)
    assert torch.equal(found.top, torch.zeros(2, 2).double()) and bool((found.gradient_norm > 0).all())
    assert vd.curvature_norm(model, x, 0, beta=1e9).estimate.tolist() == [0.0, 0.0]


def test_a_probability_has_the_level_sets_of_a_probability() -> None:
    model = perceptron(3, (12, 8, 4), 2.0)
    x = images(1, 2)
    found = vd.curvature(model, x, 1, top=11, score="probability")
    _, _, expected = dense(nn.Sequential(model, nn.Softmax(dim=1)), x, 1)
    assert torch.allclose(found.top[0], by_size(expected), atol=1e-8)


def test_an_image_does_not_depend_on_its_batch_and_the_model_is_left_alone() -> None:
    model, x = seeded(Residual), images(3, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told: list[float] = []
    whole = vd.curvature(model, x, beta=5.0)
    split = vd.curvature(model, x, beta=5.0, batch=1, progress=told.append)
    assert torch.allclose(whole.top, split.top, atol=1e-12) and torch.equal(whole.steps, split.steps)
    assert told[-1] == 1.0 and len(told) == 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_target_is_that_of_the_unmodified_network() -> None:
    model, x = seeded(Residual), images(3, 8)
    assert torch.equal(vd.curvature(model, x, beta=0.1, top=1).classes, model(x).argmax(dim=1))


def test_a_transformer_needs_beta_for_its_relu_and_second_derivatives_of_attention() -> None:
    model, x = seeded(Attention, 29), images(1, 8)
    with pytest.raises(ValueError, match=r"expected beta for a network with ReLU.*choose_beta"):
        vd.curvature(model, x)
    found = vd.curvature(model, x, 0, beta=3.0, top=1)
    with sdpa_kernel(SDPBackend.MATH):
        _, _, expected = dense(SmoothedModel(model, 3.0), x, 0)
    assert found.largest.item() == pytest.approx(by_size(expected)[0].item(), abs=1e-8)


def test_piecewise_linear_networks_are_named_as_such() -> None:
    x = images(1, 2)
    with pytest.raises(ValueError, match="flat pieces"):
        vd.curvature(perceptron(0, (12, 8, 3), None), x)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with pytest.raises(ValueError, match="piecewise linear network"):
        vd.curvature(linear.eval(), x)
    pooling = nn.Sequential(nn.MaxPool2d(2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(3, 3)).double()
    with pytest.raises(ValueError, match="piecewise linear network"):
        vd.curvature(pooling.eval(), x)
    with pytest.raises(ValueError, match="none; leave the smoothing off"):
        vd.curvature(linear, x, 0, beta=1.0)


def test_an_image_without_a_gradient_is_not_measured() -> None:
    x = torch.cat([point(1.0, 0.0, 0.0), point(0.0, 0.0, 0.0)])
    with pytest.warns(UserWarning, match=r"gradient is 0 at image\(s\) \[1\]"):
        found = vd.curvature(Quadric([1.0] * 3), x, 0, top=1)
    assert found.largest[0] == pytest.approx(1.0) and math.isnan(found.largest[1])
    with pytest.warns(UserWarning, match="gradient is 0"):
        norm = vd.curvature_norm(Quadric([1.0] * 3), x, 0)
    assert math.isnan(norm.estimate[1]) and norm.estimate[0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top of at least 1"),
        ({"top": 5, "steps": 4}, "top <= steps"),
        ({"tolerance": -1.0}, "tolerance in"),
        ({"top": 12}, "the dimension of the level set"),
        ({"score": "loss"}, "score to be one of logit, probability"),
        ({"beta": -1.0}, "positive, finite beta"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vd.curvature(perceptron(0, (12, 8, 3), 2.0), images(1, 2), 0, **options)


def test_bad_inputs_are_refused() -> None:
    model = perceptron(0, (12, 8, 3), 2.0)
    with pytest.raises(ValueError, match=r"target in 0\.\.2, got 3"):
        vd.curvature(model, images(1, 2), 3)
    with pytest.raises(ValueError, match="at least 2 values"):
        vd.curvature(model, torch.ones(1, 1, 1, 1), 0)
    with pytest.raises(ValueError, match="inference_mode"), torch.inference_mode():
        vd.curvature(model, images(1, 2), 0)
    with pytest.raises(TypeError, match="speed"):
        vd.curvature(model, images(1, 2), 0, speed=1)
    assert CurvatureSettings(top=2) == CurvatureSettings(top=2)


def test_gradients_are_taken_under_no_grad_too() -> None:
    model, x = perceptron(0, (12, 8, 3), 2.0), images(1, 2)
    with torch.no_grad():
        inside = vd.curvature(model, x, 0)
    assert torch.equal(inside.top, vd.curvature(model, x, 0).top)


def one_curvature() -> tuple[nn.Module, torch.Tensor]:
    """Where all squared curvatures but one are 0: the interval is exact."""
    model = Quadric([1e-3, 4.0, 0.0, 0.0])
    return model, point(1.0, 1e-9, 0.0, 0.0)


def norms(
    model: nn.Module, x: torch.Tensor, seeds: int, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """||A z||^2 / ||A||^2 of each seed, and whether its interval covered: for one image."""
    exact = dense(model, x, 0)[2].norm()
    found = [vd.curvature_norm(model, x, 0, seed=seed, **settings) for seed in range(seeds)]
    share = torch.cat([item.estimate for item in found]).square() / exact.square()
    return share, torch.cat([(item.low <= exact) & (exact <= item.high) for item in found]).double()


def test_the_frobenius_norm_is_estimated_without_bias_and_its_interval_covers() -> None:
    model, x = perceptron(1, (12, 10, 3), 3.0), images(1, 2)
    share, covered = norms(model, x, 100, probes=5)
    assert abs(share.mean() - 1) < 3.5 * share.std() / 10
    assert covered.mean() >= 0.95 and vd.curvature_norm(model, x, 0).dimension == 11


def test_the_interval_is_exact_where_one_curvature_is_all() -> None:
    share, covered = norms(*one_curvature(), 200, probes=3, level=0.8)
    assert abs(covered.mean() - 0.8) < 0.08
    assert abs(share.mean() - 1) < 3.5 * (2 / 3 / 200) ** 0.5


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says_over_thousands_of_seeds() -> None:
    seeds = 3000
    share, covered = norms(*one_curvature(), seeds, probes=3, level=0.8)
    assert abs(covered.mean() - 0.8) < 3.5 * (0.16 / seeds) ** 0.5
    assert abs(share.mean() - 1) < 3.5 * (2 / 3 / seeds) ** 0.5
    assert share.var().item() == pytest.approx(2 / 3, rel=0.15)  # chi-square with 3 degrees of freedom
    for model, x in (
        (perceptron(1, (12, 10, 3), 3.0), images(1, 2)),
        (Quadric([1.0] * 5), point(*[1.0] * 5)),
    ):
        share, covered = norms(model, x, seeds, probes=3, level=0.8)
        assert abs(share.mean() - 1) < 3.5 * share.std() / seeds**0.5
        assert covered.mean() > 0.8 - 3.5 * (0.16 / seeds) ** 0.5


def test_the_interval_has_the_estimate_inside_at_a_low_level_too() -> None:
    model, x = Quadric([1.0] * 60), point(*[1.0] * 60)
    _, covered = norms(model, x, 40, probes=1, level=0.2)
    found = vd.curvature_norm(model, x, 0, probes=1, level=0.2)
    assert found.low <= found.estimate <= found.high
    assert covered.mean() > 0.2  # 0.04 by chi-square alone


def test_bad_settings_of_the_norm_are_refused() -> None:
    with pytest.raises(ValueError, match="probes and batch"):
        NormSettings(probes=0)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        NormSettings(level=1.0)


def test_curvature_falls_with_beta() -> None:
    model, x = perceptron(2, (12, 20, 20, 3), None), images(4, 2)
    told: list[float] = []
    found = vd.curvature_profile(model, x, betas=(4.0, 0.25, 1.0), top=1, progress=told.append)
    assert found.largest.shape == (3, 4) and told == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert torch.equal(found.rising(), torch.ones(4).double())
    assert [item.median for item in found.boxes()] == found.largest.double().quantile(0.5, dim=1).tolist()
    with pytest.raises(ValueError, match="at least one beta"):
        vd.curvature_profile(model, x, betas=())
