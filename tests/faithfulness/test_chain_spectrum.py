"""The singular values of whole backward chains: matrix-free against dense, and their link to cosines."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from networks import Attention, seeded
from networks_real import trained_resnet20
from veridical.attributions import method
from veridical.faithfulness import chain_spectrum, cosine_convergence


def images(count=2, side=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=g, dtype=torch.float64)


def convolutional(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 5)).double().eval()


def linear(*weights):
    layers = [nn.Flatten()]
    for weight in weights:
        layers.append(nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64))
        layers[-1].weight = nn.Parameter(weight)
    return nn.Sequential(*layers).eval()


def test_the_gradient_has_the_singular_values_of_the_jacobian():
    model, x = convolutional(), images()
    found = chain_spectrum(model, x, method("gradient"))
    for image in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda one: model(one)[0], x[image : image + 1])
        expected = torch.linalg.svdvals(jacobian.reshape(5, 48))
        torch.testing.assert_close(found.singular_values[image], expected)
        assert found.ratio[image] == pytest.approx(float(expected[0] / expected[1]))
        located = torch.linalg.svdvals(jacobian.reshape(5, 3, 16).permute(2, 0, 1))
        torch.testing.assert_close(found.local_ratio[image], located[:, 0] / located[:, 1])
        shares = expected / expected.sum()
        assert found.effective_rank[image] == pytest.approx(float((-shares * shares.log()).sum().exp()))
    assert found.residual.max() < 1e-12
    assert (found.start, found.layer, found.solver) == ("5", "input", "exact")


@pytest.mark.parametrize("name", ["gradient", "lrp-zplus", "lrp-z", "lrp-alpha2-beta1", "deep-taylor"])
@pytest.mark.parametrize(("start", "layer"), [(None, "0"), ("2", None), ("3", "1")])
def test_the_iterative_solver_agrees_with_the_exact_one(name, start, layer):
    model, x = convolutional(), images()
    exact = chain_spectrum(model, x, method(name), start=start, layer=layer, solver="exact", vectors=7)
    found = chain_spectrum(model, x, method(name), start=start, layer=layer, solver="iterative", count=3)
    torch.testing.assert_close(found.singular_values, exact.singular_values[:, :3], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.ratio, exact.ratio, rtol=1e-7, atol=0)
    assert found.residual.max() < 1e-8
    assert exact.residual.max() < 1e-10
    assert found.effective_rank.isnan().all()
    assert found.local_ratio.isnan().all()
    assert (found.start, found.layer) == (start or "5", layer or "input")


def test_the_solver_is_chosen_by_the_size_of_the_start():
    model = nn.Sequential(nn.Conv2d(3, 70, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1120, 4)).double().eval()
    assert chain_spectrum(model, images(1), method("gradient")).solver == "exact"
    assert chain_spectrum(model, images(1), method("gradient"), start="0").solver == "iterative"


def test_a_chain_of_rank_one_has_cosine_one_and_an_infinite_ratio():
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(8, 1, generator=g), torch.randn(1, 48, generator=g)
    above = torch.randn(6, 8, generator=g)
    model = linear(right.double(), left.double(), above.double())
    found = chain_spectrum(model, images(1), method("gradient"))
    assert found.ratio[0] > 1e15
    assert found.effective_rank[0] == pytest.approx(1, abs=1e-12)
    cosine = cosine_convergence(model, images(1), method("gradient"))
    assert cosine.one_minus_median[-1] < 1e-28
    assert chain_spectrum(model, images(1), method("gradient"), start="2", layer="1").ratio[0] == math.inf


@pytest.mark.parametrize("ratio", [0.3, 1e-2, 1e-5])
def test_the_cosine_of_a_chain_of_rank_two_follows_from_its_singular_values(ratio):
    """1 - |cosine| of two images of Gaussian vectors has the median 2 (sigma_2 / sigma_1)^2 for small ratios.

    The angles are ratio * c with c of a Cauchy distribution; the difference of two such c has the median 2.
    """
    g = torch.Generator().manual_seed(0)
    first, _ = torch.linalg.qr(torch.randn(48, 2, generator=g, dtype=torch.float64))
    second, _ = torch.linalg.qr(torch.randn(10, 2, generator=g, dtype=torch.float64))
    model = linear(second @ torch.diag(torch.tensor([1, ratio], dtype=torch.float64)) @ first.T)
    found = chain_spectrum(model, images(1), method("gradient"))
    assert found.ratio[0] == pytest.approx(1 / ratio, rel=1e-9)
    flat = torch.ones(30, 48, 1, 1, dtype=torch.float64)
    cosine = cosine_convergence(model, flat, method("gradient"), vectors=16)
    factor = cosine.one_minus_median[-1] / ratio**2
    assert factor == pytest.approx(2, rel=0.2) if ratio < 0.1 else factor < 2.2


class Sequence(nn.Module):
    """A convolution over the 16 places of a row, whose channels lie at axis 1 of three."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 5, 1), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x.flatten(2))).mean(2))


