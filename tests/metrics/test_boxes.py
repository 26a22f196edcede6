"""Box statistics and the interval of a share."""

import math

import numpy as np
import pytest
import torch

from veridical.metrics import Box, bootstrap_interval, box, share_interval


def test_quantiles_in_closed_form():
    found = box([7.0, 3.0, 0.0, 10.0, 1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 8.0])
    assert (found.q10, found.q25, found.median, found.q75, found.q90) == (1.0, 2.5, 5.0, 7.5, 9.0)
    assert (found.mean, found.n, found.missing) == (5.0, 11, 0)
    assert found.low <= found.median <= found.high


def test_the_interval_is_that_of_the_bootstrap():
    values = np.random.default_rng(2).normal(size=40)
    found = box(values, level=0.9, resamples=500, seed=3)
    expected = bootstrap_interval(values, level=0.9, resamples=500, seed=3)
    assert (found.median, found.low, found.high) == expected[:3]
    assert (found.level, found.resamples, found.seed) == (0.9, 500, 3)


def test_nan_is_counted_and_left_out():
    with_nan, without = box([1.0, math.nan, 3.0, math.nan, 2.0]), box([1.0, 3.0, 2.0])
    assert (with_nan.n, with_nan.missing) == (3, 2)
    for name in ("median", "q25", "q75", "q10", "q90", "mean", "low", "high"):
        assert getattr(with_nan, name) == getattr(without, name)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_nothing_measured_is_nan(values):
    found = box(values)
    assert found.n == 0 and found.missing == len(values)
    assert all(math.isnan(getattr(found, n)) for n in ("median", "q10", "q25", "q75", "q90", "mean", "low"))


def test_infinite_values_are_ordered_not_interpolated():
    found = box([math.inf, math.inf, 40.0, 50.0, 60.0])
    assert (found.q10, found.q25, found.median, found.q90) == (40.0, 50.0, 60.0, math.inf)
    assert found.mean == math.inf


def test_tensors_and_flags():
    kept = torch.tensor([True, True, False, True])
    assert box(kept).mean == 0.75
    values = torch.arange(4.0, requires_grad=True)
    assert box(values).median == 1.5


def test_a_box_is_a_readable_value_and_a_record():
    found = box([1.0, 2.0], resamples=10)
    assert found == box([1.0, 2.0], resamples=10) and hash(found)
    assert Box(**found.record()) == found
    assert "object at" not in repr(found)


@pytest.mark.parametrize("options", [{"level": 1.0}, {"resamples": 0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="expected"):
        box([1.0], **options)


def test_one_value_per_image():
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        box(torch.zeros(2, 2))


def test_share_of_wilson():
    # 8 of 10 at 95 %, as in tables of the score interval.
    found = share_interval([1.0] * 8 + [0.0] * 2, level=0.95)
    assert found == pytest.approx((0.8, 0.4902, 0.9433, 10), abs=5e-5)


def test_a_share_of_all_has_a_width():
    z = 1.959964
    low = 10 / (10 + z**2)
    assert share_interval([True] * 10, level=0.95) == pytest.approx((1.0, low, 1.0, 10), abs=1e-6)
    assert share_interval([False] * 10, level=0.95) == pytest.approx((0.0, 0.0, 1 - low, 10), abs=1e-6)


def test_share_leaves_out_what_was_not_measured():
    assert share_interval([1.0, math.nan, 0.0]) == share_interval([1.0, 0.0])
    nothing = share_interval([math.nan])
    assert nothing.n == 0 and math.isnan(nothing.estimate)


def test_share_refuses_other_values():
    with pytest.raises(ValueError, match="0 and 1, got 0.5"):
        share_interval([0.5, 0.0])
    with pytest.raises(ValueError, match="level"):
        share_interval([1.0], level=0.0)
