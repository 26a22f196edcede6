"""What a color means: zero is white, the limits are symmetric, clipping is at the stated percentile."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from veridical.report import pictures, words
from veridical.report.curves import Axis, Curve, curve_picture


def pixels(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB")).astype(
        int
    )


def test_zero_is_neutral_and_the_limits_are_symmetric():
    found = pixels(pictures.map_tile(np.array([[-2.0, 0.0, 2.0]], np.float32), limit=1.0, signed=True))[0]
    assert np.ptp(found[1]) <= 2 and found[1].min() > 240
    assert found[0][2] > found[0][0] and found[2][0] > found[2][2]


def test_a_map_and_its_negative_have_mirrored_colors():
    relevance = np.random.default_rng(0).standard_normal((9, 9)).astype(np.float32)
    bar = pixels(pictures.colorbar(signed=True))[0][::4]
    levels = {tuple(color): place for place, color in enumerate(bar)}
    one, other = (pixels(pictures.map_tile(part, limit=2.0, signed=True)) for part in (relevance, -relevance))
    total = [
        levels[tuple(a)] + levels[tuple(b)]
        for a, b in zip(one.reshape(-1, 3), other.reshape(-1, 3), strict=True)
    ]
    assert set(total) == {pictures.LEVELS - 1}


def test_a_non_negative_map_grows_brighter():
    ramp = np.linspace(0, 1, 20, dtype=np.float32)[None]
    light = pixels(pictures.map_tile(ramp, limit=1.0, signed=False))[0].sum(-1)
    assert (np.diff(light) >= 0).all()


def test_the_scale_is_a_percentile_and_ignores_what_is_not_finite():
    values = np.arange(1, 1002, dtype=np.float32)
    assert pictures.scale(values) == pytest.approx(996.0)
    assert pictures.scale(np.append(values, np.nan)) == pytest.approx(996.0)
    assert np.isnan(pictures.scale(np.full(3, np.nan)))
    assert pictures.scale(np.eye(400, dtype=np.float32)[:1]) == 1.0


@pytest.mark.parametrize("relevance", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
@pytest.mark.parametrize("signed", [True, False])
def test_flat_and_unmeasured_maps_have_a_picture(relevance, signed):
    own = pictures.scale(relevance)
    assert pixels(pictures.map_tile(relevance.astype(np.float32), limit=own, signed=signed)).shape == (
        4,
        4,
        3,
    )


def test_large_maps_are_averaged_down():
    assert pixels(pictures.map_tile(np.ones((320, 160), np.float32), limit=1.0, signed=False)).shape == (
        160,
        80,
        3,
    )
    assert pixels(pictures.photo(np.ones((3, 320, 160), np.float32))).shape == (160, 80, 3)
    assert pixels(pictures.photo(np.ones((1, 8, 8), np.float32))).min() > 250


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.5, 1), (0.1, 5), (0.04, 10), (0.001, 500), (0.0, 1), (2.0, 0.2)]
)
def test_the_amplification_is_round_and_does_not_saturate(largest, factor):
    assert pictures.amplification(np.array([0.0, -largest])) == pytest.approx(factor)


def test_no_change_is_gray():
    assert np.abs(pixels(pictures.amplified(np.zeros((3, 8, 8), np.float32), 10.0)) - 128).max() <= 2


@pytest.mark.parametrize("values", [[0.1, 0.5, 0.9], [0.0, float("nan"), 1.0], [float("nan")] * 3])
@pytest.mark.parametrize("log", [True, False])
def test_a_curve_is_the_same_twice(values, log):
    curve, axis = Curve(["a", "b", "c" * 40], values, values, values, [0.1] * 3), Axis("y", log=log)
    assert curve_picture(curve, axis) == curve_picture(curve, axis)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1"), (-0.5, "−0.5"), (0.99999, "0.99999"), (1234.5, "1,234"),
        (None, "not measured"), (3.2e-4, "3.2 × 10⁻⁴"), (5e9, "5.0 × 10⁹"), (12.34, "12.3"),
        (math.inf, "∞"), (-math.inf, "−∞"),
    ],
)  # fmt: skip
def test_numbers_in_words(value, text):
    assert words.number(value) == text


def test_limits_and_statistics_in_words():
    assert words.limit("fails above", 0.9) == "below 0.9"
    assert words.limit("fails below", 0.5) == "above 0.5"
    assert words.limit("fails above", float("nan")) == ""
    assert words.statistic("median_linf") == "median largest pixel change (of 1)"
    assert words.statistic("some_thing") == "some thing"
    assert words.explain_test("new-test", "What it does.").what == "What it does."
