"""Functions with known level sets and small softplus networks, with dense Hessians beside them."""

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian


class Quadric(nn.Module):
    """Two logits: x D x / 2 + offset, and 0, for a diagonal D over the flat image."""

    def __init__(self, diagonal: list[float]) -> None:
        super().__init__()
        self.register_buffer("diagonal", torch.tensor(diagonal, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        value = (x.flatten(1).square() * self.diagonal).sum(dim=1) / 2
        return torch.stack([value, torch.zeros_like(value)], dim=1)


class Saddle(nn.Module):
    """g = x^2 - y^2 - z: the saddle surface z = x^2 - y^2 at level 0, with curvatures 2 and -2 at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.flatten(1).unbind(dim=1)
        value = a**2 - b**2 - c
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def point(*values: float) -> Tensor:
    """One image of shape (1, 1, 1, d)."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def perceptron(seed: int, sizes: tuple[int, ...], beta: float | None) -> nn.Module:
    """Linear layers with softplus of that beta between them, or with ReLU; float64."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(before, after).double()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(after, before, generator=generator).double() / before**0.5)
            layer.bias.copy_(0.3 * torch.randn(after, generator=generator).double())
        parts += [layer, nn.ReLU() if beta is None else nn.Softplus(beta)]
    return nn.Sequential(*parts[:-1]).eval()


def dense(model: nn.Module, x: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient (d,), Hessian (d, d) and sorted principal curvatures (d - 1,) at one image (1, C, H, W)."""

    def value(flat: Tensor) -> Tensor:
        return model(flat.view_as(x))[0, target]

    flat = x.detach().flatten()
    (gradient,) = torch.autograd.grad(value(leaf := flat.clone().requires_grad_()), leaf)
    matrix = hessian(value, flat)
    basis = torch.linalg.svd(gradient[None])[2][1:]
    return gradient, matrix, torch.linalg.eigvalsh(basis @ matrix @ basis.T / gradient.norm())


def by_size(values: Tensor) -> Tensor:
    """In the order of falling magnitude."""
    return values[values.abs().argsort(descending=True)]
