"""Derivatives of relevance shared out by sums of next to nothing: what softplus leaves of dead units."""

import pytest
import torch
from torch import nn

from networks import images, seeded
from veridical.attacks.loss import saliency_map
from veridical.attributions import method
from veridical.smoothing import beta_smooth
from veridical.tensors import safe_divide


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    """A numerator (2, 3, 4) and a denominator (3, 4), both requiring grad."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(size, generator=generator).double() for size in ((2, 3, 4), (3, 4)))
    return first.requires_grad_(), second.requires_grad_()


def test_first_and_second_derivatives_of_a_quotient() -> None:
    assert torch.autograd.gradcheck(safe_divide, operands(), eps=1e-7)
    assert torch.autograd.gradgradcheck(safe_divide, operands(), eps=1e-7)


@pytest.mark.parametrize("which", [0, 1])
def test_the_derivative_by_one_operand_alone(which: int) -> None:
    given = [one.detach() for one in operands()]
    given[which].requires_grad_()
    assert torch.autograd.gradcheck(safe_divide, tuple(given), eps=1e-7)


def test_a_share_of_next_to_nothing_has_a_derivative_in_single_precision() -> None:
    # x_i / sum x: the derivative by log x_i is bounded, however small the values are.
    powers = torch.tensor([-25.0, -25.5, -24.8], requires_grad=True)
    x = 10.0**powers
    (found,) = torch.autograd.grad((x * safe_divide(torch.ones(1), x.sum(0, keepdim=True)))[0], powers)
    exact = powers.detach().double().requires_grad_()
    y = 10.0**exact
    (expected,) = torch.autograd.grad((y / y.sum(0, keepdim=True))[0], exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def dead() -> nn.Module:
    """Seven in eight channels of a layer are dead: softplus of beta 5 leaves about 1e-15 to 1e-25 of them."""

    def build() -> nn.Module:
        parts = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8)]
        return nn.Sequential(*parts, nn.ReLU6(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(8, 4))

    network = seeded(build)
    network.requires_grad_(False)[0].bias[1:] = torch.linspace(-10.0, -8.0, 7)
    return network


@pytest.mark.parametrize("name", ["deep-taylor", "lrp-zplus", "lrp-alpha2-beta1"])
def test_lrp_of_dead_units_has_a_derivative_in_single_precision(name: str) -> None:
    explain = beta_smooth(method(name), 5.0)
    found = {}
    for dtype in (torch.float32, torch.float64):
        x = images(2).to(dtype).requires_grad_()
        maps = saliency_map(explain, dead().to(dtype), x, torch.tensor([0, 1]))
        weights = torch.arange(64.0).reshape(8, 8).to(dtype)
        (found[dtype],) = torch.autograd.grad((maps * weights).sum(), x)
    single, double = found.values()
    assert bool(single.isfinite().all())
    torch.testing.assert_close(single.double(), double, rtol=1e-2, atol=1e-2 * float(double.abs().max()))
