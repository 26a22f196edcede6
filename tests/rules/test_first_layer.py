"""The rules of the first layer that do not look at the image: w^2 and flat."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Mobile, Residual, Sequential, images, seeded
from veridical.attributions import method
from veridical.rules import Application, affine_flat, affine_w_square, propagate, record
from veridical.rules.affine import Affine

FIRST = pytest.mark.parametrize("first", ["w-square", "flat"])


class One(nn.Module):
    """A single layer behind a step that the image takes first."""

    def __init__(self, layer: nn.Module, before=lambda x: x) -> None:
        super().__init__()
        self.layer, self.before = layer, before

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(x)).flatten(1)


def dense_matrix(model: nn.Module, x: Tensor) -> Tensor:
    """The network's Jacobian (outputs, inputs), each image value being its own input."""
    return torch.autograd.functional.jacobian(lambda image: model(image[None])[0], x[0]).flatten(1)


def through_dense(weights: Tensor, start: Tensor) -> Tensor:
    """R_in = M^T (R / row sums of M) for a dense matrix of weights; 0 for a row of zeros."""
    sums = weights.sum(1)
    return (start / torch.where(sums == 0, torch.inf, sums)) @ weights


LAYERS = {
    "padding": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "padding and stride": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "a stride that leaves pixels out": lambda: nn.Conv2d(3, 4, 2, stride=3),
    "dilation": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False),
    "much padding": lambda: nn.Conv2d(3, 2, 5, padding=4),
}


