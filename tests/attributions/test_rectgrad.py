"""Rectified gradients: by hand, against a full sort, against guided backpropagation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, Concatenating, Residual, Sequential, Shared, images, seeded
from veridical.attributions import method
from veridical.rules import UnsupportedOperation, propagate, record

RELU_NETWORKS = {
    "sequential": Sequential, "residual": Residual, "shared": Shared, "concatenating": Concatenating,
}  # fmt: skip


class ThreeUnits(nn.Module):
    """ReLU of three pixels, weighed: activations 1, 2, 4 with signals 5, 2, -1."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[5.0, 2.0, -1.0], [0.0, 0.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(x.flatten(1)))


@pytest.mark.parametrize(
    ("percentile", "expected"),
    # scores 5, 4, -4: the threshold is 0, then -4 cut to 0, then 4, then 5
    [(0, [5, 2, 0]), (20, [5, 2, 0]), (50, [5, 0, 0]), (70, [5, 0, 0]), (80, [0, 0, 0]), (100, [0, 0, 0])],
)
def test_three_units_by_hand(percentile: float, expected: list[float]) -> None:
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    relevance = method("rectgrad", percentile=percentile)(ThreeUnits().eval(), x, 0)
    assert relevance.flatten().tolist() == expected


def test_where_all_scores_are_positive_the_0th_percentile_cuts_nothing() -> None:
    model = ThreeUnits().eval()
    model.head.weight.data.abs_()
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    assert method("rectgrad", percentile=0)(model, x, 0).flatten().tolist() == [5, 2, 1]


def test_a_negative_activation_lets_a_negative_signal_pass_and_stops_a_positive_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LeakyReLU(0.5), nn.Linear(2, 2, bias=False)).eval()
    model[2].weight.data = torch.tensor([[-3.0, 3.0], [0.0, 0.0]])
    x = torch.tensor([-1.0, -2.0]).view(1, 1, 1, 2)
    assert method("rectgrad", percentile=0)(model, x, 0).flatten().tolist() == [-1.5, 0]


@pytest.mark.parametrize("seed", ["one", "value"])
@pytest.mark.parametrize("network", [*RELU_NETWORKS, "mobile"])
def test_the_0th_percentile_is_guided_backpropagation_exactly(network: str, seed: str) -> None:
    model, x = NETWORKS[network](), images(4)
    ours = method("rectgrad", percentile=0.0, seed=seed)(model, x, 1)
    assert torch.equal(ours, method("guided-backprop", seed=seed)(model, x, 1))


def rectified_by_sorting(x: Tensor, model: nn.Module, percentile: float) -> Tensor:
    """The method with real autograd: a hook on the output of every ReLU, its threshold from a full sort."""

    def rectify(y: Tensor) -> Tensor:
        def mask(signal: Tensor) -> Tensor:
            score = y.detach() * signal
            ranked = score.flatten(1).sort(1, descending=True).values
            rank = round((ranked.shape[1] - 1) * (100 - percentile) / 100)
            least = ranked[:, rank].clamp(min=0)
            return signal * (score > least.view(-1, *[1] * (y.dim() - 1)))

        y.register_hook(mask)
        return y

    image = x.clone().requires_grad_()
    hidden = rectify(F.relu(model.features[0](image)))
    hidden = rectify(F.relu(model.features[3](model.features[2](hidden))))
    hidden = rectify(F.relu(model.classifier[2](hidden.flatten(1))))
    return torch.autograd.grad(model.classifier[4](hidden)[:, 1].sum(), image)[0]


@pytest.mark.parametrize("percentile", [20.0, 55.0, 75.0])
def test_the_whole_method_equals_hooks_and_a_full_sort(percentile: float) -> None:
    model, x = seeded(Sequential), images(4)
    ours = method("rectgrad", percentile=percentile)(model, x, 1)
    expected = rectified_by_sorting(x, model, percentile)
    assert bool(expected.flatten(1).any(1).any())
    torch.testing.assert_close(ours, expected)


def test_no_threshold_is_below_0() -> None:
    model = ThreeUnits().eval()
    model.head.weight.data[0] = torch.tensor([5.0, -1.0, -2.0])
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    # scores 5, -2, -8: the threshold of the authors' code is -8, and -1 would pass
    assert method("rectgrad", percentile=20)(model, x, 0).flatten().tolist() == [5, 0, 0]


def test_at_most_the_share_above_the_percentile_passes_an_activation() -> None:
    model, x = seeded(Sequential), images(3)
    trace = record(model, x)
    start = torch.randn(4, *trace.operation("features.1").output.shape, dtype=x.dtype)
    below = propagate(trace, method("rectgrad", percentile=90.0).rules, start, at="features.1", keep="all")
    passed = (below.layers["features.0"] != 0).flatten(2)
    assert below.layers["features.1"].shape == start.shape
    assert bool((passed.sum(2) <= 0.1 * passed.shape[2]).all()) and bool(passed.any(2).all())


def test_several_starting_vectors_have_their_own_thresholds() -> None:
    model, x = seeded(Sequential), images(2)
    trace, explain = record(model, x), method("rectgrad", percentile=40.0)
    targets = torch.tensor([[0, 1], [1, 2], [3, 3]])
    together = explain.from_trace(trace, targets)
    for row, target in zip(together, targets, strict=True):
        torch.testing.assert_close(row, explain(model, x, target))


def test_the_mask_is_a_constant_of_the_derivative() -> None:
    model, x = seeded(Sequential), images(1).requires_grad_()
    relevance = method("rectgrad", percentile=60.0)(model, x, 1)
    # locally linear: the derivative of a ReLU network's modified gradient is 0, whatever the scores do
    (derivative,) = torch.autograd.grad(relevance.square().sum(), x)
    assert relevance.requires_grad and not derivative.any()


@pytest.mark.parametrize("percentile", [-1, 100.5, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match=r"percentile in 0\.\.100, got"):
        method("rectgrad", percentile=percentile)


def test_other_options_and_networks_without_activation_are_refused() -> None:
    with pytest.raises(ValueError, match="seed to be one of"):
        method("rectgrad", seed="half")
    with pytest.raises(UnsupportedOperation, match="rectgrad modifies, got none"):
        method("rectgrad")(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double().eval(), images(), 0)


def test_the_convention_of_sixt_2020() -> None:
    explain = method("rectgrad", convention="sixt2020")
    assert explain == method("rectgrad", seed="value", percentile=98.0) and explain.name == "rectgrad"


def test_the_rule_says_its_percentile() -> None:
    assert "98th percentile" in method("rectgrad").rules.rules["activation"].__doc__
