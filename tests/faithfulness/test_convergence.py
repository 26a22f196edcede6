"""Cosine convergence on networks where the answer is known."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from networks import Attention, Residual, Sequential, seeded
from networks_real import photograph, trained_resnet20
from veridical.attributions import method
from veridical.faithfulness import _cosines, convergence, cosine_convergence, random_cosine


def chain(positive, widths=(48, 40, 40, 40, 40, 10), seed=0):
    """A fully connected network on images of 48 pixels."""
    g = torch.Generator().manual_seed(seed)
    layers = [nn.Flatten()]
    for before, after in zip(widths, widths[1:], strict=False):
        layer = nn.Linear(before, after, bias=False, dtype=torch.float64)
        weight = torch.randn(after, before, generator=g, dtype=torch.float64) / math.sqrt(before)
        layer.weight = nn.Parameter(weight.abs() if positive else weight)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def convolutional(seed=0):
    torch.manual_seed(seed)
    return (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 5),
        )
        .double()
        .eval()
    )


def images(count=2, side=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=g, dtype=torch.float64)


def test_positive_chain_converges_to_one():
    result = cosine_convergence(chain(True), images(), method("gradient"))
    assert result.layers == ("9", "7", "5", "3", "1", "input")
    assert result.start == "9"
    dense = result.one_minus_median[:-1]
    assert (np.diff(dense) < 0).all()
    assert 0 < dense[-1] < 1e-5
    assert result.median[-2] == pytest.approx(1, abs=1e-5)


def test_rank_one_gives_exactly_one():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(16, 4)).double().eval()
    result = cosine_convergence(model, images(), method("gradient"))
    assert result.one_minus_median[-1] < 1e-30
    assert result.channels == (4, 1, 3)
    assert result.random_baseline[1] == 1.0


def test_plain_gradient_of_random_weights_stays_near_the_baseline():
    linear = nn.Sequential(
        nn.Flatten(), *[nn.Linear(48, 48, bias=False) for _ in range(2)], nn.Linear(48, 40)
    )
    result = cosine_convergence(linear.double().eval(), images(4), method("gradient"), vectors=12)
    assert (result.median[:-1] < 2.5 * result.random_baseline[:-1]).all()
    assert result.median[0] == pytest.approx(result.random_baseline[0], abs=0.05)


@pytest.mark.real_data
def test_the_gradient_of_a_trained_resnet20_is_above_the_baseline_and_does_not_approach_1(data_folder):
    """3 to 5 times the cosine of random vectors in every layer, without a trend; lrp-zplus beside it at 1."""
    with zipfile.ZipFile(data_folder / "cifar10" / "test.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))[::1000]
        x = torch.cat([photograph(io.BytesIO(file.read(name)), 32) for name in names])
    model = trained_resnet20(data_folder)
    found = cosine_convergence(model, x, method("gradient"))
    below = slice(1, -1)  # the logits are random themselves, the image has three channels
    times = found.median[below] / found.random_baseline[below]
    assert ((times > 2) & (times < 5.5)).all()
    assert (found.median[below] < 0.75).all()
    upper, lower = np.array_split(times, 2)
    assert lower.mean() < 1.1 * upper.mean()
    converging = cosine_convergence(model, x, method("lrp-zplus"), layers=("conv1",))
    assert converging.median[converging.layers.index("conv1")] > 0.99


def test_statistics_are_those_of_the_naive_loop():
    """With one linear layer the relevance at the input is v W, location by location."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double().eval()
    result = cosine_convergence(model, images(1), method("gradient"), vectors=2, seed=7)
    again = cosine_convergence(model, images(1), method("gradient"), vectors=2, seed=7, absolute=False)
    np.testing.assert_array_equal(np.abs(again.median[:1]), result.median[:1])
    assert result.percentiles[50] is result.median
    assert list(result.percentiles) == [0, 1, 5, 10, 20, 50, 80, 95, 99, 100]
    table = np.stack(list(result.percentiles.values()))
    assert (np.diff(table, axis=0) >= 0).all()
    assert (result.nan_fraction == 0).all()
    assert again.random_baseline.tolist() == [0, 0]


def naive(relevances, absolute):
    """1 - cosine of every pair of (S, P, C) relevance, location by location, as the formula says."""
    found = []
    for first in range(len(relevances)):
        for second in range(first):
            for u, v in zip(relevances[first], relevances[second], strict=True):
                cosine = float(u @ v / (u.norm() * v.norm()))
                found.append(1 - (abs(cosine) if absolute else cosine))
    return np.array(found)


