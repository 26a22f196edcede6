import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from veridical.attacks import FORMATS, ManipulationSettings, manipulate, stored, survival
from veridical.attacks.storage import encode_png, levels

LOW, HIGH = (-2.0, -1.0, 0.0), (2.0, 3.0, 1.0)
LIMITS = tuple(torch.tensor(side, dtype=torch.float64).reshape(1, 3, 1, 1) for side in (LOW, HIGH))


def smooth_images(count=2):
    """Images within the limits, without the high frequencies that JPEG throws away."""
    grid = torch.linspace(0, 1, 16, dtype=torch.float64)
    unit = torch.stack([(grid[:, None] + (index + 1) * grid) / 4 for index in range(3 * count)])
    return LIMITS[0] + unit.reshape(count, 3, 16, 16).clamp(0, 1) * (LIMITS[1] - LIMITS[0])


def unit(images):
    return (images - LIMITS[0]) / (LIMITS[1] - LIMITS[0])


@pytest.mark.parametrize(("name", "steps"), [("png-8", 255), ("png-16", 65535)])
def test_rounding_is_to_the_nearest_level(name, steps):
    images = smooth_images()
    found = unit(stored(images, LIMITS, name))
    assert float((found - unit(images)).abs().max()) <= 0.5 / steps + 1e-12
    assert torch.allclose(found * steps, (found * steps).round(), atol=1e-9)
    assert torch.allclose(stored(stored(images, LIMITS, name), LIMITS, name), stored(images, LIMITS, name))


def test_black_and_white_are_kept_and_what_lies_beyond_is_cut():
    images = torch.cat([LIMITS[0] - 0.01, LIMITS[1] + 0.01]).expand(2, 3, 16, 16)
    for name in ("png-8", "png-16"):
        found = stored(images, LIMITS, name)
        assert torch.allclose(found, torch.cat(LIMITS).expand(2, 3, 16, 16))


def test_jpeg_is_what_pillow_writes():
    images = smooth_images()
    for quality in (95, 75):
        found = unit(stored(images, LIMITS, f"jpeg-{quality}"))
        for index in range(2):
            pixels = (unit(images)[index] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "JPEG", quality=quality, subsampling=2)
            expected = np.asarray(Image.open(content))
            assert np.array_equal((found[index] * 255).round().permute(1, 2, 0).numpy(), expected)
    coarse, fine = (unit(stored(images, LIMITS, f"jpeg-{q}")) - unit(images) for q in (75, 95))
    assert 0 < float(fine.square().mean()) < float(coarse.square().mean()) < 1e-3


def test_gray_images_can_be_stored_and_five_channels_cannot():
    gray = smooth_images()[:, :1]
    limits = (LIMITS[0][:, :1], LIMITS[1][:, :1])
    for name in FORMATS:
        found = stored(gray.float(), tuple(side.float() for side in limits), name)
        assert found.shape == gray.shape and found.dtype == torch.float32
    five = torch.zeros(1, 5, 16, 16)
    bounds = (torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert stored(five, bounds, "png-8").shape == five.shape
    with pytest.raises(ValueError, match="1 or 3 channels for a picture file, got 5"):
        stored(five, bounds, "jpeg-75")
    with pytest.raises(ValueError, match="expected format to be one of png-16, png-8"):
        stored(five, bounds, "gif")


def test_a_png_holds_the_levels():
    image = unit(smooth_images())[0]
    small = np.asarray(Image.open(io.BytesIO(encode_png(image))))
    assert np.array_equal(small, levels(image, 8).astype(np.uint8))
    gray = np.asarray(Image.open(io.BytesIO(encode_png(image[:1], bits=16))))
    assert np.array_equal(gray, levels(image[:1], 16)[..., 0])
    with Image.open(io.BytesIO(encode_png(image, bits=16))) as wide:
        wide.verify()
    # Pillow reads color with 16 bits as its upper 8.
    read = np.asarray(Image.open(io.BytesIO(encode_png(image, bits=16))))
    assert np.array_equal(read, (levels(image, 16) >> 8).astype(np.uint8))
    with pytest.raises(ValueError, match="expected 8 or 16 bits, got 4"):
        encode_png(image, bits=4)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        encode_png(image[:2])


def test_another_reader_finds_all_16_bits():
    reader = pytest.importorskip("cv2")
    image = unit(smooth_images())[0]
    content = np.frombuffer(encode_png(image, bits=16), dtype=np.uint8)
    read = reader.imdecode(content, reader.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16 and np.array_equal(read[..., ::-1], levels(image, 16))


def square(model, inputs, target=None):
    """Relevance that depends on every value of the image, differentiable."""
    return inputs**2


def attacked():
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 4).double()).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 30
    clean = smooth_images()
    goal = torch.rand(2, 16, 16, generator=generator, dtype=torch.float64)
    settings = ManipulationSettings(
        steps=20, lr=0.02, factors=(1e6, 1.0), rescale=False, bounds=(LOW, HIGH), every=5, smoothing="off"
    )
    return model, clean, manipulate(model, clean, goal, explainer=square, settings=settings)


def test_an_attack_is_measured_again_on_what_is_read():
    model, clean, attack = attacked()
    before = [parameter.clone() for parameter in model.parameters()]
    found = {name: survival(model, clean, attack, square, LIMITS, name) for name in FORMATS}
    fine, coarse = found["png-16"], found["jpeg-75"]
    assert torch.allclose(fine.similarity.to_target.pcc, attack.similarity.to_target.pcc, atol=1e-3)
    assert bool((coarse.similarity.to_target.pcc < attack.similarity.to_target.pcc - 0.01).all())
    for name, one in found.items():
        maps = (one.inputs**2).sum(1)
        assert torch.allclose(one.saliency, maps / maps.sum((1, 2), keepdim=True))
        assert torch.equal(one.inputs, stored(attack.inputs, LIMITS, name)) and one.format == name
        assert torch.allclose(one.image_change.linf, (unit(one.inputs) - unit(clean)).abs().amax((1, 2, 3)))
        shift = model(one.inputs) - model(clean)
        assert torch.allclose(one.output_change.logits, shift)
        assert one.similarity.before is attack.similarity.before
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_control_is_the_clean_image_stored_in_the_same_way():
    model, clean, attack = attacked()
    for name in FORMATS:
        control = survival(model, clean, attack, square, LIMITS, name).control
        maps = (stored(clean, LIMITS, name) ** 2).sum(1)
        expected = maps / maps.sum((1, 2), keepdim=True)
        error = (expected - attack.original_saliency).square().mean((1, 2))
        assert torch.allclose(control.mse, error) and bool((control.pcc > 0.9).all())


def test_one_image_gives_what_it_gives_in_a_batch():
    model, clean, attack = attacked()
    whole = survival(model, clean, attack, square, LIMITS, "jpeg-95")
    read = stored(attack.inputs[1:], LIMITS, "jpeg-95")
    assert torch.equal(read[0], whole.inputs[1])
    assert not math.isnan(float(whole.similarity.to_target.ssim[1]))
