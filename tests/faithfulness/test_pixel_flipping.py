"""Pixel flipping: curves that are known beforehand, ties, random orders, and nothing left behind."""

import numpy as np
import pytest
import torch
from torch import nn

from networks import Residual, Sequential, images, seeded
from veridical.adapters import as_quantus
from veridical.attributions import method
from veridical.faithfulness import FlippingSettings, pixel_flipping
from veridical.faithfulness._baselines import baseline_images
from veridical.faithfulness._flipping import ranks_of

CURVES = ("probability", "logit", "predicted")


class Linear(nn.Module):
    """Class 0 is a weighted sum of all values, class 1 is always 0."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)
        self.sizes = []
        self.eval()

    def forward(self, x):
        self.sizes.append(len(x))
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


def product(model, inputs, target):
    """The exact relevance of class 0 of `Linear`."""
    return inputs * model.weight


def reverse(model, inputs, target):
    return -product(model, inputs, target)


def constant(model, inputs, target):
    return torch.ones_like(inputs)


@pytest.fixture
def weight(generator):
    return torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def x():
    return images(3, 4)


def curves(result):
    return [one for one in (result.morf, result.lerf, result.random) if one is not None]


def assert_same(first, second, rows=slice(None)):
    for ours, theirs in zip(curves(first), curves(second), strict=True):
        for name in CURVES:
            torch.testing.assert_close(getattr(ours, name)[..., rows, :], getattr(theirs, name))


def test_the_curves_of_a_linear_network_are_sums_of_sorted_relevance(weight, x):
    result = pixel_flipping(Linear(weight), x, product, target=0, pixels=1)
    relevance = (x * weight).sum(1).flatten(1)
    total = relevance.sum(1, keepdim=True)
    for curve, largest_first in ((result.morf, True), (result.lerf, False)):
        gone = relevance.sort(dim=1, descending=largest_first).values.cumsum(1)
        expected = torch.cat([total, total - gone], 1)
        torch.testing.assert_close(curve.logit, expected)
        torch.testing.assert_close(curve.probability, torch.sigmoid(expected))
        # Where nothing is left both classes have the logit 0.
        assert torch.equal(curve.predicted[:, :-1], (expected[:, :-1] < 0).long())
    assert torch.equal(result.fractions, torch.arange(17, dtype=torch.float64) / 16)


def test_the_exact_relevance_beats_every_order_and_its_negative_none(weight, x):
    settings = {"target": 0, "steps": 8, "random": 19}
    good = pixel_flipping(Linear(weight), x, product, **settings).statistics()
    bad = pixel_flipping(Linear(weight), x, reverse, **settings).statistics()
    for name in ("morf", "lerf"):
        assert (good[f"{name}_margin"] > 0).all() and (bad[f"{name}_margin"] < 0).all()
        assert good[f"{name}_p_value"].eq(1 / 20).all() and bad[f"{name}_p_value"].eq(1).all()
    assert (good["separation"] > 0).all()
    torch.testing.assert_close(good["separation"], -bad["separation"])
    torch.testing.assert_close(good["morf_area"], bad["lerf_area"])


def test_only_the_pixels_that_matter_move_the_curve():
    """Class 0 looks at one quarter: removed first, all is lost at once; removed last, at the end."""
    weight = torch.zeros(3, 4, 4, dtype=torch.float64)
    weight[:, :2, :2] = 1
    x = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    result = pixel_flipping(Linear(weight), x, product, target=0, steps=4, random=0)
    assert result.morf.logit.tolist() == [[12, 0, 0, 0, 0]] and result.lerf.logit.tolist() == [[12] * 4 + [0]]
    assert result.random is None and "morf_margin" not in result.statistics()
    area = result.morf.area("logit")
    assert area.tolist() == [1.5] and result.morf.area_over("logit").tolist() == [10.5]
    assert result.statistics("logit")["separation"].tolist() == [12 * 0.875 - 1.5]


def test_all_channels_of_a_pixel_are_removed():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.mean((2, 3))

    x = images(2, 4) + 10
    values = (1.0, 2.0, 3.0)
    pixel_flipping(Looks().eval(), x, product_of_ones, target=0, steps=4, baseline=values, random=1)
    flipped = torch.cat(seen[1:])
    gone = flipped == torch.tensor(values, dtype=x.dtype)[:, None, None]
    assert torch.equal(gone.all(1), gone.any(1))
    counts = gone[:, 0].sum((1, 2)).tolist()
    assert sorted(counts) == sorted([16, 16, *([4, 8, 12] * 6)])


def product_of_ones(model, inputs, target):
    return inputs


def test_a_constant_map_gives_no_difference_and_the_curve_of_an_arbitrary_order(weight, x):
    result = pixel_flipping(Linear(weight), x, constant, target=0, steps=8)
    for name in CURVES:
        assert torch.equal(getattr(result.morf, name), getattr(result.lerf, name))
    assert result.statistics()["separation"].eq(0).all()
    ranks = ranks_of(torch.zeros(1, 64, 64), True, 0)
    assert torch.equal(ranks.sort().values[0], torch.arange(64 * 64, dtype=torch.int32))
    # Ties are not broken row by row: the first half of the places is spread over the image.
    first = (ranks < 2048).reshape(64, 64).double()
    assert 0.4 < first[:32].mean() < 0.6 and 0.4 < first[:, :32].mean() < 0.6
    assert not torch.equal(ranks, ranks_of(torch.zeros(1, 64, 64), True, 1))


def test_ties_do_not_disturb_what_is_ranked():
    maps = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
    most = ranks_of(maps, True, 0)[0].tolist()
    least = ranks_of(maps, False, 0)[0].tolist()
    assert most[1] == 0 and most[2] == 1 and least[2] == 2 and least[1] == 3
    assert (most[0] < most[3]) == (least[0] < least[3])


def test_a_constant_network_shows_nothing(x):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 2.0, 1.0], dtype=x.dtype).expand(len(x), 3)

    result = pixel_flipping(Constant().eval(), x, constant, steps=4)
    assert result.target.tolist() == [1, 1, 1]
    expected = torch.softmax(torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64), 0)[1]
    for one in curves(result):
        assert one.kept.all() and one.logit.eq(2).all()
        torch.testing.assert_close(one.area(), expected.expand_as(one.area()))
        assert one.area("kept").eq(1).all() and one.area_over("kept").eq(0).all()
    found = result.statistics()
    assert found["morf_p_value"].eq(1).all() and found["lerf_p_value"].eq(1).all()


def test_a_batch_is_its_images_and_the_size_of_batches_does_not_matter():
    model, x = seeded(Sequential), images(4)
    explain = method("gradient-x-input")
    whole = pixel_flipping(model, x, explain, steps=5, batch=64)
    assert_same(whole, pixel_flipping(model, x, explain, steps=5, batch=3))
    for index in range(4):
        one = slice(index, index + 1)
        assert_same(whole, pixel_flipping(model, x[one], explain, steps=5), one)


def test_every_flipped_image_costs_one_forward_pass_and_batches_are_bounded(weight, x):
    model = Linear(weight)
    pixel_flipping(model, x, product, steps=4, random=2, batch=7)
    # Unchanged and empty images are shared: 3 + 3, then 3 steps for 3 images in 2 + 2 orders.
    assert sum(model.sizes) == 3 + 3 + 3 * 3 * 4 and max(model.sizes) == 7


def test_the_model_the_images_and_the_random_state_stay_as_they_are():
    model, x = seeded(Sequential), images(2)
    state, given = torch.get_rng_state(), x.clone()
    first = pixel_flipping(model, x, method("gradient"), steps=3)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, given)
    assert not any(module.training for module in model.modules())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    again = pixel_flipping(model, x.requires_grad_(), method("gradient"), steps=3)
    assert_same(first, again)
    other = pixel_flipping(model, x, method("gradient"), steps=3, seed=1)
    assert not torch.equal(first.random.logit, other.random.logit)
    assert torch.equal(first.morf.logit, other.morf.logit)


def test_random_orders_can_be_reused(weight, x):
    model = Linear(weight)
    first = pixel_flipping(model, x, product, target=0, steps=4)
    model.sizes.clear()
    second = pixel_flipping(model, x, reverse, target=0, steps=4, order="morf", reuse=first)
    assert second.random is first.random and second.lerf is None and sum(model.sizes) == 3 + 3 + 9
    assert_same(second, pixel_flipping(model, x, reverse, target=0, steps=4, order="morf"))
    with pytest.raises(ValueError, match="expected to reuse a result for .*steps=5"):
        pixel_flipping(model, x, product, target=0, steps=5, reuse=first)
    for images_, target in ((x, 1), (x + 1, 0), (x[:2], 0)):
        with pytest.raises(ValueError, match="same model, images and target"):
            pixel_flipping(model, images_, product, target=target, steps=4, reuse=first)


def test_steps_in_pixels_and_as_fractions(weight, x):
    model = Linear(weight)
    result = pixel_flipping(model, x, product, pixels=6, random=0)
    assert (result.fractions * 16).tolist() == [0, 6, 12, 16]
    part = pixel_flipping(model, x, product, target=0, steps=[0.25, 0.5], random=1)
    assert part.fractions.tolist() == [0, 0.25, 0.5] and part.settings.steps == (0.25, 0.5)
    whole = pixel_flipping(model, x, product, target=0, steps=4, random=1)
    torch.testing.assert_close(part.morf.logit, whole.morf.logit[:, :3])
    first, middle, last = whole.morf.probability[:, :3].unbind(1)
    torch.testing.assert_close(part.morf.area(), (first + 2 * middle + last) / 4)
    torch.testing.assert_close(part.random.logit, whole.random.logit[..., :3])


def test_the_prediction_and_the_accuracy_are_told_apart(weight, x):
    result = pixel_flipping(Linear(weight), x, product, target=1, steps=4, random=2)
    assert torch.equal(result.morf.kept, result.morf.predicted == result.morf.predicted[:, :1])
    labels = torch.tensor([0, 1, 1])
    expected = (result.morf.predicted == labels[:, None]).double().mean(0)
    assert torch.equal(result.morf.accuracy(labels), expected)
    assert torch.equal(result.morf.accuracy(1), result.morf.predicted.double().mean(0))
    assert result.random.accuracy(labels).shape == (2, 5)


def test_summaries_have_intervals_over_images(weight):
    result = pixel_flipping(Linear(weight), images(12, 4), product, target=0, steps=4)
    found = result.summary()
    margin = found["morf_margin"]
    values = result.statistics()["morf_margin"]
    assert margin.n == 12 and margin.estimate == pytest.approx(values.mean().item())
    assert 0 < margin.low < margin.estimate < margin.high
    assert result.summary("kept", "median")["lerf_area"].n == 12
    torch.testing.assert_close(result.statistics()["random_area"], result.random.area().mean(0))


def test_baselines(x):
    assert baseline_images(x, "zero").eq(0).all()
    assert torch.equal(baseline_images(x, "mean")[..., 0, 0], x.mean((2, 3)))
    assert baseline_images(x, (1.0, 2.0, 3.0))[1, :, 2, 3].tolist() == [1, 2, 3]
    flat = torch.full((1, 3, 40, 30), 0.7, dtype=torch.float64)
    torch.testing.assert_close(baseline_images(flat, "blur"), flat)
    noisy = images(1, 40)
    assert baseline_images(noisy, "blur").std() < noisy.std() / 4
    tiny = images(1, 2)
    assert baseline_images(tiny, "blur").shape == tiny.shape
    point = torch.zeros(1, 3, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    torch.testing.assert_close(baseline_images(point, "blur").sum(), torch.tensor(3.0, dtype=torch.float64))


def test_the_channel_reduction_is_named(weight, x):
    signs = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)[:, None, None]

    def cancels(model, inputs, target):
        return signs * torch.arange(16, dtype=inputs.dtype).reshape(4, 4).expand_as(inputs)

    summed = pixel_flipping(Linear(weight), x, cancels, steps=2)
    assert summed.reduction == "sum" and summed.maps.eq(0).all()
    sizes = pixel_flipping(Linear(weight), x, cancels, steps=2, reduction="max-abs")
    assert sizes.maps[0].flatten().tolist() == list(range(16))
    assert pixel_flipping(Linear(weight), x, method("gradient"), steps=2).reduction == "max-abs"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "random"}, "order to be one of morf, lerf, both, got 'random'"),
        ({"steps": 0}, "at least one step, got 0"),
        ({"steps": 17}, "steps of at least one of 16 pixels, got steps 17; take fewer"),
        ({"steps": (0.5, 0.5)}, "rising fractions above 0 and at most 1"),
        ({"steps": (0.0, 0.5)}, "rising fractions"),
        ({"steps": (0.5, 1.5)}, "rising fractions"),
        ({"steps": ()}, "rising fractions"),
        ({"steps": (0.01,)}, "at least one of 16 pixels"),
        ({"pixels": 0}, "at least one pixel a step, got 0"),
        ({"baseline": "black"}, "baseline zero, mean, blur or a tuple of finite numbers, got 'black'"),
        ({"baseline": (1.0, float("nan"), 0.0)}, "finite numbers"),
        ({"baseline": ()}, "finite numbers"),
        ({"steps": 4, "baseline": (1.0, 2.0)}, "baseline of 3 numbers, got 2; give one a channel"),
        ({"random": -1}, "number of random orders, got -1"),
        ({"reduction": "mean"}, "expected reduction"),
        ({"batch": 0}, "batch of at least one image, got 0"),
    ],
)
def test_wrong_settings_are_named(settings, message, weight, x):
    model = Linear(weight)
    with pytest.raises(ValueError, match=message):
        pixel_flipping(model, x, product, **settings)
    assert model.sizes == []


def test_wrong_arguments_are_named(weight, x):
    model = Linear(weight)
    with pytest.raises(TypeError, match="steps as a number or fractions, got 0.5"):
        pixel_flipping(model, x, product, steps=0.5)
    with pytest.raises(TypeError, match="speed"):
        pixel_flipping(model, x, product, speed=1)
    with pytest.raises(TypeError, match="method that can be called, got 3"):
        pixel_flipping(model, x, 3)
    with pytest.raises(ValueError, match=r"target in 0..1, got 2"):
        pixel_flipping(model, x, product, steps=4, target=2)
    with pytest.raises(ValueError, match="shape"):
        pixel_flipping(model, x[0], product)
    with pytest.raises(ValueError, match="relevance of shape"):
        pixel_flipping(model, x, lambda model, inputs, target: inputs[:, :1], steps=4)
    with pytest.raises(ValueError, match="quantity to be one of probability, logit, kept"):
        pixel_flipping(model, x, product, steps=1).statistics("loss")
    assert hash(FlippingSettings()) == hash(FlippingSettings())


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("channels", ["sum", "keep"])
def test_the_curve_is_that_of_quantus_under_its_settings(channels):
    """Quantus sorts and flips single values, has no point for the whole image and takes steps of width 1.

    A map of one value a pixel is copied to the channels there; the copies are neighbors in its order, so
    steps of 3 n values are our steps of n pixels. Relevance of every value is another question: there a
    pixel can be removed in one channel only.
    """
    quantus = pytest.importorskip("quantus", reason="needs quantus (make peers)")
    model, x = seeded(Residual, dtype=torch.float32), images(3, 12, dtype=torch.float32)
    explain, classes = method("gradient-x-input"), np.array([1, 2, 0])
    options = {"features_in_step": 3 * 16, "perturb_baseline": 0.0, "normalise": False}
    theirs = quantus.PixelFlipping(**options, disable_warnings=True, display_progressbar=False)(
        model=model, x_batch=x.numpy(), y_batch=classes, softmax=True, device="cpu",
        a_batch=as_quantus(explain, channels)(model, x, classes),
    )  # fmt: skip
    result = pixel_flipping(model, x, explain, target=torch.as_tensor(classes), pixels=16, order="morf")
    difference = np.abs(result.morf.probability[:, 1:].numpy() - np.array(theirs)).max()
    assert difference < 1e-5 if channels == "sum" else difference > 1e-3
    # Their area has neither the first point nor the division by the width.
    inner = result.morf.probability[:, 1:]
    area = np.trapezoid(np.array(theirs), axis=1)
    ours = result.morf.area() * 9 - (result.morf.probability[:, 0] + inner[:, 0]) / 2
    assert channels == "keep" or np.allclose(ours.numpy(), area, atol=1e-5)