@pytest.mark.parametrize("absolute", [True, False])
def test_every_statistic_is_that_of_a_naive_loop_over_locations(absolute):
    """The second convolution's relevance is v W, and the first's that through the second, by autograd."""
    model, x = convolutional(), images(2)
    result = cosine_convergence(model, x, method("gradient"), vectors=3, seed=5, absolute=absolute)
    found = {"2": [], "0": [], "input": []}
    for index in range(2):
        values = {"input": x[index : index + 1].clone().requires_grad_()}
        state = values["input"]
        for name, layer in model.named_children():
            state = layer(state)
            values[name] = state
        starts = convergence._starting_vectors(result.settings, index, torch.zeros(5))[:3].double()
        for name, complements in found.items():
            grads = [torch.autograd.grad(state, values[name], v[None], retain_graph=True)[0] for v in starts]
            complements.append(naive(torch.stack(grads)[:, 0].flatten(2).mT, absolute))
    for name, complements in found.items():
        values, place = np.concatenate(complements), result.layers.index(name)
        assert result.mean[place] == pytest.approx(1 - values.mean(), abs=1e-6)
        for level, percentile in result.percentiles.items():
            assert percentile[place] == pytest.approx(np.percentile(1 - values, level), abs=1e-6)
        bins = result.histogram(name, "linear")
        np.testing.assert_array_equal(bins.counts, np.histogram(values, bins.edges)[0])
        assert bins.edges[-1] == (1 if absolute else 2)


def test_histograms_of_all_scales_count_the_same_cosines():
    result = cosine_convergence(convolutional(), images(), method("lrp-zplus"))
    expected = 2 * 10 * 16  # images, pairs, locations
    for scale in ("linear", "log", "sixt2020"):
        bins = result.histogram("2", scale)
        assert bins.counts.sum() == expected
        assert bins.shares.sum() == pytest.approx(1)
        assert len(bins.edges) == len(bins.counts) + 1
    assert result.histogram("2").edges[:6].tolist() == pytest.approx([0, 1e-4, 1e-3, 1e-2, 0.1, 0.2])
    assert len(_cosines._EDGES) == 1 + 65 + 20 - 2  # 0.1 and 1 are edges of several scales
    assert result.histogram("0", "log").counts[0] == (result.counts[result.layers.index("0")][0])
    with pytest.raises(ValueError, match="expected scale"):
        result.histogram("2", "cubic")
    with pytest.raises(ValueError, match="expected a layer that was read, got '1'"):
        result.histogram("1")


