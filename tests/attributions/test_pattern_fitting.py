"""Patterns against the covariance of explicitly unfolded patches, and what fitting promises."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import veridical as vd
from networks import NETWORKS, Concatenating, Residual, Shared, images, seeded
from veridical.attributions import fit_patterns
from veridical.rules import applications, record


def covariance_pattern(w, x, y, chosen, means: str):
    """c / (w . c) of one neuron, c the covariance of samples x (S, I) and y (S,), as the papers write it."""
    if not chosen.any():
        return np.zeros_like(w)
    mean = y.mean() if means == "mixed" else y[chosen].mean()
    c = (x[chosen] * y[chosen, None]).mean(0) - x[chosen].mean(0) * mean
    return c / (w @ c)


def unfolded(x: np.ndarray, conv: nn.Conv2d) -> tuple[np.ndarray, tuple[int, int]]:
    """Every patch (samples, C, kh, kw) that a convolution sees."""
    (sy, sx), (py, px), (dy, dx), (ky, kx) = conv.stride, conv.padding, conv.dilation, conv.kernel_size
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    rows = range(0, x.shape[2] - dy * (ky - 1), sy)
    columns = range(0, x.shape[3] - dx * (kx - 1), sx)
    patches = [
        x[n, :, i : i + dy * (ky - 1) + 1 : dy, j : j + dx * (kx - 1) + 1 : dx]
        for n in range(len(x)) for i in rows for j in columns
    ]  # fmt: skip
    return np.stack(patches), (len(rows), len(columns))


class OneLayer(nn.Module):
    """A convolution, a function behind it, and a head."""

    def __init__(self, conv: nn.Conv2d, after) -> None:
        super().__init__()
        self.conv, self.after = conv, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.conv(x)).mean([2, 3])


CONVOLUTIONS = [
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 2, "groups": 2, "padding": 1},
    {"kernel_size": 3, "dilation": 2, "padding": 2, "groups": 4},
]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("means", ["mixed", "conditional"])
@pytest.mark.parametrize("estimator", ["positive", "linear", "two-component"])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=["plain", "strided", "grouped", "depthwise"])
def test_convolutions_against_explicit_patches(options, estimator, means, with_bias) -> None:
    model = seeded(lambda: OneLayer(nn.Conv2d(4, 4, **options), F.leaky_relu))
    x = torch.rand(5, 4, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = fit_patterns(model, [x], estimator=estimator, means=means)
    patches, _ = unfolded(x.numpy(), model.conv)
    weight, bias = model.conv.weight.detach().numpy(), model.conv.bias.detach().numpy()
    share = 4 // model.conv.groups
    for k in range(4):
        first = (k * model.conv.groups // 4) * share
        own = patches[:, first : first + share].reshape(len(patches), -1)
        w = weight[k].reshape(-1)
        y = own @ w
        above = y + bias[k] > 0
        y = y + bias[k] if with_bias else y  # the bias cancels, for mixed means as well
        chosen = np.ones_like(above) if estimator == "linear" else above
        expected = covariance_pattern(w, own, y, chosen, means)
        np.testing.assert_allclose(
            found.active["conv"][k].numpy().reshape(-1), expected, rtol=1e-9, atol=1e-12
        )
        if estimator == "two-component":
            expected = covariance_pattern(w, own, y, ~above, means)
            result = found.inactive["conv"][k].numpy().reshape(-1)
            np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)
    assert set(found.inactive) == ({"conv"} if estimator == "two-component" else set())


def test_the_means_make_a_difference() -> None:
    model, x = NETWORKS["sequential"](), images(16)
    mixed, conditional = (fit_patterns(model, x, means=means) for means in ("mixed", "conditional"))
    assert not torch.allclose(mixed.active["features.0"], conditional.active["features.0"])
    # no activation behind the last layer: all samples, one mean
    torch.testing.assert_close(mixed.active["classifier.4"], conditional.active["classifier.4"])


@pytest.mark.parametrize("activation", [F.softplus, lambda h: F.threshold(h, 0.0, 0.0), F.gelu])
def test_a_layer_before_any_form_of_rectifier_counts_its_active_samples(activation) -> None:
    model, plain = (seeded(lambda f=f: OneLayer(nn.Conv2d(3, 2, 3), f)) for f in (activation, F.relu))
    plain.load_state_dict(model.state_dict())
    x = images(6)
    expected = fit_patterns(plain, x).active["conv"]
    torch.testing.assert_close(fit_patterns(model, x).active["conv"], expected)
    assert not torch.allclose(fit_patterns(model, x, estimator="linear").active["conv"], expected)


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
def test_an_even_kernel_with_padding_same() -> None:
    model = seeded(lambda: OneLayer(nn.Conv2d(3, 2, 2, padding="same"), nn.Identity()))
    by_hand = seeded(lambda: OneLayer(nn.Conv2d(3, 2, 2), nn.Identity()))
    by_hand.load_state_dict(model.state_dict())
    x = images(6)
    expected = fit_patterns(by_hand, F.pad(x, (0, 1, 0, 1))).active["conv"]
    torch.testing.assert_close(fit_patterns(model, x).active["conv"], expected)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.linear(x.flatten(2).transpose(1, 2)).relu()).mean(1)


def test_linear_layers_on_tokens() -> None:
    model, x = seeded(Tokens), images(4, size=3)
    found = fit_patterns(model, x)
    samples = x.flatten(2).transpose(1, 2).reshape(-1, 3).numpy()
    w, b = model.linear.weight.detach().numpy(), model.linear.bias.detach().numpy()
    for k in range(4):
        y = samples @ w[k]
        expected = covariance_pattern(w[k], samples, y, y + b[k] > 0, "mixed")
        np.testing.assert_allclose(found.active["linear"][k].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("estimator", ["positive", "linear", "two-component"])
@pytest.mark.parametrize("network", NETWORKS)
def test_w_times_a_is_one_for_every_neuron_with_variance(network: str, estimator: str) -> None:
    model, x = NETWORKS[network](), images(24)
    for fold in (True, False):
        found = fit_patterns(model, x, estimator=estimator, fold_batch_norm=fold)
        maps = applications(record(model, x), fold)
        assert [at.name for at in maps] == list(found.active)
        for at, side in itertools.product(maps, (found.active, found.inactive)):
            if at.name not in side:
                continue
            a = side[at.name]
            assert a.shape == at.affine.weight.shape and not a.requires_grad
            products = (at.affine.weight * a).reshape(len(a), -1).sum(1)
            alive = a.reshape(len(a), -1).abs().sum(1) > 0
            torch.testing.assert_close(products[alive], torch.ones_like(products[alive]))
            if side is found.active:
                assert found.silent.get(at.name, 0) == (~alive).sum()


def test_batch_normalization_has_the_pattern_one_over_its_scale() -> None:
    model = seeded(Concatenating)
    found = fit_patterns(model, images(24), estimator="linear")
    scale = model.norm2.weight / (model.norm2.running_var + model.norm2.eps).sqrt()
    torch.testing.assert_close(found.active["norm2"], 1 / scale.detach())


def test_white_data_give_the_weight_over_its_squared_length() -> None:
    """All corners of a cube: E[x] = 0 and Cov[x] = I exactly."""
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=torch.float64)
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4)))
    found = fit_patterns(model, corners.reshape(64, 6, 1, 1))
    w = model[1].weight.detach()
    torch.testing.assert_close(found.active["1"], w / w.square().sum(1, keepdim=True))


@pytest.mark.parametrize("estimator", ["linear", "positive"])
def test_the_pattern_is_the_signal_where_the_weight_is_not(estimator: str) -> None:
    """Haufe et al. 2014; Kindermans et al. 2018.

    The signal s varies along (1, 0), a distractor along (1, 1); w = (1, -1) reads the signal.
    """
    grid = torch.linspace(-1, 1, 9, dtype=torch.float64)
    signal, distractor = (part.flatten() for part in torch.meshgrid(grid, 3 * grid, indexing="ij"))
    x = torch.stack([signal + distractor, distractor], 1).reshape(-1, 2, 1, 1)
    model = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.ReLU(), nn.Flatten()).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    patterns = fit_patterns(model, x, estimator=estimator)
    direction = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 2, 1, 1)
    torch.testing.assert_close(patterns.active["0"], direction)
    shown = vd.method("patternnet", patterns=patterns)(model, direction, 0)
    torch.testing.assert_close(shown, direction)
    torch.testing.assert_close(vd.method("gradient")(model, direction, 0), model[0].weight.detach())


def test_a_dominating_direction_brings_the_patterns_closer_to_rank_one() -> None:
    """Sixt et al. 2020, section 2.2: a pattern is one step of the power iteration with Cov[x]."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(400, 10, dtype=torch.float64, generator=generator)
    x[:, 0] *= 30
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(10, 8)))
    found = fit_patterns(model, x.reshape(-1, 10, 1, 1), estimator="linear")

    def ratio(matrix: Tensor) -> float:
        values = torch.linalg.svdvals(F.normalize(matrix, dim=1))
        return float(values[0] / values[1])

    assert ratio(found.active["1"]) > 3 * ratio(model[1].weight.detach())


