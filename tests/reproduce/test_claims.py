"""A verdict follows from the interval, never from the point alone."""

import math

import numpy as np
import pytest

from veridical.metrics import Interval
from veridical.reproduce.claims import ABOVE_0, Claim, Expected, Stated, count_verdicts, least_cases

NAN = math.nan


def claim(low, high, expected=ABOVE_0, n=50, level=0.99, measured=None):
    middle = (low + high) / 2 if measured is None else measured
    return Claim("s", "source", "paper", "statistic", expected, middle, low, high, n, "images", level)


def stated(expected=ABOVE_0):
    return Stated("s", "source", "paper", expected)


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (0.1, 0.5, ABOVE_0, "holds"),
        (-0.1, 0.5, ABOVE_0, "not decided"),
        (-0.5, -0.1, ABOVE_0, "does not hold"),
        (0.0, 0.5, ABOVE_0, "not decided"),  # greater than: the end itself is no proof
        (0.0, 0.0, ABOVE_0, "does not hold"),
        (0.99, 1.0, Expected(low=0.99), "holds"),
        (0.98, 1.0, Expected(low=0.99), "not decided"),
        (0.5, 0.98, Expected(low=0.99), "does not hold"),
        (0.5, 0.7, Expected(0.4, 0.8), "holds"),
        (0.3, 0.7, Expected(0.4, 0.8), "not decided"),
        (0.85, 0.9, Expected(0.4, 0.8), "does not hold"),
        (0.1, 0.9, Expected(0.4, 0.8), "not decided"),
    ],
)
def test_the_interval_decides(low, high, expected, verdict):
    assert claim(low, high, expected).verdict == verdict


@pytest.mark.parametrize("broken", [{"low": NAN}, {"high": NAN}, {"measured": NAN}, {"n": 0}])
def test_nothing_is_decided_by_what_was_not_measured(broken):
    assert claim(**{"low": 1.0, "high": 2.0, "measured": 1.5, **broken}).verdict == "not decided"


@pytest.mark.parametrize(("level", "least"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_too_few_cases_decide_nothing(level, least):
    assert least_cases(level) == least
    assert 1 - 2 ** (1 - least) >= level > 1 - 2 ** (2 - least)
    few, enough = (stated().by(np.ones(n), "x", level) for n in (least - 1, least))
    assert few.verdict == "not decided" and f"need {least} images" in few.note
    assert enough.verdict == "holds" and enough.note == ""


def test_one_case_refutes_a_claim_about_every_case():
    most = stated(Expected(high=1.0))
    assert most.by_every([0.2, 0.9, 1.0], "x").verdict == "holds"
    refuted = most.by_every([0.2, 1.1, 0.3], "x")
    assert refuted.verdict == "does not hold" and refuted.measured == 1.1 and refuted.n == 3
    assert most.by_every([0.2, NAN], "x").verdict == "not decided"
    assert most.by_every([], "x").verdict == "not decided"
    assert stated(Expected(low=1.0)).by_every([1.0, 0.0], "x").measured == 0.0


def test_shares_have_an_interval_though_all_agree():
    found = stated(Expected(low=0.5, strict=True)).by_share(np.ones(5), "x", 0.9)
    assert found.verdict == "holds" and found.low < 1 and found.n == 5
    nearly_all = stated(Expected(low=0.9)).by_share(np.ones(5), "x", 0.9)
    assert nearly_all.verdict == "not decided"


def test_infinite_values_are_not_measured():
    found = stated().by([1.0, math.inf, NAN, 2.0, 3.0], "x", 0.9)
    assert found.n == 3 and found.verdict == "not decided"


def test_an_interval_that_is_there_already():
    assert stated().by_interval(Interval(2.0, 1.0, 3.0, 9), "x", 0.99).verdict == "holds"


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (ABOVE_0, "above 0"),
        (Expected(low=0.99), "at least 0.99"),
        (Expected(high=0.01), "at most 0.01"),
        (Expected(high=0.01, strict=True), "below 0.01"),
        (Expected(0.4, 0.8), "0.4 to 0.8"),
    ],
)
def test_what_is_expected_reads_well(expected, words):
    assert str(expected) == words


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"expected low <= high, got 2 and 1; swap"):
        Expected(2, 1)


def test_verdicts_are_counted_and_recorded():
    several = [claim(1, 2), claim(-2, -1), claim(-1, 1), claim(1, 2)]
    assert count_verdicts(several) == {"holds": 2, "does not hold": 1, "not decided": 1}
    assert several[1].record()["verdict"] == "does not hold"
    assert several[1].record()["expected"]["low"] == 0.0
