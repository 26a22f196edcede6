"""The networks that users have, with random weights and small images: torchvision, Hugging Face, timm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from networks_real import CifarResNet, LeNet

CLASSES = 10


class Subject(NamedTuple):
    """A network of users.

    Attributes:
        package: where its code comes from.
        build: makes it, with the current random state.
        size: side of the images.
        channels: of the images.
        trained: whether its weights are; else they are random.
    """

    package: str
    build: Callable[[], nn.Module]
    size: int
    channels: int = 3
    trained: bool = False

    def module(self) -> nn.Module:
        """The network in evaluation mode and double precision; it depends on nothing but a seed.

        Where its weights are random, batch normalization takes its statistics from random images: with means
        of 0 and variances of 1 the signal of a deep network would be lost.
        """
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build().double().eval()
            for part in model.modules():
                if isinstance(part, nn.Linear) and not part.weight.any():
                    nn.init.normal_(part.weight, std=0.1)  # heads of transformers start with zeros
        if not self.trained:
            self._calibrate(model)
        return model

    def _calibrate(self, model: nn.Module) -> None:
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.training, norm.momentum = True, 1.0
        if norms:
            with torch.no_grad():
                model(self.images(8, seed=3))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training, norm.momentum = False, momentum

    def images(self, count: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (count, self.channels, self.size, self.size)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _torchvision(name: str, size: int, **options: Any) -> Subject:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)

    return Subject("torchvision", build, size)


def _hugging_face(name: str, size: int, **options: Any) -> Subject:
    """The image classifier of that name: a model of a configuration, nothing is downloaded."""

    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
        return getattr(transformers, f"{name}ForImageClassification")(config)

    return Subject("transformers", build, size)


def _timm(name: str, size: int, **options: Any) -> Subject:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options)

    return Subject("timm", build, size)


def _lite0() -> nn.Module:
    from veridical.models.demo import build_demo

    return build_demo()


SUBJECTS: dict[str, Subject] = {
    "vgg11": _torchvision("vgg11", 64),
    "vgg16": _torchvision("vgg16", 64),
    "vgg16_bn": _torchvision("vgg16_bn", 64),
    "alexnet": _torchvision("alexnet", 96),
    "squeezenet1_1": _torchvision("squeezenet1_1", 64),
    "resnet18": _torchvision("resnet18", 64),
    "resnet50": _torchvision("resnet50", 64),
    "densenet121": _torchvision("densenet121", 64),
    "googlenet": _torchvision("googlenet", 64, init_weights=False, aux_logits=False),
    "mobilenet_v2": _torchvision("mobilenet_v2", 64),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small", 64),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", 64),
    "efficientnet_b0": _torchvision("efficientnet_b0", 64),
    "convnext_tiny": _torchvision("convnext_tiny", 64),
    "vit_b_16": _torchvision("vit_b_16", 64, image_size=64),
    "swin_t": _torchvision("swin_t", 64),
    "CIFAR ResNet-20": Subject("checkpoint", lambda: CifarResNet(3), 32),
    "CIFAR ResNet-56": Subject("checkpoint", lambda: CifarResNet(9), 32),
    "LeNet (MNIST)": Subject("checkpoint", LeNet, 28, 1),
    "EfficientNet-Lite0": Subject("efficientnet-lite-pytorch", _lite0, 64, trained=True),
    "Hugging Face ResNet": _hugging_face(
        "ResNet", 64, embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="bottleneck"
    ),
    "Hugging Face ViT": _hugging_face(
        "ViT", 32, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48,
        image_size=32, patch_size=8,
    ),
    "timm ViT-Tiny": _timm("vit_tiny_patch16_224", 32, img_size=32, patch_size=8),
    "timm RegNetY-002": _timm("regnety_002", 64),
}  # fmt: skip