@pytest.mark.parametrize("estimator", ["positive", "linear", "two-component"])
def test_the_split_into_batches_makes_no_difference(estimator: str) -> None:
    model, x = seeded(Residual), images(24)
    whole = fit_patterns(model, [x], estimator=estimator)
    loader = DataLoader(TensorDataset(x, torch.arange(24)), batch_size=7)
    for batches in (loader, [list(pair) for pair in loader], (part for part in x.split([1, 11, 12])), x):
        found = fit_patterns(model, batches, estimator=estimator)
        assert found.images == 24 and found.weights == whole.weights
        for side, expected in ((found.active, whole.active), (found.inactive, whole.inactive)):
            assert side.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(side[name], tensor, rtol=1e-7, atol=1e-10)
    assert fit_patterns(model, loader, estimator=estimator) == fit_patterns(
        model, loader, estimator=estimator
    )


def test_a_module_used_twice_has_two_patterns() -> None:
    found = fit_patterns(seeded(Shared), images(64))
    assert list(found.active) == ["conv", "conv#2", "linear", "linear#2", "head"]
    assert not torch.allclose(found.active["conv"], found.active["conv#2"])


def test_neurons_without_variance_are_silent() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 2)).eval()
    with torch.no_grad():
        model[0].weight[0] = 0  # constant
        model[0].bias.copy_(torch.tensor([1.0, -100.0, 0.0]))  # the second is never active
    x = images(4, dtype=torch.float32)
    found = fit_patterns(model, x)
    assert found.silent == {"0": 2}
    assert found.active["0"][:2].abs().max() == 0 and torch.isfinite(found.active["3"]).all()
    assert fit_patterns(model, x, estimator="linear").silent == {"0": 1}
    assert vd.method("patternnet", patterns=found)(model, x, 0).isfinite().all()


