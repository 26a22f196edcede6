"""Networks whose trained weights lie in the optional data folder."""

from pathlib import Path
from typing import IO

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions and the shortcut of option A: every other pixel, and zeros for the new channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.added = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            side = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
        out += x
        return F.relu(out)


class CifarResNet(nn.Module):
    """The residual network for CIFAR-10 of He et al. 2016, section 4.2, with functional ReLU and addition."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(before: int, after: int, blocks: int) -> nn.Sequential:
        first = Block(before, after, 1 if before == after else 2)
        return nn.Sequential(first, *(Block(after, after, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


class LeNet(nn.Module):
    """The LeNet for MNIST of the data folder: two convolutions, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(3136, 200)
        self.linear2 = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


PUBLISHED = {
    "resnet20_cifar10": lambda: CifarResNet(3),
    "resnet56_cifar10": lambda: CifarResNet(9),
    "mnist_lenet5_clean": LeNet,
    "mnist_lenet5_linf_adv": LeNet,
}


def trained_resnet20(folder: Path) -> nn.Module:
    """The trained ResNet-20, in evaluation mode."""
    return trained(folder, "resnet20_cifar10")


def trained(folder: Path, name: str) -> nn.Module:
    """One of the published networks, in evaluation mode."""
    model = PUBLISHED[name]()
    state = torch.load(folder / "models" / f"{name}.pt", map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


def photograph(path: Path | IO[bytes], size: int = 224) -> Tensor:
    """An image file as (1, 3, size, size), normalized with the statistics of ImageNet."""
    image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = (
        torch.tensor(list(image.tobytes()), dtype=torch.float32).view(1, size, size, 3).permute(0, 3, 1, 2)
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (values / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
