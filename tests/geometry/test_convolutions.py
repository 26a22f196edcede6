"""Constant weights: the same values and derivatives of every order, without derivatives by the weights."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from networks import Concatenating, Mobile, Residual, images, seeded
from veridical.geometry.convolutions import ConstantWeights
from veridical.smoothing import SmoothedModel

LAYERS = {
    "1d": (nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 7)),
    "2d": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (2, 3, 6, 5)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3, dilation=2, padding=2), (2, 3, 6, 5)),
    "unbatched": (nn.Conv2d(3, 4, 3), (3, 6, 5)),
    "3d": (nn.Conv3d(2, 3, 2, stride=2), (1, 2, 4, 4, 4)),
    "by name": (nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 6, 5)),
    "normalized": (nn.BatchNorm2d(3).eval(), (2, 3, 4, 4)),
    "normalized without weights": (nn.BatchNorm2d(3, affine=False).eval(), (2, 3, 4, 4)),
    "statistics of the batch": (nn.BatchNorm2d(3, track_running_stats=False).eval(), (2, 3, 4, 4)),
}


def derivatives(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Value, gradient, Hessian times a vector, and its gradient: each of a cubed output."""
    leaf = x.clone().requires_grad_()
    value = layer(leaf)
    (first,) = torch.autograd.grad(value.pow(3).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * x.sin()).sum(), leaf, create_graph=True)
    (third,) = torch.autograd.grad((second * x.cos()).sum(), leaf)
    return [value.detach(), first.detach(), second.detach(), third]


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_derivatives_of_every_order_are_the_same(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = layer.double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = derivatives(layer, x)
    with ConstantWeights():
        found = derivatives(layer, x)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and torch.allclose(one, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("build", [Mobile, Residual, Concatenating])
def test_a_network_has_the_same_hessian(build: type[nn.Module]) -> None:
    model, x = SmoothedModel(seeded(build, 12), 5.0), images(1, 6)
    expected = hessian(lambda image: model(image)[0, 1], x)
    with ConstantWeights():
        found = hessian(lambda image: model(image)[0, 1], x)
    assert expected.abs().max() > 0 and torch.allclose(found, expected, atol=1e-12)


def test_weights_have_no_derivative_within_and_have_one_after() -> None:
    layer, x = nn.Conv2d(3, 4, 3).double(), images(1, 6).requires_grad_()
    with ConstantWeights():
        layer(x).sum().backward()
    assert layer.weight.grad is None and x.grad is not None
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_a_call_by_names_with_short_sizes_is_the_same() -> None:
    layer, x = nn.Conv2d(3, 4, 3).double(), images(1, 6)
    given = {"weight": layer.weight, "stride": (2,), "padding": (1,), "dilation": (1,)}
    with ConstantWeights():
        found = torch.conv2d(input=x, **given)
    assert torch.equal(found, torch.conv2d(input=x, **given))


def test_autocast_is_left_alone() -> None:
    layer, x = nn.Conv2d(3, 4, 3), images(1, 6, dtype=torch.float32).requires_grad_()
    with ConstantWeights(), torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).float().square().sum().backward()
    assert x.grad is not None and layer.weight.grad is not None


def test_a_weight_that_was_computed_keeps_its_derivative() -> None:
    x = images(1, 6).requires_grad_()
    with ConstantWeights():
        torch.conv2d(x, x[:, :, :3, :3] * 2).sum().backward()
    exact = images(1, 6).requires_grad_()
    torch.conv2d(exact, exact[:, :, :3, :3] * 2).sum().backward()
    assert torch.allclose(x.grad, exact.grad)
