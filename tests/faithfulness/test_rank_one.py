"""Singular values of layers and of the matrices between them, on small networks with known answers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fitted import fitted
from networks import images
from veridical.faithfulness import Spectrum, inter_layer, rank_one_analysis, simulate_given


def orthogonal(size, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))[0]


def known(left, values, right):
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def convolutional():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 6, (3, 2), groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 2 * 3, 5)]
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        model[1].running_var.uniform_(0.5, 2)
        model[1].weight.uniform_(0.5, 2)
    return model


X = torch.zeros(1, 3, 8, 8, dtype=torch.float64)


def test_the_matrix_between_two_known_decompositions():
    """W_l = U_l S_l V_l^T in (cin, cout): where V_l = U_(l+1), T is sqrt(S_l S_(l+1))."""
    middle = orthogonal(4, 0)
    lower = known(orthogonal(4, 1), [9, 4, 1, 0.25], middle)
    upper = known(middle, [4, 1, 1 / 9, 1 / 16], orthogonal(4, 2))
    values = torch.linalg.svdvals(inter_layer(lower, upper))
    assert values.tolist() == pytest.approx([6, 2, 1 / 3, 1 / 8])
    assert Spectrum(values).ratio == pytest.approx(3)
    swapped = torch.linalg.svdvals(inter_layer(lower.T, upper.T))
    assert swapped.tolist() != pytest.approx(values.tolist())
    reversed_order = middle[:, [3, 2, 1, 0]]
    crossed = inter_layer(lower, known(reversed_order, [4, 1, 1 / 9, 1 / 16], orthogonal(4, 2)))
    assert torch.linalg.svdvals(crossed).tolist() == pytest.approx(
        sorted([math.sqrt(9 / 16), math.sqrt(4 / 9), 1, 1], reverse=True)
    )


def test_rectangular_layers_have_the_values_of_the_padded_definition():
    g = torch.Generator().manual_seed(0)
    lower = torch.randn(3, 6, generator=g, dtype=torch.float64)
    upper = torch.randn(6, 5, generator=g, dtype=torch.float64)
    u, s, vt = np.linalg.svd(lower.numpy(), full_matrices=True)
    u2, s2, vt2 = np.linalg.svd(upper.numpy(), full_matrices=True)
    below, above = np.zeros((6, 6)), np.zeros((6, 6))
    below[range(3), range(3)], above[range(5), range(5)] = np.sqrt(s), np.sqrt(s2)
    padded = np.linalg.svd(below @ vt @ u2 @ above, compute_uv=False)
    found = torch.linalg.svdvals(inter_layer(lower, upper))
    np.testing.assert_allclose(padded[: len(found)], found, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(padded[len(found) :], 0, atol=1e-12)


def test_ratio_and_effective_rank():
    assert Spectrum(torch.tensor([6.0, 3, 1])).ratio == 2
    assert Spectrum(torch.tensor([6.0])).ratio == math.inf
    assert Spectrum(torch.tensor([6.0, 0])).ratio == math.inf
    assert Spectrum(torch.tensor([6.0, 0])).effective_rank == 1
    assert Spectrum(torch.tensor([2.0, 2, 2])).effective_rank == pytest.approx(3)
    shares = np.array([0.75, 0.25])
    assert Spectrum(torch.tensor([3.0, 1])).effective_rank == pytest.approx(
        math.exp(-(shares * np.log(shares)).sum())
    )
    dead = Spectrum(torch.zeros(3))
    assert math.isnan(dead.ratio)
    assert math.isnan(dead.effective_rank)


def test_full_matrices_and_center_taps_of_a_convolutional_network():
    model = convolutional()
    found = rank_one_analysis(model, X)
    assert [one.name for one in found.layers] == ["0", "4", "7"]
    scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    first = (model[0].weight * scale[:, None, None, None]).detach()
    torch.testing.assert_close(
        found.layers[0].full["weight"].values, torch.linalg.svdvals(first.permute(2, 3, 1, 0).reshape(27, 4))
    )
    torch.testing.assert_close(found.taps[0]["weight"], first[:, :, 1, 1].T)
    grouped = model[4].weight.detach()
    dense = torch.zeros(6, 4, 3, 2, dtype=torch.float64)
    dense[:3, :2], dense[3:, 2:] = grouped[:3], grouped[3:]
    expected = torch.linalg.svdvals(dense.permute(2, 3, 1, 0).reshape(24, 6))
    torch.testing.assert_close(found.layers[1].full["weight"].values, expected)
    torch.testing.assert_close(found.taps[1]["weight"], dense[:, :, 1, 1].T)
    last = model[7].weight.detach()
    torch.testing.assert_close(found.taps[2]["weight"], last.reshape(5, 6, 2, 3)[:, :, 1, 1].T)
    torch.testing.assert_close(found.layers[2].full["weight"].values, torch.linalg.svdvals(last))
    assert found.ratios()["7"] == pytest.approx(found.layers[2].full["weight"].ratio)
    assert found.ratios(center=True)["7"] == pytest.approx(found.layers[2].center["weight"].ratio)
    between = torch.linalg.svdvals(inter_layer(found.taps[1]["weight"], found.taps[2]["weight"]))
    assert found.pair_ratios() == {
        ("0", "4"): pytest.approx(found.pairs[0].between["weight"].ratio),
        ("4", "7"): pytest.approx(float(between[0] / between[1])),
    }


def test_batch_normalization_that_is_not_folded_is_diagonal():
    model = convolutional()
    found = rank_one_analysis(model, X, fold_batch_norm=False)
    assert [one.name for one in found.layers] == ["0", "1", "4", "7"]
    scale = (model[1].weight / (model[1].running_var + model[1].eps).sqrt()).detach()
    torch.testing.assert_close(
        found.layers[1].full["weight"].values, scale.abs().sort(descending=True).values
    )
    assert list(found.pair_ratios()) == [("0", "1"), ("1", "4"), ("4", "7")]


def test_patterns_and_their_products_with_the_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double().eval()
    active = fitted(model).active
    found = rank_one_analysis(model, images(1), patterns=active)
    weight = model[3].weight.detach()
    torch.testing.assert_close(
        found.layers[1].full["product"].values,
        torch.linalg.svdvals(weight * active["3"]),
        rtol=1e-6,
        atol=1e-9,
    )
    torch.testing.assert_close(found.taps[0]["pattern"], active["0"][:, :, 1, 1].T.double())
    assert set(found.pairs[0].between) == {"weight", "pattern", "product"}
    assert found.pair_ratios("product") != found.pair_ratios("weight")


def test_patterns_point_where_the_input_varies_most():
    """One step of a power iteration: where the input varies mostly in one direction, the ratio grows."""
    g = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 3, 8, 8, generator=g, dtype=torch.float64)
    noise = torch.randn(200, 3, 8, 8, generator=g, dtype=torch.float64)
    x = 10 * torch.randn(200, 1, 1, 1, generator=g, dtype=torch.float64) * direction + noise
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).double().eval()
    from veridical.attributions import fit_patterns

    patterns = fit_patterns(model, [x]).active
    found = rank_one_analysis(model, x, patterns=patterns)
    assert found.ratios("pattern")["1"] > 3 * found.ratios("weight")["1"]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.inner = nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + self.inner(x).relu()
        return self.last(x.mean((2, 3)))


def test_the_neighbor_across_a_sum_is_the_layer_that_ran_last():
    found = rank_one_analysis(Residual().double().eval(), X)
    assert list(found.pair_ratios()) == [("first", "inner"), ("inner", "last")]


def test_the_backward_chain_fits_the_simulation():
    found = rank_one_analysis(convolutional(), X)
    chain = found.backward_chain()
    assert [tuple(one.shape) for one in chain] == [(5, 6), (6, 4), (4, 3)]
    result = simulate_given(chain, rectified=True, vectors=4, repetitions=2)
    assert result.settings.widths == (5, 6, 4, 3)


def test_the_network_stays_as_it_was():
    model = convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rank_one_analysis(model, X)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_errors():
    model = convolutional()
    found = rank_one_analysis(model, X)
    with pytest.raises(ValueError, match="expected an analysis with patterns for 'product'"):
        found.ratios("product")
    with pytest.raises(ValueError, match="expected quantity"):
        found.pair_ratios("kernel")
    with pytest.raises(ValueError, match=r"expected a pattern of shape \(4, 3, 3, 3\) for 0, got none"):
        rank_one_analysis(model, X, patterns={})
    with pytest.raises(ValueError, match=r"expected a pattern of shape .* got \(2,\)"):
        rank_one_analysis(model, X, patterns={"0": torch.ones(2)})
    with pytest.raises(ValueError, match=r"expected matrices \(a, b\) and \(b, c\)"):
        inter_layer(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected a network with convolutions or linear layers"):
        rank_one_analysis(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), X)
