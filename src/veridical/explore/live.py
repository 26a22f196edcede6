"""A network at work: every map is computed when the page asks for it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Event

import numpy as np
import torch
from torch import Tensor, nn

from veridical.auditing import describe
from veridical.checks import check_inputs, check_logits, check_relevance, evaluation_mode
from veridical.explore.asked import Look, Smoothing
from veridical.explore.seen import Array, Facts, check_method, check_place, drawn
from veridical.explore.worker import Interruptible
from veridical.report.pictures import photo
from veridical.smoothing import beta_smooth, smoothgrad
from veridical.tensors import flushed_denormals
from veridical.values import Explainer, is_differentiable

TOP = 5
_TOGETHER = 8  # images in one forward pass


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and the images that it is looked at with.

    Attributes:
        name: of the network.
        model: maps images to logits (N, K); in evaluation mode, and left as it was.
        inputs: the images (N, C, H, W), as the model takes them.
        names: of the images.
        methods: by name.
        display: from images to values in [0, 1] that can be shown.
        label: the label of a class.
        bounds: lowest and highest valid value of an image, one number a channel; None for no bounds.
        many: whether the logits are of labels that do not exclude one another.
        notes: sentences for the head of the page.
        verdicts: on methods, by their names, where an audit gave some.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    names: tuple[str, ...]
    methods: Mapping[str, Explainer]
    display: Callable[[Tensor], Tensor]
    label: Callable[[int], str]
    bounds: tuple[list[float], list[float]] | None = None
    many: bool = False
    notes: tuple[str, ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)


class Live:
    """Maps of a network as they are asked for.

    Args:
        subject: the network, its images and the methods; all images are classified at once.

    Raises:
        TypeError: images or logits are no floating point tensors.
        ValueError: they have a wrong shape or value, or there is not one name for each image.
    """

    live = True

    def __init__(self, subject: Subject) -> None:
        """Classify the images."""
        check_inputs(subject.inputs)
        if len(subject.names) != len(subject.inputs):
            raise ValueError(
                f"expected a name for each of {len(subject.inputs)} images, got {len(subject.names)}"
            )
        self.subject = replace(subject, inputs=subject.inputs.detach())
        with torch.no_grad(), evaluation_mode(subject.model):
            parts = self.subject.inputs.split(_TOGETHER)
            logits = torch.cat([check_logits(subject.model(part.clone()), len(part)) for part in parts])
        self._probabilities = (logits.sigmoid() if subject.many else logits.softmax(1)).cpu()

    @property
    def classes(self) -> int:
        """How many there are."""
        return self._probabilities.shape[1]

    def state(self) -> Facts:
        """See `Explored`."""
        subject = self.subject
        return {
            "live": True,
            "name": subject.name,
            "notes": list(subject.notes),
            "labels": [subject.label(index) for index in range(self.classes)],
            "images": [self._image(place) for place in range(len(subject.names))],
            "methods": [self._method(name, explainer) for name, explainer in subject.methods.items()],
        }

    def _image(self, place: int) -> Facts:
        best = self._probabilities[place].topk(min(TOP, self.classes)).indices.tolist()
        return {
            "name": self.subject.names[place],
            "picture": photo(self.shown(self.subject.inputs[place : place + 1])),
            "classes": [self.explained(place, target) for target in best],
        }

    def _method(self, name: str, explainer: Explainer) -> Facts:
        return {
            "name": name,
            "description": describe(explainer)[1],
            "verdict": self.subject.verdicts.get(name, ""),
            "differentiable": is_differentiable(explainer),
        }

    def draw(self, look: Look, stop: Event) -> Facts:
        """See `Explored`; signed relevance, summed over the channels."""
        target, explainer = self.target(look), self.explainer(look.method, look)
        image = self.image(look.image)
        began = time.perf_counter()
        with flushed_denormals(), evaluation_mode(self.subject.model), Interruptible(stop):
            relevance = explainer(self.subject.model, image.clone(), target)
        values = check_relevance(relevance, image, look.method)[0].detach().sum(0).cpu().float().numpy()
        seconds = round(time.perf_counter() - began, 3)
        return {**drawn(values), **self.explained(look.image, target), "seconds": seconds}

    def image(self, place: int) -> Tensor:
        """An image as a batch of one.

        Raises:
            ValueError: there is none.
        """
        check_place(place, len(self.subject.names), "an image")
        return self.subject.inputs[place : place + 1]

    def target(self, look: Look) -> int:
        """The class that is to be explained.

        Raises:
            ValueError: there is no such image or class.
        """
        check_place(look.image, len(self.subject.names), "an image")
        if look.target is None:
            return int(self._probabilities[look.image].argmax())
        return check_place(look.target, self.classes, "a class")

    def explained(self, place: int, target: int) -> Facts:
        """A class of an image, in words."""
        probability = float(self._probabilities[place, target])
        return {"target": target, "label": self.subject.label(target), "probability": probability}

    def explainer(self, name: str, smoothing: Smoothing) -> Explainer:
        """A method of the page, smoothed as asked: averaged over noise outside, softplus inside.

        Raises:
            ValueError: there is no such method.
        """
        found = self.subject.methods[check_method(name, self.subject.methods)]
        if smoothing.beta is not None:
            found = beta_smooth(found, smoothing.beta)
        if smoothing.noise > 0:
            found = smoothgrad(found, smoothing.samples, smoothing.noise)
        return found

    def shown(self, image: Tensor) -> Array:
        """An image of a batch of one as an array (C, H, W) in [0, 1]."""
        array: Array = np.asarray(self.subject.display(image)[0].detach().cpu().float().numpy())
        return array
