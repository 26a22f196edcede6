"""Image classifiers of Hugging Face transformers, by repository or directory."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from veridical.models.outputs import Output
from veridical.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TOLERANCE = 0.03
"""By how much a pixel, in units of [0, 1], may differ from what the image processor makes of it."""

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow."""

Built = tuple[nn.Module, Preprocessing, tuple[str, ...] | None, Output]


def build_hugging_face(
    name: str, *, download: bool = True, preprocessing: Preprocessing | None = None
) -> Built:
    """Build an image classifier of transformers. Code in a repository is never run.

    Args:
        name: of a repository on the hub, or a directory that `save_pretrained` wrote, which needs no network.
        download: get the weights; without, only the configuration is read and the weights are random.
        preprocessing: instead of what the image processor says.

    Returns:
        Module, preprocessing, labels, and "labels" for a multi-label classifier, else "classes".

    Raises:
        ImportError: transformers is missing or does not import.
        ValueError: no image classifier, weights that lack a layer, or an image processor that does more than
            resize, crop, rescale and normalize.
        OSError: there is no such repository or directory, or the download failed.
    """
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        module = _module(transformers, name, config, download)
    except OSError as error:
        raise OSError(
            f"expected a repository or a directory of transformers, got {name!r} "
            f"({str(error).splitlines()[0]}); name one that exists"
        ) from error
    found = preprocessing or _preprocessing(transformers, name, config)
    return module, found, _labels(config), _output(config)


def read_processor(processor: Any, source: str) -> Preprocessing:
    """Our preprocessing with the values of an image processor, compared with the processor on an image.

    Args:
        processor: an image processor of transformers.
        source: who chose these values, for the record.

    Returns:
        The same preprocessing: to a pixel's rounding where the center cannot be cut evenly.

    Raises:
        ValueError: the processor does something else.
    """
    probe = _probe()
    expected = torch.as_tensor(np.asarray(processor(probe, return_tensors="np")["pixel_values"])[0])
    for candidate in _candidates(processor.to_dict(), source):
        made = candidate.apply(probe)
        scale = torch.tensor(candidate.std)[:, None, None]
        if made.shape == expected.shape and bool(((made - expected).abs() * scale).max() < TOLERANCE):
            return candidate
    raise ValueError(
        f"expected an image processor that resizes, crops, rescales and normalizes, got "
        f"{type(processor).__name__} of {source}, which does something else; give the preprocessing as a "
        "JSON file (--preprocessing)"
    )


def _module(transformers: Any, name: str, config: Any, download: bool) -> nn.Module:
    classifier = transformers.AutoModelForImageClassification
    if type(config) not in classifier._model_mapping:
        raise ValueError(
            f"expected an image classifier, got {name} of type {type(config).__name__}; transformers has no "
            "image classification head for it"
        )
    if getattr(config, "problem_type", None) == "regression":
        raise ValueError(f"expected an image classifier, got {name}, which is for regression; name another")
    if not download:
        fresh: nn.Module = classifier.from_config(config)
        return fresh
    module, info = classifier.from_pretrained(name, config=config, output_loading_info=True)
    missing = sorted(info.get("missing_keys", ())) + [str(one) for one in info.get("mismatched_keys", ())]
    if missing:
        raise ValueError(
            f"expected weights for every layer of {type(module).__name__}, got none for "
            f"{', '.join(missing[:5])} in {name}; name a fine-tuned classifier"
        )
    found: nn.Module = module
    return found


def _preprocessing(transformers: Any, name: str, config: Any) -> Preprocessing:
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
    except OSError:
        size = getattr(config, "image_size", None) or 224
        channels = getattr(config, "num_channels", 3)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.0,) * channels, (1.0,) * channels)
        return Preprocessing(
            size,
            size,
            mean,
            std,
            channels=channels,
            source=f"default; {name} has no preprocessor_config.json",
        )
    return read_processor(processor, f"Hugging Face {type(processor).__name__} of {name}")


def _candidates(values: Mapping[str, Any], source: str) -> Iterator[Preprocessing]:
    """What a processor of these values may do, by what the known classes do with them."""
    mean, std = _scaling(values)
    crop = _pair(values.get("crop_size")) if values.get("do_center_crop") else None
    size = values.get("size") or {}
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    sizes: list[tuple[Any, Any]] = []
    if not values.get("do_resize"):
        sizes.append((None, crop))
    elif edge is None:
        sizes.append((_pair(size), crop))
    else:
        share = values.get("crop_pct") or 1.0
        sizes += [
            (edge, crop),
            (int(edge / share), edge),
            ((edge, edge), crop),
            (int(256 / 224 * edge), crop),
        ]
    for resize, cut in sizes:
        try:
            yield Preprocessing(
                resize, cut, mean, std, RESAMPLING.get(int(values.get("resample") or 0), "bilinear"),
                len(mean), source,
            )  # fmt: skip
        except ValueError:  # a crop larger than the image, which that class would pad
            continue


def _scaling(values: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that refer to [0, 1], from factors that refer to [0, 255]."""
    factor = 255 * (values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1)
    offset = -1.0 if values.get("rescale_offset") else 0.0
    normalizes = values.get("do_normalize", "image_mean" in values and "do_flip_channel_order" not in values)
    mean, std = (values["image_mean"], values["image_std"]) if normalizes else ((0.0,) * 3, (1.0,) * 3)
    power = 2 if values.get("include_top") else 1
    return (
        tuple((one - offset) / factor for one in mean),
        tuple(one**power / factor for one in std),
    )


def _pair(size: Any) -> tuple[int, int] | int | None:
    if isinstance(size, Mapping):
        return (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    return size if size is None or isinstance(size, int) else (size[0], size[-1])


def _probe() -> Image.Image:
    """A smooth picture, twice as wide as high, whose colors differ: what was resized how can be read off."""
    down, right = torch.linspace(0, 1, 240)[:, None], torch.linspace(0, 1, 480)[None]
    planes: list[Tensor] = [down.expand(240, 480), right.expand(240, 480), (down * right).sqrt()]
    values = (torch.stack(planes, dim=-1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.numpy())


def _labels(config: Any) -> tuple[str, ...] | None:
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return None if unnamed else tuple(names)


def _output(config: Any) -> Output:
    return "labels" if getattr(config, "problem_type", None) == "multi_label_classification" else "classes"


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            f"expected transformers for an hf: model, got {type(error).__name__}: {error}; "
            "pip install transformers"
        ) from error
