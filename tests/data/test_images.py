"""Image files of all kinds, broken ones included."""

import numpy as np
import pytest
from PIL import Image

from veridical.data import load_image

SIDE = 16


def pixels(seed: int = 0, *, channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE + 4, channels), dtype=np.uint8)
    return values.squeeze(-1) if channels == 1 else values


def test_rgb_is_read_as_it_is(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    image = load_image(str(tmp_path / "a.png"))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels())


def test_gray_is_repeated(tmp_path):
    gray = pixels(channels=1)
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), np.stack([gray] * 3, axis=-1))


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    values = np.linspace(0, 65535, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = np.asarray(load_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(image[..., 1], np.rint(values / 257))
    assert (image.min(), image.max()) == (0, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    clear = Image.new(mode, (SIDE, SIDE), 0)
    clear.save(tmp_path / "a.png")
    assert (np.asarray(load_image(tmp_path / "a.png")) == 255).all()


def test_half_transparent_black_is_gray(tmp_path):
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)).save(tmp_path / "a.png")
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "a.png")), 127, atol=1)


def test_transparent_color_of_a_palette(tmp_path):
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=1)
    image.save(tmp_path / "b.png")
    assert (np.asarray(load_image(tmp_path / "a.png")) == 255).all()
    assert np.asarray(load_image(tmp_path / "b.png"))[0, 0].tolist() == [0, 255, 0]


def test_transparent_gray_of_sixteen_bits_keeps_its_values(tmp_path):
    Image.fromarray(np.full((SIDE, SIDE), 257 * 100, dtype=np.uint16)).save(
        tmp_path / "a.png", transparency=0
    )
    assert (np.asarray(load_image(tmp_path / "a.png")) == 100).all()


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("1", "png"), ("YCbCr", "jpg"), ("L", "gif")])
def test_other_modes(tmp_path, mode, suffix):
    Image.fromarray(pixels()).convert(mode).save(tmp_path / f"a.{suffix}")
    image = load_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size) == ("RGB", (SIDE + 4, SIDE))


def test_rotation_of_the_camera(tmp_path):
    image = Image.fromarray(pixels())
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(pixels(), k=-1)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), expected)


def test_no_such_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected an image file, got .*a.png; there is no such file"
    ):
        load_image(tmp_path / "a.png")


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="not a regular file"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"this is text", "none that Pillow knows"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "truncated or damaged|none that Pillow knows"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "truncated or damaged|none that Pillow knows"),
    ],
)
def test_not_an_image(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "gif"])
def test_truncated_images_never_come_back(tmp_path, suffix):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    for share in (0.05, 0.3, 0.6, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="expected (a whole |an )image"):
            load_image(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_tiny_images_are_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"at least 8 pixels a side, got {size[0]} x {size[1]}"):
        load_image(tmp_path / "a.png")


def test_very_long_images_are_refused(tmp_path):
    Image.new("RGB", (8, 401)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="ratio of at most 50, got 8 x 401"):
        load_image(tmp_path / "a.png")


def test_large_images_are_refused_before_decoding(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    # Only the header is left: reading the pixels would be another error.
    (tmp_path / "a.png").write_bytes(content[:45])
    with pytest.raises(ValueError, match="at most 1000 pixels, got 40 x 30"):
        load_image(tmp_path / "a.png", max_pixels=1000)


def test_pillows_own_limit_is_reported_alike(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="expected at most 100000000 pixels"):
        load_image(tmp_path / "a.png")


def test_floating_point_images_are_refused(tmp_path):
    Image.new("F", (SIDE, SIDE), 0.5).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="floating point"):
        load_image(tmp_path / "a.tiff")


def test_integers_beyond_sixteen_bits_are_refused(tmp_path):
    Image.new("I", (SIDE, SIDE), 70000).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="from 0 to 65535, got 70000 to 70000"):
        load_image(tmp_path / "a.tiff")
