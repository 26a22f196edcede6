"""Denormal numbers are flushed where it is asked for, and only there; quotients of any sign and size."""

import math

import pytest
import torch

from networks import Sequential, images, seeded
from veridical.attributions import method
from veridical.tensors import flushed_denormals, safe_divide


def flushes() -> bool:
    return bool(torch.tensor(2.0**-126, dtype=torch.float32) * 0.5 == 0)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_inside_and_as_before_afterwards(before: bool) -> None:
    torch.set_flush_denormal(before)
    try:
        with flushed_denormals():
            assert flushes()
        assert flushes() is before
        with pytest.raises(KeyboardInterrupt), flushed_denormals():
            raise KeyboardInterrupt
        assert flushes() is before
    finally:
        torch.set_flush_denormal(False)


SMALL = torch.finfo(torch.float32).tiny


def test_quotients_are_exact_and_zero_where_the_denominator_is_imprecise() -> None:
    generator = torch.Generator().manual_seed(0)
    numerator = torch.randn(3, 64, generator=generator)
    denominator = torch.randn(64, generator=generator) * 10.0 ** torch.arange(-20, 12).repeat(2)
    assert torch.equal(safe_divide(numerator, denominator), numerator / denominator)
    dead = torch.tensor([0.0, -0.0, SMALL, -SMALL, 1e-32, -1e-32])
    assert (safe_divide(torch.ones(6), dead) == 0).all()
    special = safe_divide(torch.ones(3), torch.tensor([math.inf, -math.inf, math.nan]))
    assert special[:2].eq(0).all() and special[2].isnan()


def test_quotients_have_their_derivatives_and_none_at_dead_sums() -> None:
    numerator = torch.tensor([2.0, -3.0, 5.0, 7.0], dtype=torch.float64, requires_grad=True)
    denominator = torch.tensor([4.0, -0.5, 0.0, 1e-320], dtype=torch.float64, requires_grad=True)
    by = torch.autograd.grad(
        safe_divide(numerator, denominator).sum(), (numerator, denominator), create_graph=True
    )
    assert by[0].tolist() == [0.25, -2.0, 0.0, 0.0]
    assert by[1].tolist() == [-2.0 / 16, 3.0 / 0.25, 0.0, 0.0]
    assert torch.autograd.grad(by[1].sum(), denominator)[0].tolist() == [4.0 / 64, -6.0 / -0.125, 0.0, 0.0]


def test_an_epsilon_moves_denominators_away_from_zero_and_zeros_up() -> None:
    found = safe_divide(torch.ones(4), torch.tensor([0.75, -0.75, 0.0, -0.0]), 0.25)
    assert found.tolist() == [1.0, -1.0, 4.0, 4.0]


def test_half_precision_keeps_ordinary_denominators() -> None:
    numerator = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float16)
    denominator = torch.tensor([0.05, 2.0, 0.0, -0.01], dtype=torch.float16)
    found = safe_divide(numerator, denominator)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.tensor([20.0, 0.5, 0.0, 100.0]).half(), rtol=2e-3, atol=0)


def test_relevance_in_half_precision_is_that_of_single_precision() -> None:
    x = images(3).float()
    for name in ("lrp-zplus", "deep-taylor", "excitation-backprop"):
        explain = method(name)
        whole = explain(seeded(Sequential).float(), x, 1)
        half = explain(seeded(Sequential).half(), x.half(), 1)
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), whole, rtol=0.02, atol=0.02 * float(whole.abs().max()))
