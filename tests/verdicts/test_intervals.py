"""Intervals of medians: closed forms against drawing, coverage against truth, Holm against its own text."""

import math

import numpy as np
import pytest
from scipy.stats import t

from veridical.metrics import bootstrap_interval
from veridical.metrics import share_interval as tensor_share_interval
from veridical.verdicts.intervals import (
    difference_interval,
    holm_level,
    least_for_width,
    least_images,
    median_interval,
    share_interval,
    student_width,
)


@pytest.mark.parametrize("n", [1, 3, 5, 9, 25])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_the_bootstrap_is_the_limit_of_drawing(n, level):
    values = np.random.default_rng(n).normal(size=n)
    ends = median_interval(values, level, "bootstrap")
    drawn = bootstrap_interval(values, level=level, resamples=40_000)
    ordered = np.sort(values)
    for here, there in zip(ends, (drawn.low, drawn.high), strict=True):
        # Drawing may end on the next order statistic, or between the two.
        place = int(np.searchsorted(ordered, here))
        assert ordered[max(0, place - 1)] <= there <= ordered[min(n - 1, place + 1)]


def test_of_an_even_number_it_reaches_from_the_lower_to_the_upper_middle():
    values = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    assert median_interval(values, 0.5, "bootstrap") == (0.0, 1.0)


@pytest.mark.parametrize(("n", "level", "rank"), [(8, 0.99, 1), (8, 0.9, 2), (20, 0.95, 6), (7, 0.99, 0)])
def test_the_exact_interval_is_the_one_of_the_tables(n, level, rank):
    values = np.arange(1.0, n + 1)
    expected = (rank, n + 1 - rank) if rank else (-math.inf, math.inf)
    assert median_interval(values, level, "exact") == expected


@pytest.mark.parametrize("kind", ["bootstrap", "exact"])
def test_an_interval_turns_with_its_values_and_grows_with_the_level(kind):
    values = np.random.default_rng(0).exponential(size=30)
    narrow, wide = (median_interval(values, level, kind) for level in (0.9, 0.9999))
    assert wide.low <= narrow.low <= np.median(values) <= narrow.high <= wide.high
    assert median_interval(-values, 0.9, kind) == (-narrow.high, -narrow.low)


def test_nothing_and_infinity_are_no_trap():
    assert all(math.isnan(end) for end in median_interval(np.array([]), 0.9, "exact"))
    assert median_interval(np.array([1.0, math.inf, 2.0]), 0.9, "bootstrap") == (1.0, math.inf)
    assert all(math.isnan(end) for end in difference_interval(np.array([1.0, math.inf]), np.ones(9), 0.9))
    assert all(math.isnan(end) for end in difference_interval(np.ones(9), np.array([]), 0.9))


@pytest.mark.parametrize(("level", "n"), [(0.5, 2), (0.75, 3), (0.99, 8), (1 - 0.01 / 36, 13)])
def test_the_least_number_of_images_is_the_first_with_finite_ends(level, n):
    assert least_images(level) == n
    assert math.isfinite(median_interval(np.arange(float(n)), level, "exact").low)
    assert math.isinf(median_interval(np.arange(n - 1.0), level, "exact").low)


def covered(truth, intervals):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("n", [8, 9, 13, 24, 60, 200])
@pytest.mark.parametrize("level", [0.9, 0.99, 1 - 0.01 / 36])
def test_the_exact_interval_keeps_its_level(n, level):
    low, high = median_interval(np.arange(1.0, n + 1), level, "exact")
    assert kept(low, n) >= level if math.isfinite(low) else n < least_images(level)


def test_the_bootstrap_does_not_keep_high_levels_with_few_images():
    low, _ = median_interval(np.arange(1.0, 14), 0.999, "bootstrap")
    assert low == 2 and kept(low, 13) == pytest.approx(0.9966, abs=1e-4)


def kept(rank, n):
    """The probability that the median lies between the rank-th value from below and from above."""
    return 1 - 2 * sum(math.comb(n, below) for below in range(int(rank))) / 2**n


def test_the_difference_of_two_medians_covers():
    generator = np.random.default_rng(2)
    found = [
        difference_interval(generator.exponential(size=12), 1 + generator.exponential(size=15), 0.9)
        for _ in range(400)
    ]
    assert covered(1.0, found) >= 0.9 - 0.03
    assert np.median([high - low for low, high in found]) < 3


def test_a_difference_turns_around_with_its_sides():
    generator = np.random.default_rng(3)
    one, two = generator.normal(size=11), generator.normal(size=14)
    there, back = difference_interval(one, two, 0.9), difference_interval(two, one, 0.9)
    assert there == (-back.high, -back.low)
    assert math.isinf(difference_interval(one[:2], two, 0.99).low)


def stepped_down(p_values, alpha):
    """Holm's procedure as its paper has it: the number of rejected hypotheses."""
    for place, p in enumerate(sorted(p_values)):
        if p > alpha / (len(p_values) - place):
            return place
    return len(p_values)


@pytest.mark.parametrize("seed", range(40))
def test_the_level_decides_what_holm_rejects(seed):
    generator = np.random.default_rng(seed)
    p_values = generator.uniform(size=12) ** generator.integers(1, 8)
    level = holm_level(0.9, 12, lambda each: int(np.sum(p_values <= 1 - each)))
    assert np.sum(p_values <= 1 - level) == stepped_down(p_values, 0.1)


def test_with_nothing_decided_the_level_is_that_of_all_and_with_all_that_of_one():
    assert holm_level(0.99, 4, lambda _: 0) == pytest.approx(1 - 0.01 / 4)
    assert holm_level(0.99, 4, lambda _: 4) == pytest.approx(0.99)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 8), (40, 90)])
def test_the_interval_of_a_share_is_the_one_that_audits_store(hits, n):
    values = np.array([1.0] * hits + [0.0] * (n - hits))
    stored = tensor_share_interval(values, level=0.97)
    assert share_interval(values, 0.97) == pytest.approx((stored.low, stored.high), abs=1e-12)


@pytest.mark.parametrize("level", [0.9, 0.99, 0.9999])
def test_students_width_is_that_of_his_interval(level):
    values = np.array([0.3, 0.5, 0.4, 0.9])
    low, high = t.interval(level, 3, values.mean(), values.std(ddof=1) / 2)
    assert student_width(level, 4) * values.std(ddof=1) == pytest.approx((high - low) / 2)
    assert math.isnan(student_width(level, 1))


@pytest.mark.parametrize(("level", "n"), [(0.9, 2), (0.99, 3), (0.9999, 5)])
@pytest.mark.parametrize("ratio", [0.9, 0.3, 0.01])
def test_the_number_of_trainings_is_the_least(level, n, ratio):
    wanted = ratio * student_width(level, n)
    found = least_for_width(level, n, ratio, 10**9)
    assert student_width(level, found) <= wanted < student_width(level, found - 1)
    assert least_for_width(level, n, ratio, found) == found
    assert least_for_width(level, n, ratio, found - 1) is None
    assert least_for_width(level, n, 0.0, 10**6) is None
