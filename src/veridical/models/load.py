"""From the text after `--model` to a network."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from veridical.models.checkpoints import load_weights
from veridical.models.demo import PREPROCESSING, build_demo, demo_source, imagenet_classes
from veridical.models.importable import SEED, build_importable
from veridical.models.loaded import LoadedModel, state_digest
from veridical.models.preprocessing import Preprocessing
from veridical.models.torchvision import build_torchvision

SPECS = {
    "demo": "EfficientNet-Lite0 trained on ImageNet, installed with this package",
    "package.module:callable": "a network that your own function or class builds; weights from a file",
    "torchvision:NAME[@WEIGHTS]": "a classification network of torchvision",
}


def load_model(
    spec: str, weights: str | Path | None = None, *, preprocessing: Preprocessing | None = None
) -> LoadedModel:
    """Load a network by its specification.

    A network is built with a fixed seed (0), so that one without weights is the same in every run; the global
    random state is as before. Pickled code in weights files is never run; a callable's module is, of course.

    Args:
        spec: one of `model_specs()`.
        weights: file of a state dict (`torch.save` or safetensors) to put into the network.
        preprocessing: instead of the one that comes with the network.

    Returns:
        The network in evaluation mode, on the CPU, with its record.

    Raises:
        ValueError: unknown specification, or something in it does not exist or does not fit.
        TypeError: a callable returned no module.
        ImportError: a package that the specification needs is missing or broken.
        OSError: no such weights file, or a download failed.
    """
    if not isinstance(spec, str):
        raise TypeError(f"expected the specification as text, got {type(spec).__name__}; {_supported()}")
    file = None if weights is None else Path(weights)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        loaded = _built(spec.strip(), file)
    if file is not None:
        load_weights(loaded.module, file)
        loaded = replace(loaded, source=f"{loaded.source}, weights from {file.name}")
    loaded.module.eval()
    return replace(
        loaded,
        sha256=state_digest(loaded.module),
        preprocessing=loaded.preprocessing if preprocessing is None else preprocessing,
    )


def model_specs() -> dict[str, str]:
    """What `load_model` takes: specification and one line about it."""
    return dict(SPECS)


def _built(spec: str, file: Path | None) -> LoadedModel:
    if spec == "demo":
        return _record(build_demo(), "efficientnet-lite0", demo_source(), imagenet_classes(), PREPROCESSING)
    kind, colon, rest = spec.partition(":")
    if kind == "torchvision" and rest:
        name, _, entry = rest.partition("@")
        module, preprocessing, classes = build_torchvision(name, entry or None, download=file is None)
        return _record(module, name, spec, classes, preprocessing)
    if not colon or not kind or not rest or kind in ("timm", "hf") or spec.endswith(".pt2"):
        raise ValueError(f"expected a model specification, got {spec!r}; {_supported()}")
    module, own, labels = build_importable(spec)
    source = spec if file is not None else f"{spec}, weights as the callable left them"
    return _record(module, rest.rsplit(".", 1)[-1], source, labels, own or Preprocessing())


def _record(
    module: nn.Module,
    name: str,
    source: str,
    classes: tuple[str, ...] | None,
    preprocessing: Preprocessing,
) -> LoadedModel:
    return LoadedModel(
        module=module,
        name=name,
        source=source,
        sha256="",
        classes=classes,
        preprocessing=preprocessing,
    )


def _supported() -> str:
    return "supported are " + ", ".join(SPECS)
