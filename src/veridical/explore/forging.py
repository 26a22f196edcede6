"""A manipulation that can be watched: each step's curve, and now and then the image and its map."""

import math
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from veridical.attacks import Manipulation, image_target, manipulate
from veridical.auditing import Forgery, attack_settings
from veridical.auditing.watching import Sight, Watched
from veridical.explore.asked import Attack
from veridical.explore.live import Live
from veridical.explore.seen import Array, Facts, drawn
from veridical.report.pictures import amplification, amplified, photo
from veridical.tensors import flushed_denormals

FRAME = 0.4  # seconds between two pictures


@dataclass(frozen=True)
class Point:
    """One step of the curve: correlation with the target map, of the network itself or the softplus one."""

    step: int
    pcc: float
    smoothed: bool


@dataclass(frozen=True)
class Progress:
    """Where a manipulation is.

    Attributes:
        phase: "idle", "running", "done" or "failed".
        request: what was asked for.
        step: steps done.
        steps: of all.
        curve: what was seen so far.
        pictures: by name, of the last frame; at the end those of the kept image.
        figures: at the end, see `Forgery.figures`.
        message: why it failed.
    """

    phase: str = "idle"
    request: Facts = field(default_factory=dict)
    step: int = 0
    steps: int = 0
    curve: tuple[Point, ...] = ()
    pictures: Facts = field(default_factory=dict)
    figures: Facts = field(default_factory=dict)
    message: str = ""

    def as_dict(self) -> Facts:
        """All of it, for JSON."""
        return asdict(self)


class Studio:
    """Runs one manipulation after another, and tells at any time where it is.

    Args:
        live: the network, its images and methods.
    """

    def __init__(self, live: Live) -> None:
        """Nothing runs yet."""
        self._live = live
        self._progress = Progress()

    @property
    def progress(self) -> Progress:
        """Where the manipulation is; a value that does not change."""
        return self._progress

    def prepare(self, attack: Attack) -> None:
        """Refuse what cannot work, and say that it will begin.

        Raises:
            ValueError: an image, the class or the method is unknown, or the two images are the same.
        """
        live = self._live
        live.target(attack)
        live.image(attack.other)
        live.explainer(attack.method, attack)
        if attack.other == attack.image:
            raise ValueError("expected another image as the target, got the same one; choose another")
        self._progress = Progress("running", attack.model_dump(), steps=attack.steps)

    def run(self, attack: Attack, stop: threading.Event) -> None:
        """Manipulate; whatever goes wrong becomes the message.

        Args:
            attack: what was prepared.
            stop: ends the optimization after the current step; the best iterate is kept.
        """
        try:
            with flushed_denormals():
                self._run(attack, stop)
        except KeyboardInterrupt:
            self._change(phase="failed", message="it was stopped before the first step was done")
        except Exception as error:
            # A method may be the user's own or another package's, and fail in any way.
            text = " ".join(str(error).split()) or type(error).__name__
            self._change(phase="failed", message=text)

    def _run(self, attack: Attack, stop: threading.Event) -> None:
        live, began = self._live, time.perf_counter()
        explainer, target = live.explainer(attack.method, attack), live.target(attack)
        clean = live.image(attack.image)
        goal = image_target(live.subject.model, live.image(attack.other), explainer)
        film = _Film(self, live, stop)
        self._change(pictures={"target": drawn(_array(goal))})
        settings = attack_settings("default", live.subject.bounds, steps=attack.steps)
        found = manipulate(
            live.subject.model, clean, goal, explainer=Watched(explainer, goal, film.saw), target=target,
            settings=settings, callback=film.stepped, memory_gib=math.inf,
        )  # fmt: skip
        forgery = Forgery(clean, found, (), settings, time.perf_counter() - began)
        figures = {**forgery.figures(label=live.subject.label), "seconds": round(forgery.seconds, 2)}
        self._change(phase="done", pictures=_pictures(live, clean, found), figures=figures)

    def _change(self, **changes: Any) -> None:
        self._progress = replace(self._progress, **changes)

    def frame(self, step: int, points: tuple[Point, ...], pictures: Facts) -> None:
        """Take over what was seen of a step; no pictures leave those before."""
        kept = {**self._progress.pictures, **pictures}
        self._change(step=step, curve=points, pictures=kept)


class _Film:
    """Joins what the watched explainer saw with the steps that are done."""

    def __init__(self, studio: Studio, live: Live, stop: threading.Event) -> None:
        self._studio, self._live, self._stop = studio, live, stop
        self._points: list[Point] = []
        self._last: Sight | None = None
        self._shown = -math.inf

    def saw(self, sight: Sight) -> None:
        if not self._points and not sight.smoothed:
            self._points.append(Point(0, sight.pcc, smoothed=False))
        self._last = sight

    def stepped(self, step: int, losses: Tensor) -> None:
        sight, pictures = self._last, {}
        if sight is not None:
            self._points.append(Point(step, sight.pcc, sight.smoothed))
            if time.perf_counter() - self._shown >= FRAME:
                self._shown = time.perf_counter()
                pictures = self._pictures(sight)
        self._studio.frame(step, tuple(self._points), pictures)
        if self._stop.is_set():
            # How an optimization is told to end and to keep what it has.
            raise KeyboardInterrupt

    def _pictures(self, sight: Sight) -> Facts:
        if sight.images is None or sight.maps is None:
            return {}
        image = photo(self._live.shown(sight.images[:1]))
        return {"image": image, "map": drawn(_array(sight.maps[:1]))}


def _pictures(live: Live, clean: Tensor, found: Manipulation) -> Facts:
    """The images before and after, the change, and the three maps."""
    before, after = live.shown(clean), live.shown(found.inputs)
    change = after - before
    factor = amplification(change)
    return {
        "clean": photo(before),
        "image": photo(after),
        "change": {"picture": amplified(change, factor), "factor": factor},
        "original": drawn(_array(found.original_saliency)),
        "map": drawn(_array(found.saliency)),
        "target": drawn(_array(found.target_map)),
    }


def _array(maps: Tensor) -> Array:
    """The first map (H, W) of a batch; divided by its largest value, which its sum makes tiny."""
    with torch.no_grad():
        one = maps[0].detach().cpu().float()
        values: Array = (one / one.max().clamp(min=1e-30)).numpy()
    return values
