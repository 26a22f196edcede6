"""The target of `veridical attack`: exactly one of five options, and the map that it stands for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veridical.auditing import array_target, image_target, region_target, text_target, uniform_target
from veridical.checks import check_logits
from veridical.data import load_map
from veridical.data.images import decode, digest, read_file
from veridical.models import LoadedModel
from veridical.values import Explainer, FixedTensor

Facts = dict[str, Any]
TargetMaker = Callable[[LoadedModel, Tensor, Explainer], tuple[Tensor, Facts]]
"""From network, input (1, C, H, W) and method to the target map (1, H, W) and its description."""


def find_target(**options: Any) -> TargetMaker:
    """The one target that is given; its file is read at once, so that a bad one is refused before any work.

    Args:
        options: image, map, text, region and uniform; None and False stand for "not given".

    Raises:
        ValueError: none is given, or several, or the one cannot be used.
        OSError: its file does not exist.
    """
    given = {kind: value for kind, value in options.items() if value not in (None, False)}
    if len(given) != 1:
        found = ", ".join(f"--target-{kind}" for kind in given) or "none"
        known = ", ".join(f"--target-{kind}" for kind in _MAKERS)
        raise ValueError(f"expected exactly one target, got {found}; give one of {known}")
    kind, value = next(iter(given.items()))
    return _MAKERS[kind](value)


def _image(file: Path) -> TargetMaker:
    content = read_file(file)
    picture = decode(content, str(file))

    def make(loaded: LoadedModel, inputs: Tensor, explainer: Explainer) -> tuple[Tensor, Facts]:
        other = loaded.preprocessing.apply(picture)[None].to(inputs)
        if other.shape != inputs.shape:
            raise ValueError(
                f"expected a target image of the input's size {tuple(inputs.shape[2:])} after preprocessing, "
                f"got {tuple(other.shape[2:])}; make the files equal or let the preprocessing crop"
            )
        found = image_target(loaded.module, other, explainer)
        with torch.no_grad():
            predicted = int(check_logits(loaded.module(other), 1).argmax(1))
        return found, {
            "kind": "image", "file": file.name, "sha256": digest(content),
            "input_sha256": FixedTensor(other).digest, "class": predicted, "label": loaded.label(predicted),
        }  # fmt: skip

    return make


def _map(file: Path) -> TargetMaker:
    values = torch.from_numpy(load_map(file))
    array_target(values, (1, 1))  # refuses what is no map
    facts = {
        "kind": "map", "file": file.name, "sha256": digest(read_file(file)),
        "filter": "linear, antialiased; stretched to the size of the input",
    }  # fmt: skip
    return _drawn(lambda size: array_target(values, size), facts)


def _text(text: str) -> TargetMaker:
    return _drawn(lambda size: text_target(text, size), {"kind": "text", "text": text})


def _region(text: str) -> TargetMaker:
    """Four whole numbers are pixels, four numbers with a point are fractions."""
    parts = [part.strip() for part in text.split(",")]
    try:
        box: Any = tuple(float(part) if "." in part else int(part) for part in parts)
    except ValueError:
        box = ()
    if len(box) != 4 or len({type(edge) for edge in box}) != 1:
        raise ValueError(
            "expected LEFT,TOP,RIGHT,BOTTOM as four whole numbers (pixels) or four with a point (fractions), "
            f"got {text!r}; write 20,20,80,80 or 0.1,0.1,0.4,0.4"
        )
    return _drawn(lambda size: region_target(box, size), {"kind": "region", "box": list(box)})


def _uniform(_: bool) -> TargetMaker:
    return _drawn(uniform_target, {"kind": "uniform"})


def _drawn(draw: Callable[[tuple[int, int]], Tensor], facts: Facts) -> TargetMaker:
    """A target that needs nothing but the size of the input."""

    def make(loaded: LoadedModel, inputs: Tensor, explainer: Explainer) -> tuple[Tensor, Facts]:
        height, width = inputs.shape[2:]
        return draw((height, width))[None].to(inputs), facts

    return make


_MAKERS: Mapping[str, Callable[[Any], TargetMaker]] = {
    "image": _image,
    "map": _map,
    "text": _text,
    "region": _region,
    "uniform": _uniform,
}
