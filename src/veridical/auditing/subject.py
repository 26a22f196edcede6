"""What the tests of an audit are given, and how they write down what they find."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.auditing.plan import Task
from veridical.auditing.pooling import Kind, Pooled
from veridical.auditing.retrained import Retrained
from veridical.auditing.tangent import OnManifold
from veridical.faithfulness.maps import explained_each
from veridical.records import Score
from veridical.values import Explainer


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
        model: maps images to logits (N, K); in evaluation mode.
        images: (N, C, H, W), as the model takes them.
        targets: LongTensor (N,), the explained class of each.
        names: of the images.
        display: from images to values in [0, 1] that can be shown.
        label: the label of a class.
        bounds: lowest and highest valid value of an image, one number a channel; None for no bounds.
        manifold: the images moved onto a manifold; None where none was given.
        retrained: accuracies of retrained networks; None where none were given.
        first: the place in the audit of the first of these images.
        known: what one task has found and another can use: the last relevance, the random orders.
    """

    model: nn.Module
    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    display: Callable[[Tensor], Tensor]
    label: Callable[[int], str]
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    manifold: OnManifold | None = None
    retrained: Retrained | None = None
    first: int = 0
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


Tick = Callable[[float], None]
"""Told the finished share of a task, 0 to 1."""


@dataclass(frozen=True)
class Work:
    """One task with all that it needs."""

    task: Task
    explainer: Explainer
    settings: Mapping[str, Any]
    seed: int
    batch: int
    tick: Tick

    def score(self, statistic: str, value: float, **where: Any) -> Score:
        """A row of the table for one image."""
        return Score(self.task.method, self.task.test, statistic, float(value), **where)

    def summary(
        self,
        statistic: str,
        values: Sequence[float] | NDArray[Any],
        layer: str = "",
        kind: Kind = "median",
    ) -> Pooled:
        """A row of the table over images, from these and those of other tasks; see `Kind`."""
        numbers = tuple(float(value) for value in values)
        return Pooled(
            self.task.method, self.task.test, statistic, math.nan, layer=layer, values=numbers, kind=kind
        )  # fmt: skip


def relevance_of(subject: Subject, work: Work) -> Tensor:
    """The method's relevance of all images, computed once; the same bits whichever test asks first."""
    method, relevance = subject.known.get("relevance", ("", None))
    if method != work.task.method or len(relevance) != len(subject.images):
        relevance = explained_each(
            subject.model, subject.images, work.explainer, lambda _, rows: [subject.targets[rows]], work.batch
        )[0][0]
        subject.known["relevance"] = (work.task.method, relevance)
    found: Tensor = relevance
    return found


def rows_with_medians(subject: Subject, work: Work, columns: Sequence[Mapping[str, Tensor]]) -> list[Score]:
    """Each statistic's values by image and their median, from parts of the images in their order."""
    scores: list[Score] = []
    for statistic in columns[0]:
        values = torch.cat([one[statistic] for one in columns]).tolist()
        named = zip(values, subject.names, strict=True)
        scores += [work.score(statistic, value, image=name) for value, name in named]
        scores.append(work.summary(f"median_{statistic}", values))
    return scores


def array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a float32 array."""
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
