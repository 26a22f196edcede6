"""Bootstrap intervals."""

import math

import numpy as np
import pytest

from veridical.metrics import bootstrap_interval


def test_covers_the_mean_like_the_normal_interval():
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_interval(values, "mean", level=0.95)
    half = 1.96 * values.std() / 20
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)
    assert interval.n == 400


def test_same_seed_same_interval_and_global_state_untouched():
    values = np.random.default_rng(0).normal(size=30)
    before = np.random.get_state()[1].copy()
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, "mean", seed=3) != bootstrap_interval(values, "mean", seed=4)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_nan_is_not_counted():
    interval = bootstrap_interval([1.0, math.nan, 2.0, 3.0])
    assert (interval.estimate, interval.n) == (2.0, 3)
    nothing = bootstrap_interval([math.nan])
    assert math.isnan(nothing.estimate) and math.isnan(nothing.low) and nothing.n == 0
    assert bootstrap_interval([0.5]) == (0.5, 0.5, 0.5, 1)


def test_many_values_in_chunks_agree_with_few_resamples():
    interval = bootstrap_interval(np.linspace(0, 1, 100_001), resamples=50)
    assert interval.low <= 0.5 <= interval.high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "mode"}, "'mode'"),
        ({"level": 99}, "between 0 and 1"),
        ({"resamples": 0}, "at least one resample"),
        ({"values": [[1.0]]}, "one value per image"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**({"values": [1.0]} | options))


def test_infinite_values_have_an_infinite_interval_without_a_warning():
    assert bootstrap_interval([np.inf, np.inf]) == (np.inf, np.inf, np.inf, 2)
    mixed = bootstrap_interval([1.0, 2.0, 3.0, np.inf, np.inf])
    assert mixed.estimate == 3.0 and mixed.low == 1.0 and mixed.high == np.inf
