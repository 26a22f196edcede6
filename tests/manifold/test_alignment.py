"""Fraction, split and pixel scores by closed forms; random directions by their exact distribution."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import veridical as vd
from veridical.manifold import (
    RandomFraction,
    fraction_by_k,
    orthonormal_rows,
    pixel_scores,
    random_p_values,
    tangent_fraction,
    tangent_split,
)

SHAPE = (1, 4, 8)
D = 32


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_basis(count: int = 3, k: int = 4) -> Tensor:
    return orthonormal_rows(drawn(count, k, D), 1e-12)[0].unflatten(2, SHAPE)


def axes(*which: int) -> Tensor:
    """One image whose tangent space is made of coordinate axes."""
    return torch.eye(D, dtype=torch.float64)[list(which)].view(1, len(which), *SHAPE)


def test_the_fraction_is_a_ratio_of_norms_not_of_squares() -> None:
    relevance = torch.zeros(1, *SHAPE).double()
    relevance.view(-1)[:3] = torch.tensor([3.0, 0.0, -4.0])
    assert tangent_fraction(relevance, axes(0, 1)).item() == pytest.approx(0.6)
    assert tangent_fraction(relevance, axes(2)).item() == pytest.approx(0.8)
    assert tangent_fraction(relevance, axes(5)).item() == 0
    assert tangent_fraction(relevance, axes(0, 2)).item() == 1
    assert vd.tangent_fraction is tangent_fraction


def test_tangent_maps_have_fraction_one_and_orthogonal_ones_zero() -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2)
    split = tangent_split(maps, basis)
    torch.testing.assert_close(split.tangent + split.orthogonal, maps)
    torch.testing.assert_close((split.tangent * split.orthogonal).sum((1, 2, 3)), torch.zeros(3).double())
    torch.testing.assert_close(tangent_fraction(split.tangent, basis), torch.ones(3).double())
    assert tangent_fraction(split.orthogonal, basis).max() < 1e-14
    ratio = split.tangent.flatten(1).norm(dim=1) / maps.flatten(1).norm(dim=1)
    torch.testing.assert_close(tangent_fraction(maps, basis), ratio)


@pytest.mark.parametrize("scale", [-3.0, 1e-200, 1e200])
def test_the_scale_of_a_map_does_not_matter(scale: float) -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2)
    torch.testing.assert_close(tangent_fraction(maps * scale, basis), tangent_fraction(maps, basis))


def test_a_map_of_zeros_or_without_finite_values_is_not_measured() -> None:
    maps = drawn(3, *SHAPE)
    maps[0], maps[1, 0, 0, 0] = 0, math.inf
    assert tangent_fraction(maps, a_basis()).isnan().tolist() == [True, True, False]


def test_collapsed_directions_take_no_part() -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2)
    padded = torch.cat([basis, torch.zeros(3, 2, *SHAPE)], 1)
    torch.testing.assert_close(tangent_fraction(maps, padded), tangent_fraction(maps, basis))
    torch.testing.assert_close(pixel_scores(padded), pixel_scores(basis))
    assert tangent_fraction(maps, torch.zeros(3, 2, *SHAPE)).tolist() == [0, 0, 0]


def test_a_basis_in_half_precision_is_made_orthonormal_again() -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2)
    half = basis.half()
    found = tangent_fraction(maps.half(), half)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, tangent_fraction(maps, basis), atol=2e-3, rtol=0)
    inside = tangent_split(maps, half).tangent
    torch.testing.assert_close(tangent_fraction(inside, half), torch.ones(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        pixel_scores(half).flatten(1).sum(1), torch.full((3,), 4.0).double(), atol=1e-12, rtol=0
    )


def test_the_fraction_grows_with_the_directions() -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2)
    found = fraction_by_k(maps, basis)
    for count in range(1, 5):
        torch.testing.assert_close(found[:, count - 1], tangent_fraction(maps, basis[:, :count]))
    assert (found.diff(dim=1) >= 0).all()
    half = fraction_by_k(maps, basis.half())
    torch.testing.assert_close(half[:, 1], tangent_fraction(maps, basis[:, :2].half()))


def test_pixel_scores_are_the_squared_fractions_of_single_pixels() -> None:
    basis = a_basis(1)
    units = torch.eye(D).double().view(D, *SHAPE)
    fractions = tangent_fraction(units, basis.expand(D, -1, -1, -1, -1))
    torch.testing.assert_close(pixel_scores(basis).flatten(), fractions.square())


def test_many_images_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2)
    whole = tangent_fraction(maps, basis), pixel_scores(basis), tangent_split(maps, basis).tangent
    monkeypatch.setattr("veridical.manifold.alignment._CHUNK_BYTES", 1)
    parts = tangent_fraction(maps, basis), pixel_scores(basis), tangent_split(maps, basis).tangent
    torch.testing.assert_close(parts, whole)


def test_the_fraction_can_be_differentiated() -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: tangent_fraction(one, basis), (maps,))


def test_wrong_arguments_are_named() -> None:
    basis, maps = a_basis(), drawn(3, *SHAPE)
    with pytest.raises(ValueError, match="orthonormal rows .*off by .*columns of a Jacobian"):
        tangent_fraction(maps, drawn(3, 4, *SHAPE))
    with pytest.raises(ValueError, match="orthonormal rows"):
        tangent_fraction(maps, basis * math.nan)
    with pytest.raises(ValueError, match=r"relevance of shape \(3, 1, 4, 8\) .*got \(3, 4, 8\)"):
        tangent_fraction(maps[:, 0], basis)
    with pytest.raises(ValueError, match=r"got \(2, 1, 4, 8\)"):
        tangent_split(maps[:2], basis)
    with pytest.raises(ValueError, match=r"basis of shape \(N, k, C, H, W\), got \(4, 1, 4, 8\)"):
        pixel_scores(basis[0])
    with pytest.raises(TypeError, match="basis as a floating point tensor, got list"):
        tangent_fraction(maps, [1])
    with pytest.raises(TypeError, match="basis as a floating point tensor, got torch.int64"):
        tangent_fraction(maps, basis.long())
    with pytest.raises(TypeError, match="relevance as a floating point tensor, got torch.int64"):
        tangent_fraction(maps.long(), basis)
    with pytest.raises(TypeError, match="relevance as a floating point tensor, got float"):
        tangent_fraction(3.0, basis)


@pytest.mark.parametrize(("rank", "dimension"), [(1, 2), (3, 40), (10, 512)])
def test_random_directions_have_the_stated_distribution(rank: int, dimension: int) -> None:
    normal = drawn(4000, dimension, seed=rank).square()
    fractions = (normal[:, :rank].sum(1) / normal.sum(1)).sqrt()
    stated = RandomFraction(rank, dimension)
    error = stated.std / math.sqrt(4000)
    assert abs(fractions.mean() - stated.mean) < 4 * error
    assert abs(fractions.std() / stated.std - 1) < 0.06
    p_values = random_p_values(fractions, torch.full((4000,), rank), dimension)
    assert kstest(p_values.numpy(), "uniform").pvalue > 1e-3
    assert (fractions < stated.quantile(0.95)).double().mean() == pytest.approx(0.95, abs=0.015)
    assert stated.p_value(stated.quantile(0.95)) == pytest.approx(0.05)
    assert stated.mean < math.sqrt(rank / dimension)


def test_the_baseline_of_mnist32() -> None:
    assert RandomFraction(10, 1024).mean == pytest.approx(0.0964, abs=5e-5)
    assert RandomFraction(10, 1024).std == pytest.approx(0.0217, abs=5e-5)
    assert RandomFraction(7168, 172032).mean == pytest.approx(0.2041, abs=5e-5)


def test_the_ends_of_the_baseline() -> None:
    nothing, everything = RandomFraction(0, 5), RandomFraction(5, 5)
    assert (nothing.mean, nothing.std, nothing.quantile(0.9), nothing.p_value(0.0)) == (0, 0, 0, 1)
    assert (everything.mean, everything.quantile(0.1), everything.p_value(1.0)) == (pytest.approx(1), 1, 1)
    assert everything.std == pytest.approx(0, abs=1e-6)
    found = random_p_values(torch.tensor([math.nan, 1.0, 0.0]), torch.tensor([2, 2, 2]), 5)
    assert found[0].isnan() and found[1:].tolist() == [0, 1]
    with pytest.raises(ValueError, match="rank from 0 to the dimension, got 6 and 5"):
        RandomFraction(6, 5)
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 95"):
        nothing.quantile(95)
