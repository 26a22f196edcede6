import pytest
import torch
from torch import nn

from veridical.attacks import array_target, image_target, region_target, text_target, uniform_target

SENTENCE = "this explanation was manipulated"


def linear(inputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 3).double()).eval()


def times_class(model, inputs, target=None):
    """Signed relevance that shows for which class it was asked."""
    return -inputs * (1 + target[:, None, None, None])


def is_map(found, shape):
    assert found.shape == shape and found.is_floating_point()
    assert bool((found >= 0).all()) and not found.requires_grad
    assert torch.allclose(found.double().sum((-2, -1)), torch.ones(shape[:-2]).double(), atol=1e-5)


def test_another_image_gives_its_map_for_its_own_class(generator):
    images = torch.rand(3, 2, 5, 6, generator=generator, dtype=torch.float64)
    model = linear(images)
    asked = []

    def explain(model, inputs, target=None):
        asked.append(target)
        return times_class(model, inputs, target)

    found = image_target(model, images, explain)
    is_map(found, (3, 5, 6))
    expected = images.sum(1) / images.sum((1, 2, 3))[:, None, None]
    assert torch.allclose(found, expected)
    assert torch.equal(asked[0], model(images).argmax(1))
    assert torch.allclose(image_target(model, images[1:2], explain)[0], found[1])


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_an_image_without_a_map_is_named(factor):
    images = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    images[1] = 0.5

    def explain(model, inputs, target=None):
        return torch.where(inputs == 0.5, factor, inputs)

    with pytest.raises(ValueError, match=r"got none for image\(s\) \[1\]; take another target image"):
        image_target(linear(images), images, explain)
    with pytest.raises(ValueError, match=r"expected inputs of shape"):
        image_target(linear(images), images[0], explain)


def test_an_array_of_the_right_size_is_only_scaled():
    values = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    assert torch.allclose(array_target(values, (3, 4)), values / 66)
    assert array_target(values.int(), (3, 4)).dtype == torch.float32
    assert torch.allclose(array_target(values * 1e-300, (3, 4)), values / 66)
    is_map(array_target(torch.stack((values, 2 * values)), (3, 4)), (2, 3, 4))


def test_a_larger_array_is_averaged_and_stays_in_place():
    values = torch.zeros(16, 16, dtype=torch.float64)
    values[:8, 8:] = 1.0
    small = array_target(values, (4, 4))
    is_map(small, (4, 4))
    assert small[:2, 2:].sum() > 0.85 and small[2:, :2].sum() < 0.01
    # Averages, not samples: a single bright pixel is not lost.
    values.zero_()[5, 6] = 1.0
    assert array_target(values, (4, 4)).argmax() == 1 * 4 + 1
    is_map(array_target(values, (31, 7)), (31, 7))
    is_map(array_target(torch.full((3, 3), 1e-200, dtype=torch.float64), (5, 5)), (5, 5))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0]], TypeError, "got list; use torch.as_tensor"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "got torch.complex64"),
        (torch.ones(1, 3, 4, 4), ValueError, r"got \(1, 3, 4, 4\); sum the absolute values"),
        (torch.ones(0, 4), ValueError, r"got \(0, 4\)"),
        (torch.tensor([[1.0, float("nan")]]), ValueError, "expected a finite map"),
        (torch.tensor([[1.0, -0.5]]), ValueError, "minimum of -0.5; take the absolute value"),
        (torch.zeros(2, 2), ValueError, "got zeros only"),
    ],
)
def test_what_is_no_map_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        array_target(values, (2, 2))


@pytest.mark.parametrize("size", [(0, 4), (4,), (2, 2, 2)])
def test_what_is_no_size_is_refused(size):
    for make in (lambda: array_target(torch.ones(2, 2), size), lambda: uniform_target(size)):
        with pytest.raises(ValueError, match="expected a height and a width"):
            make()


