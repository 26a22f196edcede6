"""Theorem 1 of Sixt et al. 2020: its conditions, its bound where it holds and where it does not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.faithfulness import chain_conditions, cone_convergence


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def chains(draw, *, positive=False):
    """Non-negative matrices that can be multiplied, none with a zero column; many zeros unless positive."""
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=7))
    source = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = 0.0 if positive else draw(st.sampled_from([0.0, 0.3, 0.7]))
    found = []
    for before, after in zip(widths, widths[1:], strict=False):
        values = source.uniform(0.01, 1, (before, after)) ** draw(st.sampled_from([1, 4]))
        values = values * (source.uniform(size=values.shape) >= share)
        values[source.integers(before), (values == 0).all(axis=0)] = 1.0
        found.append(torch.from_numpy(values))
    return found


def exceeds(value, bound):
    return bool((value > bound * (1 + 1e-9) + 1e-14).any())


@given(chains())
@settings(max_examples=60, deadline=None)
def test_the_bound_with_the_lengths_of_the_columns_is_never_violated(chain):
    found = cone_convergence(chain)
    assert not exceeds(found.measured, found.proven)


@given(chains())
@settings(max_examples=60, deadline=None)
def test_no_non_negative_matrix_lets_the_smallest_cosine_decrease(chain):
    found = cone_convergence(chain)
    assert not exceeds(found.measured[1:], found.measured[:-1])


@given(chains(positive=True))
@settings(max_examples=60, deadline=None)
def test_the_rate_of_positive_matrices_is_never_violated(chain):
    found = cone_convergence(chain)
    rate = found.conditions.positive_rate
    assert 0 < rate <= 1
    steps = torch.arange(len(chain) + 1, dtype=torch.float64)
    assert not exceeds(found.measured, (1 - rate) ** steps * found.measured[0])


@pytest.mark.parametrize("variant", ["positive", "half zeros"])
def test_the_stated_bound_holds_on_random_matrices(variant):
    """Columns of products of random matrices are about equally long, as the paper's proof assumes."""
    source = torch.Generator().manual_seed(0)
    for _ in range(10):
        drawn = [torch.randn(64, 64, generator=source, dtype=torch.float64) for _ in range(10)]
        chain = [one.abs() if variant == "positive" else one.clamp(min=0) for one in drawn]
        found = cone_convergence(chain)
        assert found.conditions.rate > 0
        assert not exceeds(found.measured, found.stated)
        assert not exceeds(found.measured, found.proven)


def test_the_stated_bound_is_exact_for_one_step_from_the_identity_of_equal_columns():
    """From M_0 = I the columns are of equal length: for [[1, e], [e, 1]] the bound is 1 - 2 e / (1 + e)^2."""
    found = cone_convergence([matrix([1, 0.5], [0.5, 1])])
    assert found.conditions.rate == pytest.approx(1 / 1.5**2)
    assert found.stated[1] == pytest.approx(1 - 1 / 1.5**2)
    assert found.measured[1] == pytest.approx(1 - 1 / 1.25)
    assert found.proven[1] == pytest.approx(float(found.stated[1]))


def test_a_constant_chain_in_the_set_that_does_not_obey_the_stated_rate():
    """[[1, 0], [1, 1]]^n = [[1, 0], [n, 1]]: 1 - s_n is about 1 / (2 n^2), slower than any exponential."""
    found = cone_convergence([matrix([1, 0], [1, 1])] * 40)
    assert found.conditions.holds
    assert found.conditions.members.all()
    assert found.conditions.rate == 0.25
    n = torch.arange(41, dtype=torch.float64)
    torch.testing.assert_close(found.measured, 1 - n / (1 + n * n).sqrt(), rtol=1e-9, atol=1e-15)
    assert exceeds(found.measured, found.stated)
    assert not exceeds(found.measured, found.proven)


