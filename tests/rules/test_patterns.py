"""The rule of patterns, and what it needs of affine maps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import NETWORKS, Residual, images, seeded
from veridical.rules import affine_pattern, applications, record

CONVOLUTIONS = {
    "1d": lambda: (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9)),
    "2d": lambda: (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), dilation=2, padding=(2, 1)), (3, 4, 7, 8)),
    "3d": lambda: (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 4, 3)),
    "linear": lambda: (nn.Linear(4, 3), (2, 5, 4)),
    "norm": lambda: (nn.BatchNorm2d(3), (2, 3, 4, 4)),
}


class Behind(nn.Module):
    """One layer on a reshaped image."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x):
        return self.layer(x.reshape(self.shape)).flatten(1)[:, :2]


def applied(layer: nn.Module, shape: tuple[int, ...]):
    """The one affine map, and its output's shape."""
    model = seeded(lambda: Behind(layer, shape))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).reshape(shape[0], 1, 1, -1)
    return applications(record(model, x))[0]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_weight_gradient_is_autograds(kind: str) -> None:
    at = applied(*CONVOLUTIONS[kind]())
    x, weight = at.x.detach(), at.affine.weight.detach().clone().requires_grad_()
    r = torch.randn(at.y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad((at.affine.product(x, weight) * r).sum(), weight)
    torch.testing.assert_close(at.affine.weight_gradient(x, r), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_pattern_takes_the_place_of_the_weight(kind: str, weighted: bool) -> None:
    at = applied(*CONVOLUTIONS[kind]())
    generator = torch.Generator().manual_seed(2)
    a, other = (torch.randn(at.affine.weight.shape, dtype=torch.float64, generator=generator) for _ in "ab")
    r = torch.randn(2, *at.y.shape, dtype=torch.float64, generator=generator)
    kernel = at.affine.weight * a if weighted else a
    rule = affine_pattern({at.name: a}, {}, weighted=weighted)
    torch.testing.assert_close(rule(at, r), at.affine.adjoint(r, kernel))
    rule = affine_pattern({at.name: a}, {at.name: other}, weighted=weighted)
    lower = at.affine.weight * other if weighted else other
    above = (at.y > 0).double()
    assert 0 < above.mean() < 1
    expected = at.affine.adjoint(r * above, kernel) + at.affine.adjoint(r * (1 - above), lower)
    torch.testing.assert_close(rule(at, r), expected)


def test_the_rule_says_what_it_is() -> None:
    assert affine_pattern({}, {}, weighted=False).__doc__.startswith("R_in = A^T R")
    assert affine_pattern({}, {}, weighted=True).__doc__.startswith("R_in = (W * A)^T R")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fold", [True, False])
def test_applications_are_the_affine_maps_of_the_forward_pass(network: str, fold: bool) -> None:
    found = applications(record(NETWORKS[network](), images()), fold)
    for at in found:
        bias = at.affine.shaped_bias(at.y)
        y = at.affine.product(at.x, at.affine.weight)
        torch.testing.assert_close(y if bias is None else y + bias, at.y)


def test_a_normalization_is_folded_only_where_nothing_else_uses_its_input() -> None:
    names = [at.name for at in applications(record(seeded(Residual), images()))]
    assert names == ["stem", "first", "second", "alone", "head"]
    names = [at.name for at in applications(record(seeded(Residual), images()), fold_batch_norm=False)]
    assert names == ["stem", "norm", "first", "second", "alone", "head"]

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return F.relu(self.norm(y) + y).mean([2, 3])

    assert [at.name for at in applications(record(seeded(Twice), images()))] == ["conv", "norm"]
