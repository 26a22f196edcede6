"""From a photograph to a tensor and back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.models import Preprocessing

PLAIN = Preprocessing(resize=None, crop=None, mean=(0, 0, 0), std=(1, 1, 1))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_without_steps_the_tensor_is_the_image():
    image = picture(12, 9)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    assert torch.equal(PLAIN.apply(image), expected)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 47), (32, 32), (9, 200)])
def test_shape_and_type(size):
    result = Preprocessing(resize=32, crop=28).apply(picture(*size))
    assert result.shape == (3, 28, 28)
    assert result.dtype == torch.float32


def test_shorter_side_is_resized_and_the_proportion_kept():
    result = Preprocessing(resize=20, crop=None).apply(picture(40, 80))
    assert result.shape == (3, 40, 20)


def test_crop_is_the_center():
    values = np.zeros((10, 10, 3), dtype=np.uint8)
    values[3:7, 3:7] = 255
    result = Preprocessing(resize=None, crop=4, mean=(0, 0, 0), std=(1, 1, 1)).apply(Image.fromarray(values))
    assert torch.equal(result, torch.ones(3, 4, 4))


def test_gray():
    result = Preprocessing(resize=8, crop=8, mean=(0.5,), std=(0.5,), channels=1).apply(picture(20, 20))
    assert result.shape == (1, 8, 8)


def test_denormalize_undoes_normalize(generator):
    images = torch.rand(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    settings = Preprocessing()
    torch.testing.assert_close(settings.denormalize(settings.normalize(images)), images)


def test_denormalize_stays_in_the_shown_range(generator):
    inputs = 10 * torch.randn(2, 3, 5, 5, generator=generator)
    shown = Preprocessing().denormalize(inputs)
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_normalize_is_differentiable(generator):
    images = torch.rand(1, 3, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(Preprocessing().normalize, images)


def test_bounds_are_black_and_white():
    low, high = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1)).bounds()
    assert low.shape == high.shape == (3, 1, 1)
    torch.testing.assert_close(low.flatten(), torch.tensor([-1.0, -2.0, -3.0]))
    torch.testing.assert_close(high.flatten(), torch.tensor([1.0, 3.0, 7.0]))


def test_record_can_be_written_and_read_back():
    settings = Preprocessing(resize=None, mean=[0.1, 0.2, 0.3], interpolation="bicubic", source="me")
    assert Preprocessing(**json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 0}, "resize of at least 1 pixel, got 0"),
        ({"crop": -3}, "crop of at least 1 pixel, got -3"),
        ({"resize": 100, "crop": 224}, "crop <= resize, got crop 224 of resize 100"),
        ({"mean": (0.5,)}, "3 finite numbers as mean"),
        ({"std": (1.0, 1.0, float("nan"))}, "3 finite numbers as std"),
        ({"std": (1.0, 0.0, 1.0)}, "positive std"),
        ({"channels": 4}, "channels 1 or 3, got 4"),
        (
            {"interpolation": "cubic"},
            "expected interpolation nearest, bilinear, bicubic, lanczos, got 'cubic'",
        ),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**options)


def test_image_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match="at least 224 pixels a side, got 20 x 30; set resize"):
        Preprocessing(resize=None).apply(picture(20, 30))


@pytest.mark.parametrize("shape", [(2, 1, 5, 5), (3, 5), (5,)])
def test_wrong_channels_are_refused(shape):
    with pytest.raises(ValueError, match="third dimension from the end"):
        Preprocessing().normalize(torch.zeros(shape))


@pytest.mark.peer
@pytest.mark.parametrize("size", [(301, 257), (256, 300), (97, 143), (640, 427)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_parity_with_torchvision(size, interpolation, torchvision_models):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    theirs = ImageClassification(
        crop_size=56, resize_size=64, interpolation=InterpolationMode(interpolation), antialias=True
    )
    ours = Preprocessing(resize=64, crop=56, interpolation=interpolation)
    image = picture(*size)
    torch.testing.assert_close(ours.apply(image), theirs(image), rtol=0, atol=1e-6)
