"""Tiny networks with few parameters and known properties; every one is built from a seed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def seeded(build: Callable[[], nn.Module], seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build a module with its own random numbers, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build()
        for parameter in module.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, std=0.3)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(std=0.3)
                part.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(part.weight, 0.5, 1.5)
    return module.to(dtype).eval()


def images(count: int = 2, size: int = 8, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=dtype)


class Sequential(nn.Module):
    """Convolution, ReLU modules, max pooling, linear layers."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, stride=2, bias=bias), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 4, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Residual(nn.Module):
    """Functional, in-place and reused ReLU, in-place addition, padding, batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.second = nn.Conv2d(4, 4, 1)
        self.alone = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(F.pad(x, (0, 1, 0, 1)))))
        branch = F.relu(self.first(x))
        branch = self.second(branch)
        branch += x
        x = self.alone(self.relu(branch))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.head(F.dropout(x.view(len(x), -1), training=self.training))


class Mobile(nn.Module):
    """ReLU6, linear bottleneck, depthwise convolution, residual `+`, mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.act = nn.ReLU6()
        self.project = nn.Conv2d(6, 3, 1)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.expand(x)) * 3)
        x = x + self.project(F.relu6(self.depthwise(hidden)))
        return self.head(x.mean([2, 3]))


class Shared(nn.Module):
    """One convolution and one linear layer used twice; or, unrolled, two of each with the same weights."""

    def __init__(self, unrolled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.conv_again = nn.Conv2d(3, 3, 3, padding=1) if unrolled else self.conv
        self.linear = nn.Linear(12, 12)
        self.linear_again = nn.Linear(12, 12) if unrolled else self.linear
        self.head = nn.Linear(12, 4)
        if unrolled:
            self.tie()

    def tie(self) -> None:
        self.conv_again.load_state_dict(self.conv.state_dict())
        self.linear_again.load_state_dict(self.linear.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv_again(torch.relu(self.conv(x))))
        x = F.avg_pool2d(x, 4).flatten(1)
        return self.head(self.linear_again(self.linear(x).relu()).relu())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "sequential": lambda: seeded(Sequential),
    "residual": lambda: seeded(Residual),
    "mobile": lambda: seeded(Mobile),
    "shared": lambda: seeded(Shared),
}