def test_a_constant_chain_in_the_set_whose_product_stays_of_rank_two():
    """Every condition of theorem 1 holds: no entry negative, inner products and norms 1 or more, sums 3."""
    one = matrix([2, 0, 0], [0, 2, 0], [1, 1, 1])
    found = cone_convergence([one] * 60)
    conditions = found.conditions
    assert conditions.holds
    assert conditions.members.all()
    assert conditions.inner_product.min() == conditions.column_norm.min() == 1
    assert conditions.column_sum.max() == 3
    assert found.measured[-1] == pytest.approx(0.5)
    product = torch.linalg.matrix_power(one / 2, 60)
    torch.testing.assert_close(product, matrix([1, 0, 0], [0, 1, 0], [1, 1, 0]))
    assert torch.linalg.matrix_rank(product) == 2
    assert found.stated[-1] < 1e-3
    assert not exceeds(found.measured, found.proven)


def test_the_example_that_the_paper_excludes_converges_slower_than_any_rate():
    """The product of [[1, 0], [1/n, 1]] is [[1, 0], [H_n, 1]], H_n the harmonic numbers."""
    length = 200
    found = cone_convergence([matrix([1, 0], [1 / n, 1]) for n in range(1, length + 1)])
    harmonic = torch.cat([torch.zeros(1), 1 / torch.arange(1.0, length + 1)]).double().cumsum(0)
    expected = 1 - harmonic / (1 + harmonic**2).sqrt()
    torch.testing.assert_close(found.measured, expected, rtol=1e-6, atol=0)
    assert found.measured[-1] > 0.01
    assert found.conditions.rate == pytest.approx(1 / length / 4)
    longer = cone_convergence([matrix([1, 0], [1 / n, 1]) for n in range(1, 2 * length + 1)])
    assert longer.conditions.rate < 0.51 * found.conditions.rate  # no positive rate serves the whole sequence


def test_with_squares_the_excluded_example_does_not_converge():
    """The product of [[1, 0], [1/n^2, 1]] tends to [[1, 0], [pi^2 / 6, 1]]."""
    found = cone_convergence([matrix([1, 0], [1 / n**2, 1]) for n in range(1, 400)])
    limit = math.pi**2 / 6
    assert found.measured[-1] == pytest.approx(1 - limit / math.sqrt(1 + limit**2), abs=1e-3)
    assert found.measured.min() > 0.145


def test_matrices_outside_the_set_are_not_counted():
    inside, outside = matrix([1, 0.5], [0.5, 1]), matrix([1, 0], [0, 2])
    found = cone_convergence([inside, outside, outside, inside])
    assert found.conditions.members.tolist() == [True, False, False, True]
    assert found.stated[1] == found.stated[2] == found.stated[3]
    assert found.stated[4] < found.stated[3]
    assert found.conditions.rate == pytest.approx(1 / 2**2)
    assert found.conditions.positive_rate == 0


def test_conditions_of_known_matrices():
    found = chain_conditions([matrix([1, 2, 0], [2, 2, 1]), matrix([-1], [0], [3])])
    assert found.non_negative.tolist() == [True, False]
    assert found.column_norm.tolist() == pytest.approx([1, math.sqrt(10)])
    assert found.column_sum.tolist() == [4, 4]
    assert found.inner_product.tolist() == [2, math.inf]
    assert found.rows.tolist() == [2, 3]
    assert not found.holds
    assert found.spread.tolist() == [math.inf, math.inf]
    positive = chain_conditions([matrix([1, 2], [3, 1])])
    assert positive.spread.tolist() == pytest.approx([6])
    assert positive.positive_rate == pytest.approx(1 / 12)
    assert chain_conditions([matrix([1, 0], [0, 1])]).rate == 0


def test_a_single_column_has_no_angle():
    found = cone_convergence([matrix([1], [2])])
    assert found.measured.tolist() == pytest.approx([1, 0])
    assert found.proven.tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("matrices", [[], [torch.ones(3)], [torch.ones(3, 0)], [torch.ones(3, 2)] * 2])
def test_matrices_that_cannot_be_multiplied(matrices):
    with pytest.raises(ValueError, match=r"expected matrices \(a, b\), \(b, c\)"):
        chain_conditions(matrices)


@pytest.mark.parametrize("bad", [-1, 0, math.inf, math.nan])
def test_matrices_outside_the_theorem(bad):
    with pytest.raises(ValueError, match="expected finite non-negative matrices without a zero column"):
        cone_convergence([matrix([1, bad])])
