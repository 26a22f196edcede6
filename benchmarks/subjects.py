"""Networks, batches and plain autograd, common to all claims."""

import torch
from tests import conftest  # noqa: F401  (makes torchvision importable beside a CPU build of torch)
from torch import Tensor, nn

from veridical.models import load_model


def batch(count: int, size: int = 224, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def torchvision_network(name: str) -> nn.Module:
    """A torchvision classifier with random weights of the size that its initialization gives."""
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.get_model(name, weights=None).eval()


def efficientnet_lite() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    return load_model("demo").module


def forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def autograd_gradient(model: nn.Module, x: Tensor, target: int) -> Tensor:
    """What a user would write by hand."""
    image = x.detach().clone().requires_grad_()
    return torch.autograd.grad(model(image)[:, target].sum(), image)[0]
