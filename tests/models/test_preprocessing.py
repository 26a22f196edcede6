"""From a photograph to a tensor and back."""

import json
from dataclasses import replace

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


def test_sizes_that_are_not_square():
    image = picture(40, 30)
    squashed = Preprocessing(resize=(10, 16), crop=None).apply(image)
    assert squashed.shape == (3, 10, 16)
    assert Preprocessing(resize=(10, 16), crop=(8, 12)).apply(image).shape == (3, 8, 12)
    assert Preprocessing(resize=20, crop=(20, 24)).apply(image).shape == (3, 20, 24)
    expected = torch.from_numpy(np.array(image.resize((16, 10), Image.Resampling.BILINEAR)))
    torch.testing.assert_close(Preprocessing().denormalize(squashed) * 255, expected.permute(2, 0, 1).float())
    sizes = [Preprocessing(*one).input_size for one in ((8, 4), (None, (2, 3)), ((4, 6), None), (8, None))]
    assert sizes == [(4, 4), (2, 3), (4, 6), None]


@pytest.mark.parametrize("settings", [Preprocessing(32, 28), Preprocessing((30, 20), 18), PLAIN])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_tensors_are_prepared_as_photographs_are(settings, interpolation):
    image = (
        picture(50, 40).resize((25, 20), Image.Resampling.BICUBIC).resize((50, 40), Image.Resampling.BICUBIC)
    )
    settings = replace(settings, interpolation=interpolation)
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    difference = (settings.apply(values) - settings.apply(image)).abs().mean()
    assert difference < (0.2 if interpolation == "nearest" else 0.01)  # Pillow rounds to 8 bits


def test_many_channels():
    settings = Preprocessing(8, 6, (0.5,) * 5, (0.5,) * 5, channels=5)
    assert settings.apply(torch.rand(5, 20, 30)).shape == (5, 6, 6)
    with pytest.raises(ValueError, match="photographs for a network of 1 or 3 channels, got one of 5"):
        settings.apply(picture(20, 20))
    for wrong in (torch.rand(4, 20, 20), torch.rand(20, 20), torch.zeros(5, 20, 20, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"floating point image \(5, height, width\)"):
            settings.apply(wrong)


def test_unscaled_keeps_the_sizes():
    image = picture(20, 20)
    raw = Preprocessing(10, 8).unscaled()
    assert raw.apply(image).min() >= 0 and raw.apply(image).max() <= 1
    torch.testing.assert_close(
        Preprocessing(10, 8).normalize(raw.apply(image)), Preprocessing(10, 8).apply(image)
    )


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
        ({"channels": 0, "mean": (), "std": ()}, "at least 1 channel, got 0"),
        ({"resize": (4, 0)}, r"resize of at least 1 pixel, got \(4, 0\); one number"),
        ({"crop": (4, 4, 4)}, "crop of at least 1 pixel"),
        ({"resize": (10, 20), "crop": (20, 10)}, "crop <= resize"),
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
    with pytest.raises(ValueError, match="at least 224 x 224 pixels, got 20 x 30; set resize"):
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
