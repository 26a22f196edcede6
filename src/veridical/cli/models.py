"""`veridical models`: what `--model` takes, and what is found behind a specification."""

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from veridical.auditing import Recorded, check_model
from veridical.cli.errors import one_line_errors
from veridical.cli.images import Choice, Place, read_photographs
from veridical.cli.listing import show
from veridical.cli.options import Json, Normalization, Weights, stacked
from veridical.models import LoadedModel, Preprocessing, load_model, model_specs

Check = Annotated[
    str | None, typer.Option("--check", help="Load this model and say what it is and which methods can run.")
]

SHOWN = 5
OUTPUTS = {
    "classes": "one logit a class; the softmax is their probability",
    "binary": "one logit z, explained as the two logits (-z/2, z/2), whose softmax is the sigmoid of z",
    "labels": "one logit a label; the sigmoid of each is its probability",
}
SATURATING = ("softmax", "log_softmax", "sigmoid")


def command(
    check: Check = None,
    weights: Weights = None,
    images: Place = None,
    preprocessing: Normalization = None,
    as_json: Json = False,
) -> None:
    """List the forms of a model specification, or check one."""
    if check is None:
        show(model_specs(), as_json)
        return
    with one_line_errors():
        facts = examine(check, weights, images, preprocessing)
        typer.echo(json.dumps(facts, indent=1) if as_json else described(facts))


def examine(spec: str, weights: Path | None, place: str | None, preprocessing: str | None) -> dict[str, Any]:
    """What is found behind a specification, as JSON has it.

    Args:
        spec: of the model.
        weights: file of a state dict.
        place: of the images; None for one random image.
        preprocessing: text of the option.

    Raises:
        ValueError: the model cannot be loaded, recorded or fed with these images.
        OSError: a file does not exist.
    """
    loaded = load_model(spec, weights, preprocessing=preprocessing)
    names, inputs = _inputs(loaded.preprocessing, place)
    found = check_model(loaded.module, inputs)
    return {
        "model": loaded.name,
        "source": loaded.source,
        "sha256": loaded.sha256,
        "parameters": loaded.parameters,
        "classes": found.logits.shape[1],
        "labels": None if loaded.classes is None else list(loaded.classes),
        "output": loaded.output,
        "input": list(inputs.shape[1:]),
        "preprocessing": loaded.preprocessing.as_dict(),
        "operations": found.operations,
        "notes": _notes(loaded, found),
        "predictions": _predictions(loaded, found, names),
        "methods": [vars(one) for one in found.methods],
    }


def described(facts: dict[str, Any]) -> str:
    """The same for people."""
    size = " x ".join(map(str, facts["input"]))
    labels = facts["labels"]
    named = (
        "without names"
        if labels is None
        else ", ".join(labels[:SHOWN]) + ("" if len(labels) <= SHOWN else ", ...")
    )
    rows = {
        "model": facts["model"],
        "source": facts["source"],
        "weights": f"sha256 {facts['sha256'][:16]}...",
        "parameters": f"{facts['parameters']:,}",
        "classes": f"{facts['classes']}: {named}",
        "output": OUTPUTS[facts["output"]],
        "input": f"{size} (channels x height x width)",
        "preprocessing": prepared(facts["preprocessing"]),
        "operations": f"{facts['operations']} that depend on the image",
    }
    lines = [f"{name:<13}  {text}" for name, text in rows.items()]
    lines += [f"note: {note}" for note in facts["notes"]]
    lines += [f"{one['image']}: {one['label']} ({one['probability']:.3f})" for one in facts["predictions"]]
    return "\n".join([*lines, "", *_method_lines(facts["methods"], facts["operations"])])


def prepared(values: dict[str, Any]) -> str:
    """A preprocessing in one line: sizes, values, and who chose them."""
    resize, crop = values["resize"], values["crop"]
    steps = []
    if resize is not None:
        to = (
            f"shorter side to {resize}"
            if isinstance(resize, int)
            else f"resized to {resize[0]} x {resize[1]}"
        )
        steps.append(f"{to} ({values['interpolation']})")
    if crop is not None:
        sides = (crop, crop) if isinstance(crop, int) else crop
        steps.append(f"center {sides[0]} x {sides[1]}")
    plain = not any(values["mean"]) and set(values["std"]) == {1.0}
    mean, std = (", ".join(f"{one:.4g}" for one in values[name]) for name in ("mean", "std"))
    steps.append("values in [0, 1]" if plain else f"mean {mean}, std {std}")
    return f"{'; '.join(steps)} [{values['source']}]"


def _method_lines(rows: list[dict[str, Any]], operations: int) -> list[str]:
    runs = sum(row["state"] == "runs" for row in rows)
    lines = [f"{runs} of {len(rows)} methods can run:"]
    width = max(len(row["method"]) for row in rows)
    for row in rows:
        how = f"modifies {row['modified']} of {operations} operations" if row["modified"] else ""
        reason = textwrap.shorten(row["reason"], 400)
        text = "; ".join(part for part in (row["state"], reason or how) if part)
        lines.append(f"  {row['method']:<{width}}  {text}")
    return lines


def _inputs(preprocessing: Preprocessing, place: str | None) -> tuple[tuple[str, ...], torch.Tensor]:
    """A few photographs, or one random image of the right size."""
    if place is not None:
        found = read_photographs(place, Choice(most=SHOWN))
        return found.names, stacked([preprocessing.apply(image) for image in found.images])
    height, width = preprocessing.input_size or (224, 224)
    values = torch.rand(preprocessing.channels, height, width, generator=torch.Generator().manual_seed(0))
    return (), preprocessing.normalize(values)[None]


def _notes(loaded: LoadedModel, found: Recorded) -> list[str]:
    """What a user should look at before an audit."""
    notes = []
    scaled = any(loaded.preprocessing.mean) or set(loaded.preprocessing.std) != {1.0}
    if found.normalizes and scaled:
        notes.append(
            "the network shifts or scales the image itself; if that is its normalization, leave it to it: "
            "--preprocessing none"
        )
    if loaded.preprocessing.source.startswith("default"):
        notes.append(
            "nobody says how its images are prepared, so ImageNet's values are taken; give your own: "
            "--preprocessing FILE.json"
        )
    if found.ends_in in SATURATING:
        notes.append(
            f"the network ends in {found.ends_in}, so that probabilities are explained; explanations of the "
            "logits are sharper: return them instead"
        )
    if loaded.classes is not None and len(loaded.classes) != found.logits.shape[1]:
        notes.append(f"there are {len(loaded.classes)} labels for {found.logits.shape[1]} logits")
    return notes


def _predictions(loaded: LoadedModel, found: Recorded, names: tuple[str, ...]) -> list[dict[str, Any]]:
    logits = found.logits.double()
    probabilities = logits.sigmoid() if loaded.output == "labels" else logits.softmax(1)
    rows = []
    for name, row in zip(names, probabilities, strict=False):
        best = int(row.argmax())
        rows.append(
            {"image": name, "class": best, "label": loaded.label(best), "probability": float(row[best])}
        )
    return rows