@FIRST
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_convolution_equals_the_dense_form(first: str, layer) -> None:
    model, x = seeded(lambda: One(layer())), images(2, size=6)
    trace = record(model, x)
    start = torch.randn(3, *trace.logits.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    ours = propagate(trace, method("lrp-zplus", first=first).rules, start).inputs.flatten(2)
    matrix = dense_matrix(model, x)
    weights = matrix.square() if first == "w-square" else (matrix != 0).to(matrix)
    torch.testing.assert_close(ours, through_dense(weights, start))
    reached = torch.where((weights.sum(1) > 0), start, 0.0)  # units that see nothing but padding
    torch.testing.assert_close(ours.sum(2), reached.sum(2))


def test_two_units_by_hand() -> None:
    model = One(nn.Linear(2, 2), lambda x: x.flatten(1)).double().eval()
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    x = torch.tensor([0.3, -5.0], dtype=torch.float64).view(1, 2, 1, 1)
    start = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    for first, expected in (("w-square", [1 / 5 + 2 * 9 / 9, 4 / 5]), ("flat", [1 / 2 + 1, 1 / 2 + 1])):
        result = propagate(record(model, x), method("lrp-z", first=first).rules, start).inputs
        torch.testing.assert_close(result.flatten(), torch.tensor(expected, dtype=torch.float64))


STEPS = {
    "nothing": lambda x: x,
    "zeros around it": lambda x: F.pad(x, (2, 1, 0, 3)),
    "a constant around it": lambda x: F.pad(x, (2, 1, 0, 3), value=0.7),
    "its own reflection around it": lambda x: F.pad(x, (2, 1, 1, 3), mode="reflect"),
    "normalization": lambda x: (x - 0.4) / -2.0,
    "normalization and zeros around it": lambda x: F.pad((x - 0.4) * 3, (1, 1, 1, 1)),
    "every second place as channels": lambda x: torch.cat([x[..., ::2], x[..., 1::2]], 2),
    "each channel's own normalization": lambda x: torch.cat([x[:, :1] * 2, x[:, 1:2] - 1, -x[:, 2:]], 1),
    "channels apart": lambda x: torch.stack(x.unbind(1)[::-1], 1),
}


@FIRST
@pytest.mark.parametrize("before", STEPS.values(), ids=STEPS)
def test_relevance_is_conserved_whatever_lies_around_the_image(first: str, before) -> None:
    model, x = seeded(lambda: One(nn.Conv2d(3, 4, 3, padding=1), before)), images(2, size=6)
    trace = record(model, x)
    start = torch.rand(2, *trace.logits.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    ours = propagate(trace, method("lrp-zplus", first=first).rules, start).inputs
    seen = torch.stack([(dense_matrix(model, x[i : i + 1]) != 0).any(1) for i in range(2)])
    torch.testing.assert_close(ours.flatten(2).sum(2), (start * seen).sum(2))


@FIRST
@pytest.mark.parametrize("build", [Sequential, Residual])
@pytest.mark.parametrize(
    ("name", "options"),
    [("lrp-zplus", {}), ("lrp-alpha2-beta1", {"bias": "none"}), ("lrp-epsilon", {}), ("lrp-cmp-alpha1", {})],
)
def test_the_first_layer_hands_on_what_it_receives(first: str, build, name: str, options: dict) -> None:
    model, x = seeded(build), images(3)
    layer = "features.0" if build is Sequential else "norm"
    trace, rules = record(model, x), method(name, first=first, **options).rules
    start = torch.randn(2, *trace.logits.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    result = propagate(trace, rules, start, keep=[layer])
    torch.testing.assert_close(result.inputs.flatten(2).sum(2), result.layers[layer].flatten(2).sum(2))
    same = method(name, **options)(model, x, 1)
    assert not torch.allclose(method(name, first=first, **options)(model, x, 1), same)


@FIRST
def test_the_image_has_no_say_in_a_single_layer(first: str) -> None:
    model = seeded(lambda: One(nn.Conv2d(3, 4, 3, padding=1)))
    explain = method("lrp-zplus", first=first, seed="one")
    x = images(2, size=4)
    constant = torch.full_like(x, 0.25)  # no bounds of its own, and still an image
    torch.testing.assert_close(explain(model, x, 5), explain(model, constant, 5))
    assert explain(model, constant, 5).abs().sum() > 0


@FIRST
def test_batch_norm_in_front_passes_its_relevance(first: str) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.rest = nn.BatchNorm2d(3), Mobile()

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.norm(x))

    trace, rules = record(seeded(Normed), images()), method("lrp-zplus", first=first).rules
    result = propagate(trace, rules, torch.ones(1, 2, 4).double(), keep=["norm"])
    torch.testing.assert_close(result.inputs, result.layers["norm"])


@FIRST
def test_a_unit_without_weights_hands_on_nothing(first: str) -> None:
    model = One(nn.Linear(3, 2), lambda x: x.flatten(1)).double().eval()
    nn.init.zeros_(model.layer.weight)
    result = method("lrp-zplus", first=first, seed="one")(model, torch.ones(1, 3, 1, 1).double(), 0)
    assert abs(result.sum().item() - (0.0 if first == "w-square" else 1.0)) < 1e-12


@pytest.mark.parametrize("rule", [affine_w_square, affine_flat])
def test_the_rules_need_the_inputs_bounds(rule) -> None:
    at = Application(Affine(torch.ones(1, 2), None, 0), torch.ones(1, 2), torch.ones(1, 1), "layer")
    with pytest.raises(ValueError, match="bounds, got none; w.2 and flat are for the first layer only"):
        rule(at, torch.ones(1, 1, 1))


@pytest.mark.parametrize(
    "name", ["lrp-z", "lrp-zplus", "lrp-cmp-alpha2", "contrastive-lrp", "contrastive-excitation-backprop"]
)
def test_options_of_the_first_layer_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="expected first to be one of same, z-box, w-square, flat"):
        method(name, first="w2")
    with pytest.raises(ValueError, match="low < high"):
        method(name, first="z-box", bounds=(1.0, 1.0))
    with pytest.raises(ValueError, match='bounds with first "z-box" only, got .0.0, 1.0. with first "flat"'):
        method(name, first="flat", bounds=(0.0, 1.0))
    x = images().abs()
    assert method(name, first="z-box", bounds=(0.0, 5.0))(seeded(Sequential), x, 1).shape == x.shape