def nearly_rank_one(ratio, dtype=torch.float64):
    """A linear layer with the singular values 1 and `ratio`, and its left singular vectors."""
    g = torch.Generator().manual_seed(0)
    right, _ = torch.linalg.qr(torch.randn(48, 2, generator=g, dtype=torch.float64))
    left, _ = torch.linalg.qr(torch.randn(10, 2, generator=g, dtype=torch.float64))
    layer = nn.Linear(48, 10, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(left @ torch.diag(torch.tensor([1, ratio], dtype=torch.float64)) @ right.T)
    return nn.Sequential(nn.Flatten(), layer).eval(), left


def exact_complements(starts, ratio):
    """1 - |cosine| of vectors with coordinates (a, ratio b) by the sine of their angle: nothing cancels."""
    found = []
    for index, (a, b) in enumerate(starts.tolist()):
        for c, d in starts[:index].tolist():
            lengths = (a * a + (ratio * b) ** 2) * (c * c + (ratio * d) ** 2)
            sine = ratio**2 * (a * d - b * c) ** 2 / lengths
            cosine = abs(a * c + ratio**2 * b * d) / math.sqrt(lengths)
            found.append(sine / (1 + cosine))
    return found


@pytest.mark.parametrize("ratio", [1e-2, 1e-4, 1e-6])
def test_complements_down_to_1e_12_are_those_of_the_closed_form(ratio):
    """With the singular values 1 and 1e-6, 1 - median is about 2e-12: four digits beyond 1 - cosine."""
    model, left = nearly_rank_one(ratio)
    flat = torch.rand(6, 48, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = cosine_convergence(model, flat, method("gradient"))
    expected = []
    for index in range(6):
        starts = convergence._starting_vectors(result.settings, index, torch.zeros(10).double())[:5]
        expected += exact_complements(starts @ left, ratio)
    assert result.one_minus_median[-1] == pytest.approx(np.median(expected), rel=1e-6)
    assert result.percentiles[0][-1] == pytest.approx(1 - max(expected), abs=1e-6)
    assert result.one_minus_median[-1] < 30 * ratio**2
    assert result.resolved[-1] and result.resolution[-1] < 1e-29
    assert result.histogram("input", "log").counts[0] == 0


def test_a_result_says_what_single_precision_cannot_resolve():
    flat = torch.rand(6, 48, 1, 1, generator=torch.Generator().manual_seed(1))
    single = {
        ratio: cosine_convergence(nearly_rank_one(ratio, torch.float32)[0], flat, method("gradient"))
        for ratio in (1e-3, 1e-9)
    }
    for result in single.values():
        assert 1e-16 < result.resolution[-1] < 1e-13
    assert single[1e-3].resolved[-1] and not single[1e-9].resolved[-1]
    double = cosine_convergence(nearly_rank_one(1e-9)[0], flat.double(), method("gradient"))
    assert double.resolved.all()
    assert double.one_minus_median[-1] < 1e-16 < single[1e-9].one_minus_median[-1]


def test_tokens_are_compared_over_their_features():
    """A vision transformer: (N, C, H, W) from the patches' convolution, then (N, tokens, features)."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = seeded(Attention, 29)
    result = cosine_convergence(model, x, method("gradient"), vectors=3)
    width = dict(zip(result.layers, result.channels, strict=True))
    assert {"head": 4, "mlp.2": 4, "mlp.0": 6, "patches": 4, "input": 3}.items() <= width.items()
    # Only the class token reaches the head: behind the attention the four patches have no relevance.
    assert result.counts[result.layers.index("mlp.0")].sum() == 2 * 3  # images, pairs
    assert result.nan_fraction[result.layers.index("mlp.2")] == pytest.approx(4 / 5)
    assert result.nan_fraction[result.layers.index("patches")] < 1
    tokens = cosine_convergence(model, x, method("gradient"), start="norm1", vectors=3)
    assert tokens.channels[0] == 4 and tokens.counts[0].sum() == 2 * 3 * 5


class ChannelsLast(nn.Module):
    """Features at the end of an image-like tensor, and a convolution over a sequence."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 2, stride=2)
        self.norm, self.up, self.down = nn.LayerNorm(5), nn.Linear(5, 7), nn.Linear(7, 5)
        self.row, self.head = nn.Conv1d(5, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        x = self.row(x.flatten(1, 2).transpose(1, 2))
        return self.head(x.mean(2))


def test_channels_are_found_where_each_operation_has_them():
    model = seeded(ChannelsLast)
    kinds = ("convolution", "linear", "normalization", "activation", "sum")
    result = cosine_convergence(model, images(1, 6), method("gradient"), kinds=kinds, vectors=2)
    width = dict(zip(result.layers, result.channels, strict=True))
    named = {name: width[name] for name in ("head", "row", "down", "up", "norm", "stem", "input")}
    assert named == {"head": 4, "row": 6, "down": 5, "up": 7, "norm": 5, "stem": 5, "input": 3}
    assert width["model:relu" if "model:relu" in width else next(n for n in width if "relu" in n)] == 7


def test_deeplift_is_read_as_contributions():
    """One linear layer: multipliers v W, contributions v W (x - reference), at each place over 3 channels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double().eval()
    x, reference = images(1), images(1, seed=9)
    explain = method("deeplift-rescale", reference=reference)
    result = cosine_convergence(model, x, explain, vectors=3)
    starts = convergence._starting_vectors(result.settings, 0, torch.zeros(5).double())[:3]
    contributions = (starts @ model[1].weight).unflatten(1, (3, 16)) * (x - reference).flatten(2)
    complements = naive(contributions.detach().mT, True)
    assert result.mean[-1] == pytest.approx(1 - complements.mean(), abs=1e-6)
    plain = cosine_convergence(model, x, method("gradient"), vectors=3)
    assert abs(plain.mean[-1] - result.mean[-1]) > 1e-3


def test_a_reference_for_each_image_keeps_the_images_together(monkeypatch):
    monkeypatch.setattr(convergence, "_VALUES", 1)
    explain = method("deeplift-rescale", reference=images(3, seed=9))
    result = cosine_convergence(convolutional(), images(3), explain, vectors=2)
    assert result.counts[0].sum() == 3


@pytest.mark.parametrize("build", [Sequential, Residual])
@pytest.mark.parametrize("name", ["lrp-zplus", "guided-backprop", "rectgrad", "deeplift-reveal-cancel"])
def test_rounding_is_all_that_a_scaled_vector_changes(build, name):
    model, x = seeded(build), images(2, 8)
    result = cosine_convergence(model, x, method(name))
    assert np.nanmax(result.resolution) < 1e-25
    for start in result.layers[1:-1]:
        below = cosine_convergence(model, x, method(name), start=start, vectors=2)
        assert below.layers == result.layers[result.layers.index(start) :]


def test_start_inside_the_network_and_other_kinds():
    model = convolutional()
    result = cosine_convergence(model, images(), method("lrp-zplus"), start="3", kinds=("activation",))
    assert result.layers == ("3", "1", "input")
    assert result.channels == (6, 8, 3)
    named = cosine_convergence(model, images(), method("gradient"), layers=("0",))
    assert named.layers == ("5", "0", "input")


def test_dead_locations_are_counted():
    model = convolutional()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    result = cosine_convergence(model, images(), method("gradient"))
    by_name = dict(zip(result.layers, result.nan_fraction, strict=True))
    assert by_name == {"5": 0.0, "2": 1.0, "0": 1.0, "input": 1.0}
    assert np.isnan(result.median[1:]).all()


def test_parts_of_a_batch_get_the_vectors_of_the_whole():
    model, x = convolutional(), images(3)
    whole = cosine_convergence(model, x, method("lrp-z"), seed=3)
    parts = cosine_convergence(model, x, method("lrp-z"), seed=3, batch=2)
    for field in ("median", "mean", "one_minus_median"):
        np.testing.assert_allclose(getattr(whole, field), getattr(parts, field), rtol=1e-6)
    last = cosine_convergence(model, x[2:], method("lrp-z"), seed=3, first_index=2)
    first = cosine_convergence(model, x[:2], method("lrp-z"), seed=3)
    np.testing.assert_allclose((2 * first.mean + last.mean) / 3, whole.mean, rtol=1e-6)


def test_images_that_do_not_fit_together_go_in_parts(monkeypatch):
    model, x, sizes = convolutional(), images(5), []
    whole = cosine_convergence(model, x, method("lrp-zplus"))
    monkeypatch.setattr(convergence, "_VALUES", 2 * (6 * (128 + 96) + 608))
    handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    parts = cosine_convergence(model, x, method("lrp-zplus"))
    handle.remove()
    assert sizes[0] == 1 and sum(sizes[1:]) == 5 and max(sizes) == 2
    np.testing.assert_array_equal(whole.counts, parts.counts)
    for field in ("median", "mean", "one_minus_median", "resolution", "nan_fraction"):
        np.testing.assert_allclose(getattr(whole, field), getattr(parts, field), rtol=1e-6, atol=1e-28)
    monkeypatch.setattr(_cosines, "_BLOCK", 1)
    blocks = cosine_convergence(model, x, method("lrp-zplus"))
    np.testing.assert_allclose(whole.one_minus_median, blocks.one_minus_median, rtol=1e-6)


def test_seeds_and_global_state():
    model, x = convolutional(), images()
    before = torch.get_rng_state()
    one, same = (cosine_convergence(model, x, method("gradient"), seed=1) for _ in range(2))
    other = cosine_convergence(model, x, method("gradient"), seed=2)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one.median, same.median)
    assert (one.median != other.median).any()


@pytest.mark.parametrize(("channels", "value"), [(1, 1.0), (2, math.sin(math.pi / 4)), (3, 0.5)])
def test_baseline_closed_forms(channels, value):
    assert random_cosine(channels) == pytest.approx(value, abs=1e-6)


def test_baseline_of_many_channels_and_errors():
    assert random_cosine(1000) == pytest.approx(0.6745 / math.sqrt(1000), rel=1e-2)
    assert random_cosine(64, absolute=False) == 0
    with pytest.raises(ValueError, match="at least one channel"):
        random_cosine(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "fc"}, "name of an operation, got 'fc'"),
        ({"vectors": 1}, "at least 2"),
        ({"batch": 0}, "at least one image"),
        ({"first_index": -1}, "non-negative"),
        ({"layers": ("5",), "start": "2"}, "relevance only flows back"),
        ({"kinds": ("conv",)}, "it has activation, convolution, linear, structure"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        cosine_convergence(convolutional(), images(), method("gradient"), **options)


def test_needs_rules():
    with pytest.raises(ValueError, match="propagation rules"):
        cosine_convergence(convolutional(), images(), method("integrated-gradients"))
    with pytest.raises(TypeError, match="veridical.method"):
        cosine_convergence(convolutional(), images(), "gradient")
    with pytest.raises(TypeError, match="speed"):
        cosine_convergence(convolutional(), images(), method("gradient"), speed=3)


def test_progress_is_told_after_each_part():
    told = []
    cosine_convergence(
        convolutional(), images(5), method("gradient"), batch=2, progress=lambda *where: told.append(where)
    )
    assert told == [(2, 5), (4, 5), (5, 5)]
