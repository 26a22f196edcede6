"""Networks of timm, with the data configuration that belongs to their weights."""

import importlib
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from veridical.checks import nearest_names
from veridical.models.demo import imagenet_classes
from veridical.models.preprocessing import Preprocessing

Built = tuple[nn.Module, Preprocessing, tuple[str, ...] | None]


def build_timm(name: str, *, download: bool = True) -> Built:
    """Build a classification network of timm.

    Args:
        name: as in `timm.list_models()`, with or without the tag of its weights ("resnet50.a1_in1k").
        download: get the weights; without, the network keeps its random initialization.

    Returns:
        Module, preprocessing, labels where there are the 1000 classes of ImageNet.

    Raises:
        ImportError: timm is missing or does not import.
        ValueError: there is no such network or weights, or its images are prepared in another way.
        OSError: the weights could not be downloaded.
    """
    timm = _timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise ValueError(
            f"expected a network of timm, got {name!r}; {nearest_names(architecture, known[:5000])}"
            if len(architecture) > 2
            else f"expected a network of timm, got {name!r}; timm.list_models() has {len(known)}"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"expected weights of {architecture}, got {tag!r}; there are {', '.join(tags) or 'none'}"
        )
    try:
        module: nn.Module = timm.create_model(name, pretrained=download)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"expected to download the weights of {name}, got {type(error).__name__}: {error}; "
            "download the file elsewhere and give it as weights"
        ) from error
    classes = imagenet_classes() if getattr(module, "num_classes", None) == 1000 else None
    return module, read_data_config(timm.data.resolve_model_data_config(module), f"timm {name}"), classes


def read_data_config(config: Mapping[str, Any], source: str) -> Preprocessing:
    """Our preprocessing with the values of a data configuration of timm.

    Args:
        config: what `timm.data.resolve_model_data_config` returns.
        source: who chose these values, for the record.

    Returns:
        What timm's transform for evaluation does.

    Raises:
        ValueError: a mode that resizes and crops in another way.
    """
    channels, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash") or (mode == "center" and height != width):
        raise ValueError(
            f"expected images that are resized and cut to a square, got crop mode {mode!r} to {height} x "
            f"{width} of {source}; give the preprocessing as a JSON file (--preprocessing)"
        )
    share = config["crop_pct"]
    resize = (math.floor(height / share), math.floor(width / share))
    return Preprocessing(
        resize=resize if mode == "squash" else resize[0],
        crop=(height, width) if height != width else height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        channels=channels,
        source=source,
    )


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            f"expected timm for a timm: model, got {type(error).__name__}: {error}; pip install timm, with a "
            "torchvision that fits the installed torch"
        ) from error
