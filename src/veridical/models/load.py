"""From the text after `--model` to a network."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from veridical.models.checkpoints import load_weights
from veridical.models.demo import PREPROCESSING, build_demo, demo_source, imagenet_classes
from veridical.models.exported import build_exported
from veridical.models.huggingface import build_hugging_face
from veridical.models.importable import SEED, build_importable
from veridical.models.loaded import LoadedModel, state_digest
from veridical.models.outputs import as_two_logits, find_output
from veridical.models.preprocessing import Preprocessing, read_preprocessing
from veridical.models.timm import build_timm
from veridical.models.torchvision import build_torchvision

SPECS = {
    "demo": "EfficientNet-Lite0 trained on ImageNet, installed with this package",
    "torchvision:NAME[@WEIGHTS]": "a classification network of torchvision",
    "timm:NAME": "a classification network of timm; a tag behind a dot names the weights",
    "hf:REPO_OR_DIR": "an image classifier of Hugging Face transformers; a directory works offline",
    "file.pt2": "an exported program, written by torch.export.save",
    "package.module:callable": "a network that your own function or class builds; weights from a file",
}


def load_model(
    spec: str, weights: str | Path | None = None, *, preprocessing: Preprocessing | str | None = None
) -> LoadedModel:
    """Load a network by its specification.

    A network is built with a fixed seed (0), so that one without weights is the same in every run; the global
    random state is as before. Pickled code in weights files is never run; a callable's module is, of course.

    Args:
        spec: one of `model_specs()`.
        weights: file of a state dict (`torch.save` or safetensors) to put into the network.
        preprocessing: instead of the one that comes with the network: a value, or text as
            `--preprocessing` takes it: "none" for the same sizes and values in [0, 1], or a JSON file.

    Returns:
        The network in evaluation mode, on the CPU, with its record. A classifier of one logit is given two
        (see `veridical.models.outputs`).

    Raises:
        ValueError: unknown specification, or something in it does not exist or does not fit.
        TypeError: a callable returned no module.
        ImportError: a package that the specification needs is missing or broken.
        OSError: no such weights file, or a download failed.
    """
    if not isinstance(spec, str):
        raise TypeError(f"expected the specification as text, got {type(spec).__name__}; {_supported()}")
    file = None if weights is None else Path(weights)
    given = read_preprocessing(preprocessing) if isinstance(preprocessing, str) else preprocessing
    own = given if isinstance(given, Preprocessing) else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        loaded = _built(spec.strip(), file, own)
        if file is not None:
            load_weights(loaded.module, file)
            loaded = replace(loaded, source=f"{loaded.source}, weights from {file.name}")
        loaded.module.eval()
        found = own or (loaded.preprocessing.unscaled() if given is not None else loaded.preprocessing)
        return _with_classes(replace(loaded, sha256=state_digest(loaded.module), preprocessing=found))


def model_specs() -> dict[str, str]:
    """What `load_model` takes: specification and one line about it."""
    return dict(SPECS)


def _built(spec: str, file: Path | None, preprocessing: Preprocessing | None) -> LoadedModel:
    if spec == "demo":
        return LoadedModel(
            build_demo(), "efficientnet-lite0", demo_source(), "", imagenet_classes(), PREPROCESSING
        )
    if spec.endswith(".pt2"):
        module, found, classes = build_exported(Path(spec))
        return LoadedModel(module, Path(spec).stem, f"exported program {Path(spec).name}", "", classes, found)
    kind, colon, rest = spec.partition(":")
    if not colon or not kind or not rest:
        raise ValueError(f"expected a model specification, got {spec!r}; {_supported()}")
    if kind == "torchvision":
        name, _, entry = rest.partition("@")
        module, found, classes = build_torchvision(name, entry or None, download=file is None)
        return LoadedModel(module, name, spec, "", classes, found)
    if kind == "timm":
        module, found, classes = build_timm(rest, download=file is None)
        return LoadedModel(module, rest, f"{spec}, timm {version('timm')}", "", classes, found)
    if kind == "hf":
        module, found, classes, output = build_hugging_face(
            rest, download=file is None, preprocessing=preprocessing
        )
        source = f"{spec}, transformers {version('transformers')}"
        return LoadedModel(module, Path(rest).name, source, "", classes, found, output)
    module, own, classes, said = build_importable(spec)
    source = spec if file is not None else f"{spec}, weights as the callable left them"
    return LoadedModel(
        module, rest.rsplit(".", 1)[-1], source, "", classes, own or Preprocessing(), said or "classes"
    )


def _with_classes(loaded: LoadedModel) -> LoadedModel:
    """The same with two logits where the network has one."""
    output, images = find_output(loaded.module, loaded.preprocessing)
    if output != "binary" or images is None or loaded.output == "labels":
        return loaded
    module = as_two_logits(loaded.module, images)
    classes = loaded.classes
    if classes is not None and len(classes) == 1:
        classes = (f"not {classes[0]}", classes[0])
    return replace(loaded, module=module.eval(), output="binary", classes=classes)


def _supported() -> str:
    return "supported are " + ", ".join(SPECS)
