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
            elif isinstance(part, nn.LayerNorm):
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


class Gated(nn.Module):
    """Squeeze-and-excitation, x * sigmoid(x) written out, SiLU, hardswish, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.squeeze = nn.Conv2d(4, 2, 1)
        self.excite = nn.Conv2d(2, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.wide = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = gate * x + self.scale * F.hardswish(self.wide(x))
        x = x * torch.sigmoid(x)
        return self.head(x.mean((2, 3)))


class Concatenating(nn.Module):
    """Concatenation as in DenseNet: batch normalization before the convolutions, average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 4, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)
        self.norm3 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = self.pool(self.conv2(F.relu(self.norm2(x), inplace=True)))
        x = F.relu(self.norm3(x), inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class Attention(nn.Module):
    """A vision transformer: patches, class token, positions, LayerNorm, attention, GELU, residual sums.

    The ReLU after the patches is what beta-smoothing and the masks of ReLU act on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.norm1 = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.patches(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class Hand(nn.Module):
    """Two inputs, two units behind a 1 x 1 convolution, a ReLU, three classes: small enough for the hand.

    At `Hand.X` = (1, 2) the units are (1, 2) and the logits (2, -1, 2).
    """

    X = torch.tensor([1.0, 2.0], dtype=torch.float64).view(1, 2, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1).double()
        self.head = nn.Linear(2, 3).double()
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[2.0, -1.0], [1.0, 1.0]])[..., None, None])
            self.conv.bias.copy_(torch.tensor([1.0, -1.0]))
            self.head.weight.copy_(torch.tensor([[3.0, -1.0], [1.0, 1.0], [0.0, 1.0]]))
            self.head.bias.copy_(torch.tensor([1.0, -4.0, 0.0]))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "sequential": lambda: seeded(Sequential),
    "residual": lambda: seeded(Residual),
    "mobile": lambda: seeded(Mobile),
    "shared": lambda: seeded(Shared),
    "gated": lambda: seeded(Gated, 19),
    "concatenating": lambda: seeded(Concatenating, 12),
    "attention": lambda: seeded(Attention, 29),
}