def test_a_large_mean_does_not_swallow_the_variance() -> None:
    exact = seeded(lambda: OneLayer(nn.Conv2d(3, 4, 3), nn.ReLU()))
    single = seeded(lambda: OneLayer(nn.Conv2d(3, 4, 3), nn.ReLU()), dtype=torch.float32)
    x = (images(64) + 1000).float()
    # always active or never: the same samples, but in float32 E[xy] - E[x]E[y] has lost six digits
    found, expected = (
        fit_patterns(m, x.to(m.conv.weight.dtype), estimator="linear") for m in (single, exact)
    )
    scale = expected.active["conv"].abs().max()
    assert found.active["conv"].dtype == torch.float32 and expected.active["conv"].dtype == torch.float64
    assert (found.active["conv"] - expected.active["conv"]).abs().max() < 1e-2 * scale


def test_half_precision_networks_get_patterns_in_single_precision() -> None:
    model = seeded(lambda: OneLayer(nn.Conv2d(3, 4, 3), nn.ReLU()), dtype=torch.bfloat16)
    x = images(16).bfloat16()
    found = fit_patterns(model, x)
    assert found.active["conv"].dtype == torch.float32
    assert vd.method("patternnet", patterns=found)(model, x, 0).dtype == torch.bfloat16


def test_progress_is_told_and_the_model_is_left_alone() -> None:
    model, told = seeded(Residual), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(8).requires_grad_()
    fit_patterns(model, x.split(3), progress=told.append)
    assert told == [3, 6, 8] and x.grad is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.mark.parametrize(
    ("batches", "options", "error", "match"),
    [
        ([], {}, ValueError, "expected batches of images.*got no batch; a generator"),
        ([{"image": 1}], {}, TypeError, r"expected batches of images, got .* the keys image; .*batch\[key\]"),
        (None, {}, TypeError, "expected batches as tensors .*got NoneType; give a DataLoader"),
        ({"image": images()}, {}, TypeError, "expected batches as tensors .*got dict; give a DataLoader"),
        ([3], {}, TypeError, "torch tensor .*got int"),
        ([torch.zeros(3, 8, 8)], {}, ValueError, r"inputs\[None\]"),
        ([torch.full((1, 3, 8, 8), math.nan)], {}, ValueError, "NaN or infinity"),
        ([images()], {"estimator": "quadratic"}, ValueError, "expected estimator to be one of positive"),
        ([images()], {"means": "harmonic"}, ValueError, "expected means to be one of mixed"),
    ],
)
def test_mistakes_are_named(batches, options, error, match) -> None:
    with pytest.raises(error, match=match):
        fit_patterns(seeded(Residual), batches, **options)


def test_a_network_without_affine_operations_has_no_patterns() -> None:
    with pytest.raises(ValueError, match="got no affine operation"):
        fit_patterns(Flat().eval(), images())


def test_overflow_is_named() -> None:
    model = OneLayer(nn.Conv2d(3, 2, 1), nn.ReLU()).eval()
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="NaN or infinity in conv; .*float64"):
        fit_patterns(model, 1e30 * torch.randn(2, 3, 4, 4, generator=generator))