def test_locations_are_found_where_each_operation_has_its_channels():
    found = chain_spectrum(Sequence().double().eval(), images(2), method("gradient"), layer="conv")
    assert found.local_ratio.shape == (2, 16)
    tokens = chain_spectrum(seeded(Attention, 29), images(1, 8), method("gradient"), layer="mlp.0")
    assert tokens.local_ratio.shape == (1, 5)
    assert tokens.local_ratio.isnan().sum() == 4  # only the class token reaches the head


def test_rules_that_are_not_linear_show_in_the_residual():
    model, x = convolutional(3), images()
    found = chain_spectrum(model, x, method("guided-backprop"))
    assert found.residual.max() > 0.1
    with pytest.raises(
        ValueError, match="expected rules that are linear in the relevance, got guided-backprop"
    ):
        chain_spectrum(model, x, method("guided-backprop"), solver="iterative")


def test_images_do_not_depend_on_the_others_and_nothing_changes():
    model, x = convolutional(), images(3)
    state = torch.get_rng_state()
    for solver in ("exact", "iterative"):
        whole = chain_spectrum(model, x, method("lrp-zplus"), solver=solver, count=2)
        last = chain_spectrum(model, x[2:], method("lrp-zplus"), solver=solver, count=2, first_index=2)
        assert torch.equal(whole.singular_values[2:], last.singular_values)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None and value.requires_grad for value in model.parameters())
    assert not x.requires_grad


def test_a_dead_chain_is_not_measured():
    model = convolutional()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    found = chain_spectrum(model, images(), method("gradient"))
    assert found.ratio.isnan().all()
    assert found.effective_rank.isnan().all()
    assert found.local_ratio.isnan().all()
    assert found.residual.isnan().all()


def test_errors():
    model, x, explain = convolutional(), images(1), method("gradient")
    with pytest.raises(ValueError, match="expected a method with propagation rules"):
        chain_spectrum(model, x, method("integrated-gradients"))
    with pytest.raises(ValueError, match="expected the name of an operation, got 'conv9'"):
        chain_spectrum(model, x, explain, start="conv9")
    with pytest.raises(ValueError, match="expected the name of an operation, got 'conv9'"):
        chain_spectrum(model, x, explain, layer="conv9")
    with pytest.raises(ValueError, match="expected a layer below the start '0', got '2'"):
        chain_spectrum(model, x, explain, start="0", layer="2")
    with pytest.raises(ValueError, match="expected fewer singular values than the shorter side"):
        chain_spectrum(model, x, explain, solver="iterative", count=5)
    for settings, message in [
        ({"count": 1}, "expected a count of at least 2"),
        ({"vectors": 0}, "expected at least one vector"),
        ({"first_index": -1}, "expected a non-negative index"),
        ({"solver": "power"}, "expected solver"),
    ]:
        with pytest.raises(ValueError, match=message):
            chain_spectrum(model, x, explain, **settings)
    with pytest.raises(TypeError):
        chain_spectrum(model, x, explain, depth=3)


def cifar(folder, count):
    with zipfile.ZipFile(folder / "cifar10" / "test.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".jpg", ".png"))]
        chosen = np.random.default_rng(0).integers(0, len(names), count)
        arrays = [np.array(Image.open(io.BytesIO(archive.read(names[i]))).convert("RGB")) for i in chosen]
    x = torch.tensor(np.stack(arrays)).permute(0, 3, 1, 2).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


@pytest.mark.real_data
def test_on_a_trained_resnet20_cosines_follow_the_local_singular_values(data_folder):
    """lrp-zplus converges at each location; whole maps still differ. The gradient does neither."""
    model, x = trained_resnet20(data_folder).double(), cifar(data_folder, 4)
    local, cosine, whole = {}, {}, {}
    for name in ("gradient", "guided-backprop", "lrp-zplus"):
        found = chain_spectrum(model, x, method(name), layer="conv1")
        local[name], whole[name] = float(found.local_ratio.nanmedian()), float(found.ratio.median())
        measured = cosine_convergence(model, x, method(name), layers=("conv1",))
        cosine[name] = float(measured.one_minus_median[measured.layers.index("conv1")])
        assert 0.3 < cosine[name] * local[name] ** 2 < 5
        assert (found.residual.max() < 1e-9) == (name != "guided-backprop")
    assert local["gradient"] < 4 < local["guided-backprop"] < 20 < 50 < local["lrp-zplus"]
    assert cosine["lrp-zplus"] < 1e-3 < cosine["guided-backprop"] < 0.1 < cosine["gradient"]
    assert whole["gradient"] < 2 < whole["lrp-zplus"] < 20
