"""The trained networks of docs/partition.md, their images, and the images that patterns are fitted on."""

import gzip
import importlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from networks_real import PUBLISHED, photograph, trained  # type: ignore[import-not-found]
from veridical.attributions import Patterns, fit_patterns
from veridical.checks import evaluation_mode
from veridical.models.checkpoints import load_weights
from veridical.models.demo import PREPROCESSING, build_demo
from veridical.rules import record

PATTERN_IMAGES = 512
CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with images of its test set.

    Attributes:
        name: in tables and file names.
        model: in evaluation mode.
        images: (N, C, H, W), as the network takes them.
        labels: LongTensor (N,).
        training: makes the images for the patterns, one batch after another.
        batch: images at once.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    training: Callable[[], list[Tensor]]
    batch: int = 50

    @cached_property
    def first(self) -> str:
        """Name of the first convolution."""
        with evaluation_mode(self.model):
            operations = record(self.model, self.images[:1]).operations
        return next(operation.name for operation in operations if operation.kind == "convolution")

    @cached_property
    def patterns(self) -> Patterns:
        """Fitted when they are first needed."""
        return fit_patterns(self.model, self.training())

    def accuracy(self) -> float:
        """The share of the images whose label the network predicts."""
        with torch.no_grad():
            return float((self.model(self.images).argmax(1) == self.labels).double().mean())


def evenly(names: list[str], count: int) -> list[str]:
    """That many names, evenly spaced."""
    return names[:: max(1, len(names) // count)][:count]


def cifar(data: Path, archive: str, count: int, normalized: bool) -> tuple[Tensor, Tensor]:
    """Evenly spaced images, normalized as for ImageNet or in [0, 1], and their labels."""
    with zipfile.ZipFile(data / "cifar10" / archive) as file:
        chosen = evenly(sorted(name for name in file.namelist() if name.endswith(".jpg")), count)
        read = photograph if normalized else _plain
        images = torch.cat([read(io.BytesIO(file.read(name)), 32) for name in chosen])
    labels = [CIFAR_CLASSES.index(Path(name).parent.name) for name in chosen]
    return images, torch.tensor(labels)


def _plain(file: io.BytesIO, size: int) -> Tensor:
    """An image of that size as (1, 3, size, size) in [0, 1]."""
    values = torch.frombuffer(bytearray(Image.open(file).convert("RGB").tobytes()), dtype=torch.uint8)
    return values.view(1, size, size, 3).permute(0, 3, 1, 2).float() / 255


def mnist(data: Path, part: str, count: int) -> tuple[Tensor, Tensor]:
    """Evenly spaced digits in [0, 1], (N, 1, 28, 28), and their labels."""

    def read(kind: str, skip: int) -> Tensor:
        with gzip.open(data / "MNIST" / "raw" / f"{part}-{kind}-ubyte.gz") as file:
            return torch.frombuffer(bytearray(file.read()[skip:]), dtype=torch.uint8)

    images, labels = read("images-idx3", 16).view(-1, 1, 28, 28), read("labels-idx1", 8)
    chosen = torch.arange(0, len(labels), max(1, len(labels) // count))[:count]
    return images[chosen].float() / 255, labels[chosen].long()


def _resnet(name: str) -> Callable[[Path, int, Path | None], Network]:
    def build(data: Path, count: int, weights: Path | None) -> Network:
        model = trained(data, f"{name.replace('-', '').lower()}_cifar10")
        images, labels = cifar(data, "test.zip", count, normalized=True)

        def training() -> list[Tensor]:
            return list(cifar(data, "train15k.zip", PATTERN_IMAGES, normalized=True)[0].split(64))

        return Network(name, model, images, labels, training)

    return build


def _untrained(data: Path, count: int, weights: Path | None) -> Network:
    trained_one = NETWORKS["ResNet-20"](data, count, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PUBLISHED["resnet20_cifar10"]().eval()
    return replace(trained_one, name="ResNet-20 untrained", model=model)


def _appendix_d(data: Path, count: int, weights: Path | None) -> Network:
    if weights is None:
        raise ValueError("expected weights of the network of appendix D, got none; pass --weights")
    build = importlib.import_module("veridical.training.networks").sixt2020_cifar10
    model: nn.Module = build()
    load_weights(model, weights)
    images, labels = cifar(data, "test.zip", count, normalized=False)

    def training() -> list[Tensor]:
        return list(cifar(data, "train15k.zip", PATTERN_IMAGES, normalized=False)[0].split(64))

    return Network("appendix D", model.eval(), images, labels, training)


def _lenet(data: Path, count: int, weights: Path | None) -> Network:
    images, labels = mnist(data, "t10k", count)

    def training() -> list[Tensor]:
        return list(mnist(data, "train", PATTERN_IMAGES)[0].split(64))

    return Network("LeNet", trained(data, "mnist_lenet5_clean"), images, labels, training)


def _efficientnet(data: Path, count: int, weights: Path | None) -> Network:
    files = sorted((data / "imagenet-sample").glob("*.jpg"))
    names = evenly([str(file) for file in files], count)

    def read(name: str) -> Tensor:
        return PREPROCESSING.apply(Image.open(name))

    def training() -> list[Tensor]:
        rest = [str(file) for file in files if str(file) not in names]
        return [torch.stack([read(name) for name in rest[i : i + 8]]) for i in range(0, len(rest), 8)]

    labels = torch.tensor([int(Path(name).name[:4]) for name in names])
    images = torch.stack([read(name) for name in names])
    return Network("EfficientNet-Lite0", build_demo().eval(), images, labels, training, batch=1)


NETWORKS: Mapping[str, Callable[[Path, int, Path | None], Network]] = {
    "EfficientNet-Lite0": _efficientnet,
    "ResNet-20": _resnet("ResNet-20"),
    "ResNet-56": _resnet("ResNet-56"),
    "ResNet-20 untrained": _untrained,
    "appendix D": _appendix_d,
    "LeNet": _lenet,
}
"""A network by its name: from the data folder, the number of images, and weights for appendix D."""

TABLE = ("EfficientNet-Lite0", "ResNet-20", "appendix D")
"""The networks of the partition; the others serve experiments."""


def load_network(name: str, data: Path, count: int, weights: Path | None) -> Network:
    """The network of that name.

    Raises:
        ValueError: if weights are needed and none are given.
    """
    return NETWORKS[name](data, count, weights)
