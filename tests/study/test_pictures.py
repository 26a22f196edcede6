import io

import numpy as np
import pytest
from PIL import Image

from veridical.study.pictures import SIDE, image_png, letter_map, limit, map_png, noise_map, unit


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_colors_go_from_blue_through_white_to_red_and_are_clipped():
    found = pixels(map_png(np.array([[-2.0, -0.5], [0.0, 1.0]]), 1.0))
    half = SIDE // 2
    assert found.shape == (SIDE, SIDE, 3)
    assert found[0, 0].tolist() == [0, 0, 255] and found[0, half].tolist() == [128, 128, 255]
    assert found[half, 0].tolist() == [255, 255, 255] and found[half, half].tolist() == [255, 0, 0]
    assert (found[:half, :half] == found[0, 0]).all()  # blocks, no blur


def test_images_keep_their_colors():
    color = np.zeros((3, 2, 2))
    color[1] = 1
    assert pixels(image_png(color))[0, 0].tolist() == [0, 255, 0]
    gray = np.full((1, 2, 2), 51, np.uint8)
    assert pixels(image_png(gray))[0, 0].tolist() == [51, 51, 51]


def test_maps_are_divided_by_their_norm_and_summed():
    found = unit(np.stack([np.full((2, 2), 1e200), np.full((2, 2), -3e200)]))
    np.testing.assert_allclose(found, -2 / np.sqrt(40))
    with pytest.raises(ValueError, match="other than 0"):
        unit(np.zeros((1, 2, 2)))


def test_the_limit_is_the_pooled_quantile():
    first, second = np.arange(100.0).reshape(10, 10), -10 * np.arange(100.0).reshape(10, 10)
    pooled = np.concatenate([first.ravel(), -second.ravel()])
    assert limit([first, second], 0.995) == np.quantile(pooled, 0.995)
    sparse = np.zeros((10, 20))
    sparse[0, 0] = 3
    assert limit([sparse], 0.99) == 3


def test_the_letter_stands_out_of_the_noise():
    difference = letter_map() != noise_map()
    assert 0.1 < difference.mean() < 0.4 and difference[8:24, 8:24].any() and not difference[0].any()