@pytest.mark.parametrize("size", [(224, 224), (64, 96), (200, 60)])
def test_a_text_fills_the_map(size):
    found = text_target(SENTENCE, size)
    is_map(found, size)
    ink = found > 0.5 * found.max()
    rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
    height, width = (int(where[-1] - where[0]) + 1 for where in (rows, columns))
    assert max(height / size[0], width / size[1]) > 0.75
    middle = (float(rows[0] + rows[-1]) / 2, float(columns[0] + columns[-1]) / 2)
    assert all(abs(at - side / 2) < 0.08 * side for at, side in zip(middle, size, strict=True))
    assert found[0].sum() == 0 and found[:, -1].sum() == 0
    assert torch.equal(found, text_target(SENTENCE, size))


def lines(found):
    """How many rows of letters there are."""
    ink = (found > 0).any(1).int()
    return int((ink.diff() == 1).sum())


def test_a_long_text_is_wrapped_and_a_line_break_stays():
    assert lines(text_target("one one one one", (64, 64))) > 1
    assert lines(text_target("oooo oooo", (20, 200))) == 1
    assert lines(text_target("oooo\noooo", (40, 400))) == 2


def test_a_blur_spreads_the_letters_and_keeps_the_sum():
    sharp, soft = text_target("o", (64, 64)), text_target("o", (64, 64), blur=2.0)
    is_map(soft, (64, 64))
    assert int((soft > 0).sum()) > 1.2 * int((sharp > 0).sum())


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (3, {}, TypeError, "expected a text, got int"),
        (" \n", {}, ValueError, "visible character"),
        ("a" * 1001, {}, ValueError, "at most 1000 characters, got 1001"),
        ("hello 漢", {}, ValueError, "got '漢', which it lacks"),
        ("a word", {"blur": -1.0}, ValueError, "blur of 0 pixels or more, got -1"),
        ("a word", {"blur": float("nan")}, ValueError, "got nan"),
        ("incomprehensibilities", {}, ValueError, "read in 40 x 30 pixels, got 21 characters; shorten"),
    ],
)
def test_a_text_that_cannot_be_drawn_is_refused(text, options, error, message):
    with pytest.raises(error, match=message):
        text_target(text, (30, 40), **options)


def test_a_region_is_in_pixels_or_in_fractions():
    found = region_target((2, 1, 4, 4), (8, 10))
    is_map(found, (8, 10))
    assert int((found > 0).sum()) == 6 and found[1, 2] == found[3, 3] > 0 and found[4, 3] == 0
    assert torch.equal(region_target((0.2, 0.125, 0.4, 0.5), (8, 10)), found)
    assert torch.equal(region_target((0.0, 0.0, 1.0, 1.0), (8, 10)), uniform_target((8, 10)))
    assert int((region_target((0, 0, 1, 1), (8, 10)) > 0).sum()) == 1


@pytest.mark.parametrize(
    ("box", "error", "message"),
    [
        ((0, 0, 0, 4), ValueError, "of at least one pixel inside of 10 x 8"),
        ((0, 0, 11, 4), ValueError, r"got \(0, 0, 11, 4\)"),
        ((-1, 0, 4, 4), ValueError, "inside"),
        ((4, 0, 2, 4), ValueError, "inside"),
        ((0.0, 0.0, 0.01, 1.0), ValueError, "at least one pixel"),
        ((0.0, 0.0, float("nan"), 1.0), ValueError, "finite edges"),
        ((0, 0, 0.5, 4), TypeError, "four ints .* or four floats"),
        ((0, 0, 4), TypeError, "four ints"),
    ],
)
def test_a_box_that_is_none_is_refused(box, error, message):
    with pytest.raises(error, match=message):
        region_target(box, (8, 10))


def test_the_uniform_map_has_one_value():
    found = uniform_target((3, 5))
    is_map(found, (3, 5))
    assert torch.equal(found, torch.full((3, 5), 1 / 15))
