"""The method of `veridical attack`: found by its name, given its patterns if it needs any, and defended."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from torch import Tensor

from veridical.auditing import PRESETS, Patterns, describe, find_methods, fit_patterns, published
from veridical.cli.images import Choice, read_photographs
from veridical.cli.options import bounds_of, find_explainers, stacked
from veridical.data import Images
from veridical.models import LoadedModel
from veridical.values import Explainer

BATCH = 16
"""Images in one batch of the fit."""

_HOW = "--patterns FILE (written by Patterns.save) or --fit-patterns FOLDER (of images, without labels)"


@dataclass(frozen=True)
class Attacked:
    """The method under attack.

    Attributes:
        explainer: with its patterns, and with its defenses.
        facts: its description, for JSON.
        fitted: patterns that were fitted for this attack; None where there are none, or they were in a file.
    """

    explainer: Explainer
    facts: dict[str, Any]
    fitted: Patterns | None = None


MethodMaker = Callable[[LoadedModel], Attacked]
"""From the network to the method."""


def find_method(
    name: str | None,
    preset: str,
    patterns: Path | None,
    folder: str | None,
    defense: Callable[[Explainer], Explainer],
) -> MethodMaker:
    """The method of that name; everything that can be wrong without the network is refused at once.

    Args:
        name: a built-in method, or package.module:callable; None for that of the preset, as the paper ran it.
        preset: of the attack.
        patterns: a file of patterns.
        folder: images to fit patterns on, see `open_images`.
        defense: from the method to what is attacked; refuses what cannot be attacked.

    Raises:
        ValueError: it is not one method, cannot be attacked, needs patterns and there are none or two
            sources, or takes none; the file or the folder cannot be used.
        OSError: the file or the folder does not exist.
    """
    shown, found = _named(name, preset)
    _check_source(shown, found, patterns, folder)
    if patterns is not None:
        found = replace(found, patterns=patterns)  # type: ignore[type-var]
    defense(found)
    images = None if folder is None else read_photographs(folder, Choice(), later=True)

    def make(loaded: LoadedModel) -> Attacked:
        fitted = None if images is None else _fitted(loaded, images)
        whole = found if fitted is None else replace(found, patterns=fitted)  # type: ignore[type-var]
        whole = _in_range(whole, loaded) if name is None else whole
        explainer = defense(whole)
        facts: dict[str, Any] = {"name": shown, "options": describe(explainer)[0]}
        source = patterns or folder
        if source is not None:
            facts["patterns"] = _described(whole, Path(source), images)
        return Attacked(explainer, facts, fitted)

    return make


def _named(name: str | None, preset: str) -> tuple[str, Explainer]:
    if name is None:
        paper = published(preset)
        return paper.name, paper.explainer
    (found,) = find_methods(find_explainers(_one(name)), PRESETS["standard"]).values()
    return name, found


def _in_range(found: Explainer, loaded: LoadedModel) -> Explainer:
    """The paper's bounds of z^B are those of its own inputs: this network's instead."""
    if getattr(found, "bounds", None) is None:
        return found
    low, high = bounds_of(loaded)
    return replace(found, bounds=(min(low), max(high)))  # type: ignore[type-var]


def _one(method: str) -> str:
    if not method.strip() or "," in method:
        raise ValueError(f"expected one method, got {method!r}; see `veridical methods`")
    return method


def _check_source(name: str, found: Explainer, patterns: Path | None, folder: str | None) -> None:
    if patterns is not None and folder is not None:
        raise ValueError("expected one source of patterns, got --patterns and --fit-patterns; give one")
    takes = is_dataclass(found) and hasattr(found, "patterns")
    if not takes and (patterns or folder):
        raise ValueError(
            f"expected a method with patterns (patternnet, pattern-attribution), got {name}; leave "
            f"{'--patterns' if patterns else '--fit-patterns'} out"
        )
    if takes and getattr(found, "patterns", None) is None and patterns is None and folder is None:
        raise ValueError(f"expected patterns for {name}, got none; give {_HOW}")


def _fitted(loaded: LoadedModel, images: Images) -> Patterns:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("fitting patterns", total=len(images))
        return fit_patterns(
            loaded.module, _batches(loaded, images), progress=lambda seen: bars.update(bar, completed=seen)
        )


def _batches(loaded: LoadedModel, images: Images) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        part = images.images[start : start + BATCH]
        yield stacked([loaded.preprocessing.apply(image) for image in part])


def _described(explainer: Any, source: Path, images: Images | None) -> dict[str, Any]:
    """Where the patterns come from and what they are."""
    patterns: Patterns = explainer.patterns
    return {
        "source": "file" if images is None else "fitted",
        "name": source.name,
        "sha256": patterns.digest,
        "images": patterns.images,
        **asdict(patterns.settings),
    }
