"""Theorem 2: the exact noise, the noise of the paper's proof, the normal approximation."""

import math

import pytest
import torch
from torch import nn

from veridical.geometry import draw_noise, gate_deviation, gate_probability, gaussian_sigma, smoothgrad_limit

W = torch.tensor([3.0, -1.0, 2.0, 0.5], dtype=torch.float64)
X = torch.tensor([0.4, 0.3, -0.2, 0.1], dtype=torch.float64)


def smoothed_gradient(weight: torch.Tensor, x: torch.Tensor, sharpness: float) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.softplus(weight @ leaf, sharpness), leaf)
    return gradient


@pytest.mark.parametrize("beta", [0.5, 2.0, 10.0])
def test_the_exact_noise_gives_the_smoothed_gradient(beta: float) -> None:
    found = smoothgrad_limit(W, X, beta, samples=100_000)
    assert torch.allclose(found.smoothed, smoothed_gradient(W, X, beta / float(W.norm())), atol=1e-12)
    assert torch.equal(found.expected, found.smoothed)
    assert bool(((found.mean - found.smoothed).abs() < 4 * found.error).all())


@pytest.mark.parametrize("noise", ["coordinates", "gaussian"])
def test_the_other_noises_tend_to_what_is_computed_without_sampling(noise: str) -> None:
    found = smoothgrad_limit(W, X, 2.0, noise=noise, samples=100_000, seed=3)
    assert bool(((found.mean - found.expected).abs() < 4 * found.error).all())
    assert (found.expected - found.smoothed).abs().max() > 1e-4


def test_the_mean_is_that_of_gradients_of_a_real_unit() -> None:
    found = smoothgrad_limit(W, X, 2.0, samples=50)
    points = (X - draw_noise(W, 2.0, "exact", 50)).requires_grad_()
    (gradients,) = torch.autograd.grad(torch.relu(points @ W).sum(), points)
    assert torch.allclose(found.mean, gradients.mean(dim=0))


@pytest.mark.parametrize(("dimension", "expected"), [(5, 0.017), (20, 0.0213), (3000, 0.0227)])
def test_independent_coordinates_deviate_more_with_the_dimension(dimension: int, expected: float) -> None:
    assert gate_deviation(torch.ones(dimension), "coordinates") == pytest.approx(expected, abs=6e-4)


def test_two_coordinates_have_the_closed_form() -> None:
    margins = torch.linspace(0.05, 8, 200, dtype=torch.float64)
    s = margins * math.sqrt(2)  # the sum of two: e^s (e^s - 1 - s) / (e^s - 1)^2
    exact = s.exp() * (s.expm1() - s) / s.expm1().square()
    found = gate_probability(torch.ones(2), margins, 1.0, "coordinates")
    assert torch.allclose(found, exact, atol=1e-10)
    assert gate_deviation(torch.ones(2), "coordinates") == pytest.approx(0.0103, abs=1e-4)


def test_along_an_axis_the_proof_is_right() -> None:
    assert gate_deviation(torch.tensor([0.0, -2.0, 0.0]), "coordinates") < 1e-9
    assert gate_deviation(W, "exact") < 1e-12
    far = gate_probability(torch.tensor([1.0]), torch.tensor([-1e4, 0.0, 1e4]), 1.0, "coordinates")
    assert far.tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)


def test_the_normal_noise_matches_at_zero_and_is_near() -> None:
    sigma = gaussian_sigma(2.0)
    assert sigma == pytest.approx(1.737 / 2, rel=1e-3)
    assert sigma / math.sqrt(2 * math.pi) == pytest.approx(math.log(2) / 2)  # E relu(e) = softplus(0)
    assert gate_deviation(W, "gaussian") == pytest.approx(0.0136, abs=1e-4)


def test_draws_are_of_their_distribution_and_of_their_seed() -> None:
    drawn = draw_noise(W, 2.0, "exact", 20_000)
    assert torch.linalg.matrix_rank(drawn) == 1
    assert float((drawn @ W / W.norm()).std()) == pytest.approx(math.pi / math.sqrt(3) / 2, rel=0.03)
    assert torch.equal(drawn, draw_noise(W, 2.0, "exact", 20_000))
    assert not torch.equal(drawn, draw_noise(W, 2.0, "exact", 20_000, seed=1))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="positive, finite beta"):
        gaussian_sigma(0.0)
    with pytest.raises(ValueError, match="at least one sample"):
        draw_noise(W, 1.0, "exact", 0)
    with pytest.raises(ValueError, match="noise to be one of"):
        draw_noise(W, 1.0, "uniform", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite, positive norm"):
        gate_deviation(torch.zeros(3), "exact")
    with pytest.raises(ValueError, match="weight of one unit"):
        draw_noise(W[None], 1.0, "exact", 5)
    with pytest.raises(ValueError, match=r"point of shape \(4,\)"):
        smoothgrad_limit(W, X[:3], 1.0)
