import io

import numpy as np
import pytest
from PIL import Image

from veridical.report import AttackPictures, attack_pictures


def shown(change=0.004, height=16, width=16, channels=3):
    generator = np.random.default_rng(0)
    clean = generator.uniform(0.2, 0.8, (channels, height, width)).astype(np.float32)
    manipulated = clean.copy()
    manipulated[0, 0, 0] += change
    maps = {name: generator.random((height, width)).astype(np.float32)
            for name in ("original", "target", "manipulated")}  # fmt: skip
    maps["target"] = np.zeros((height, width), dtype=np.float32)
    maps["target"][:4] = 2.0
    return AttackPictures(clean, manipulated, maps, "title", {"clean": "a cat"})


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_factor_and_the_scale_are_what_is_printed():
    found = shown(0.004)
    assert found.factor == 100.0  # the largest of 1, 2, 5 times a power of ten with a change of at most 0.5
    assert shown(0.0).factor == 1.0
    assert found.limit == pytest.approx(2.0)  # of the target, which is the brightest


def test_three_maps_share_one_scale():
    pictures = attack_pictures(shown())
    assert set(pictures) == {"figure.png", "map-original.png", "map-target.png", "map-manipulated.png"}
    target, original = opened(pictures["map-target.png"]), opened(pictures["map-original.png"])
    assert target.shape == original.shape == (16, 16, 3)
    assert target[0, 0].sum() > 600 and target[8, 8].sum() < 15  # magma: bright yellow, black
    assert original.sum(2).max() < target[0, 0].sum()  # at most 1 of 2: half way up
    assert pictures == attack_pictures(shown())


@pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 1), (40, 12, 3), (10, 60, 3)])
def test_gray_and_oblong_images_are_drawn(height, width, channels):
    figure = opened(attack_pictures(shown(height=height, width=width, channels=channels))["figure.png"])
    assert figure.ndim == 3 and figure.shape[1] > 1000 and figure.std() > 5


def test_maps_of_zeros_have_a_scale():
    found = shown()
    for values in found.maps.values():
        values[:] = 0.0
    assert found.limit == 1.0
    assert opened(attack_pictures(found)["map-target.png"]).sum() < 16 * 16 * 15
