"""Cosine convergence on networks where the answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from veridical.attributions import method
from veridical.faithfulness import cosine_convergence, random_cosine


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
