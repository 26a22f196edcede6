"""Networks of papers that come without weights, and are trained here."""

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class Sixt2020Cifar10(nn.Module):
    """The CIFAR-10 network of Sixt et al. 2020: four convolutions, two dense layers, 8,640,714 weights.

    Images (N, 3, 32, 32) in [0, 1] to logits (N, 10). The layers have the paper's names; its softmax is left
    out, as where the paper explains the network.

    Args:
        seed: of the initial weights: Glorot's uniform distribution and zero biases, what Keras takes.

    Attributes:
        preprocessing: what a photograph goes through; `veridical.models.load_model` reads it.
        classes: the labels of the logits, alphabetically, as CIFAR-10 numbers them.

    Source:
        Sixt et al. 2020, appendix D.
    """

    preprocessing = MappingProxyType(
        {
            "resize": 32,
            "crop": 32,
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "interpolation": "bicubic",
            "source": "Sixt et al. 2020: values in [0, 1]",
        }
    )
    classes = CIFAR10

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        # The layers draw from the global random state as they are made; what they draw is replaced.
        with torch.random.fork_rng(devices=[]):
            for name, layer in _layers():
                self.add_module(name, layer)
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=source)
                nn.init.zeros_(_bias(layer))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32) in [0, 1]."""
        for layer in self.children():
            images = layer(images)
        return images


class Bordt2023LeNet(nn.Module):
    """The LeNet of Bordt et al. 2023 for MNIST32: two convolutions, two dense layers, 1,625,866 weights.

    Gray images (N, 1, 32, 32) in [0, 1] to logits (N, 10).

    Args:
        seed: of the initial weights, which are torch's default.

    Attributes:
        preprocessing: what an image goes through; `veridical.models.load_model` reads it.
        classes: the digits.

    Source:
        Bordt et al. 2023, the authors' code, models.py at commit 3d0afba.
    """

    preprocessing = MappingProxyType(
        {
            "resize": 32,
            "crop": 32,
            "mean": (0.0,),
            "std": (1.0,),
            "channels": 1,
            "source": "Bordt et al. 2023: values in [0, 1]",
        }
    )
    classes = tuple("0123456789")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        # Layers draw their weights from the global random state.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, layer in _lenet_layers():
                self.add_module(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 32, 32) in [0, 1]."""
        for layer in self.children():
            images = layer(images)
        return images


def bordt2023_lenet(seed: int = 0) -> Bordt2023LeNet:
    """The LeNet of Bordt et al. 2023 for MNIST32 with initial weights; see `Bordt2023LeNet`.

    On the command line: `--model veridical.training.networks:bordt2023_lenet --weights FILE`.

    Args:
        seed: of the initial weights.
    """
    return Bordt2023LeNet(seed)


def _lenet_layers() -> list[tuple[str, nn.Module]]:
    return [
        ("conv1", nn.Conv2d(1, 32, kernel_size=3)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(32, 64, kernel_size=3)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("dropout2", nn.Dropout(0.25)),
        ("flatten", nn.Flatten()),
        ("fc3", nn.Linear(64 * 14 * 14, 128)),
        ("relu3", nn.ReLU()),
        ("dropout3", nn.Dropout(0.5)),
        ("fc4", nn.Linear(128, 10)),
    ]


def sixt2020_cifar10(seed: int = 0) -> Sixt2020Cifar10:
    """The CIFAR-10 network of Sixt et al. 2020, appendix D, with initial weights; see `Sixt2020Cifar10`.

    On the command line: `--model veridical.training.networks:sixt2020_cifar10 --weights FILE`.

    Args:
        seed: of the initial weights.
    """
    return Sixt2020Cifar10(seed)


def _layers() -> list[tuple[str, nn.Module]]:
    def conv(number: int, before: int, after: int) -> list[tuple[str, nn.Module]]:
        layer = nn.Conv2d(before, after, kernel_size=3, padding=1)
        return [(f"conv{number}", layer), (f"relu{number}", nn.ReLU())]

    return [
        *conv(1, 3, 32),
        *conv(2, 32, 64),
        ("pool2", nn.MaxPool2d(2)),
        *conv(3, 64, 128),
        *conv(4, 128, 128),
        ("pool4", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("dropout5", nn.Dropout(0.5)),
        ("fc5", nn.Linear(128 * 8 * 8, 1024)),
        ("relu5", nn.ReLU()),
        ("dropout6", nn.Dropout(0.5)),
        ("fc6", nn.Linear(1024, 10)),
    ]


def _bias(layer: Any) -> Tensor:
    bias: Tensor = layer.bias
    return bias
