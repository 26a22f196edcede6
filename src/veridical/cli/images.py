"""The options of commands that read images, and the images, labels and facts that come of them."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from veridical.checks import check_logits
from veridical.data import (
    FORMS,
    MAX_BROKEN,
    Images,
    ImageSource,
    class_numbers,
    open_images,
    sample_photographs,
)
from veridical.models import LoadedModel

SHOWN = 5
PLACES = "; ".join(FORMS)
LABELED_FORMS = "; ".join(name for name in FORMS if name != "FOLDER")
PREDICTED, LABEL = "predicted", "label"
BUNDLED = "photographs of scikit-image"

Place = Annotated[
    str | None,
    typer.Option(
        "--images",
        help=f"{'; '.join(FORMS)}. ':train' or ':test' behind a path names a part. Default: bundled.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", help="Take so many, drawn by --seed, every class in proportion to its size."),
]
MaxBroken = Annotated[
    int, typer.Option("--max-broken", help="More files than this that cannot be used are an error.")
]
Explained = Annotated[
    str, typer.Option("--target", help="The explained class: predicted, label (of the data), or its number.")
]


@dataclass(frozen=True)
class Choice:
    """Which images of a source are taken.

    Attributes:
        limit: so many are drawn; None draws only where `most` leaves out some of a source with labels.
        seed: of the draw.
        max_broken: more files than this that cannot be used are an error.
        most: where there is no limit the command uses no more than this; None for all.
    """

    limit: int | None = None
    seed: int = 0
    max_broken: int = MAX_BROKEN
    most: int | None = None

    def of(self, found: ImageSource) -> ImageSource:
        """The images that are taken.

        Raises:
            ValueError: the limit is more than there are.
        """
        if self.limit is not None:
            return found.subset(self.limit, self.seed)
        if self.most is None:
            return found
        # The first images of a source with labels are often all of one class.
        drawn = found.labels is not None and len(found) > self.most
        return found.subset(self.most, self.seed) if drawn else found.first(self.most)

    def check(self) -> None:
        """Refuse what no source can satisfy, before anything is read.

        Raises:
            ValueError: the limit is less than 1, or `max_broken` is negative.
        """
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected --limit of at least 1 image, got {self.limit}; leave it out for all")
        if self.max_broken < 0:
            raise ValueError(f"expected --max-broken of 0 or more, got {self.max_broken}; 0 allows none")


@dataclass(frozen=True)
class Labels:
    """The class of each image, as the data have it and as the network numbers it.

    Attributes:
        names: the data's name of each image's class.
        numbers: the network's number of each, or None where it is not known.
        matched: how the numbers were found.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...] | None
    matched: str


def read_photographs(place: str | None, choice: Choice, *, later: bool = False) -> Images:
    """The images of a place, or the bundled ones; what could not be used is named on stderr.

    With `later` no image of a place is kept in memory, see `ImageSource.photographs`.

    Raises:
        ValueError, OSError, ImportError: see `open_images`, `Choice` and `ImageSource.photographs`.
    """
    choice.check()
    if place is None:
        bundled = sample_photographs(choice.limit or choice.most)
        if choice.limit is not None and len(bundled) < choice.limit:
            raise ValueError(
                f"expected a subset of 1 to {len(bundled)} images, got {choice.limit}; ask for fewer"
            )
        return bundled
    found = open_images(place, most=choice.limit or choice.most, seed=choice.seed)
    photographs = choice.of(found).photographs(choice.max_broken, later=later)
    tell_skipped(photographs.skipped)
    return photographs


def tell_skipped(skipped: tuple[tuple[str, str], ...], record: str = "") -> None:
    """Name on stderr what could not be used: the count, the first few, and where the others are named."""
    for name, reason in skipped[:SHOWN]:
        typer.echo(f"skipped {name}: {reason}", err=True)
    if len(skipped) > SHOWN:
        named = f"; {record} names them" if record else ""
        typer.echo(f"skipped {len(skipped) - SHOWN} more, {len(skipped)} in all{named}", err=True)


def labels_of(photographs: Images, loaded: LoadedModel, inputs: Tensor) -> Labels | None:
    """The labels of images as a network numbers them; None where the images have none."""
    if not photographs.labels:
        return None
    with torch.no_grad():
        outputs = check_logits(loaded.module(inputs[:1].clone()), 1).shape[1]
    numbers, matched = class_numbers(photographs.classes, loaded.classes, outputs)
    return Labels(
        names=tuple(photographs.classes[label] for label in photographs.labels),
        numbers=None if numbers is None else tuple(numbers[label] for label in photographs.labels),
        matched=matched,
    )


def check_target(text: str) -> str:
    """The word or the number after `--target`.

    Raises:
        ValueError: it is neither "predicted" nor "label" nor a whole number.
    """
    word = text.strip().lower()
    if word not in (PREDICTED, LABEL) and not word.isdecimal():
        raise ValueError(
            f"expected --target predicted, label or the number of a class, got {text!r}; choose one"
        )
    return word


def find_target(text: str, labels: Labels | None) -> int | Tensor | None:
    """What `--target` stands for: None for the predicted class, a class, or the class of each image.

    Raises:
        ValueError: it is none of them, or the network's numbers of the labels are not known.
    """
    word = check_target(text)
    if word != LABEL:
        return None if word == PREDICTED else int(word)
    if labels is None:
        raise ValueError(
            "expected images with labels for --target label, got none; give one folder a class, a table "
            "of paths and labels, or --target predicted"
        )
    if labels.numbers is None:
        raise ValueError(
            f"expected classes that the network has for --target label, got those {labels.matched}; name "
            "the classes as the network does, or by its numbers"
        )
    return torch.tensor(labels.numbers)


def data_facts(photographs: Images, choice: Choice, labels: Labels | None) -> dict[str, Any]:
    """Where the images of a run come from, as `run.json` has it."""
    return {
        "source": photographs.source or BUNDLED,
        "available": photographs.available or len(photographs),
        "classes": len(photographs.classes),
        "limit": choice.limit,
        "seed": choice.seed,
        "labels": "" if labels is None else labels.matched,
        "skipped": [{"name": name, "reason": reason} for name, reason in photographs.skipped],
    }
