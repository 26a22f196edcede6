"""Who does the tasks of an audit: a worker for one after another, and the executor in this process."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from veridical.auditing.chunks import UNSPLIT, images_of
from veridical.auditing.inputs import Inputs
from veridical.auditing.measure import measure
from veridical.auditing.plan import Task
from veridical.auditing.pooling import Outcome, sampled
from veridical.auditing.retrained import Retrained
from veridical.auditing.subject import Subject, Tick, Work
from veridical.auditing.tangent import OnManifold
from veridical.values import Explainer

MAPS_KEPT = 24
"""Images whose maps are stored, the first ones; scores are stored for all."""


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that a worker needs to know of an audit.

    Attributes:
        model: in evaluation mode.
        inputs: the images.
        targets: LongTensor (N,), the explained class of each.
        names: of the N images.
        display: from images to values in [0, 1] that can be shown.
        label: the label of a class.
        bounds: lowest and highest valid value of each channel; None for no bounds.
        methods: by name.
        settings: by test.
        seed: of everything random.
        batch: images in one call of a method.
        chunk: images in a task at most.
        manifold: for the test tangent-space.
        retrained: for the test roar.
    """

    model: nn.Module
    inputs: Inputs
    targets: Tensor
    names: tuple[str, ...]
    display: Callable[[Tensor], Tensor]
    label: Callable[[int], str]
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None
    methods: dict[str, Explainer]
    settings: dict[str, dict[str, Any]]
    seed: int
    batch: int
    chunk: int
    manifold: OnManifold | None = None
    retrained: Retrained | None = None

    def span(self, task: Task) -> tuple[int, int]:
        """The first image of a task and the one after the last."""
        return task.span or (0, images_of(self.settings[task.test]))


class Done(NamedTuple):
    """A task that was tried: its outcome, or why there is none."""

    task: Task
    outcome: Outcome | None
    seconds: float
    reason: str = ""


class Queue:
    """The tasks that are still to be done, in groups of the same images and method.

    Args:
        tasks: in the order in which one worker should do them.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Nothing is taken yet."""
        self._groups: dict[tuple[int, str], deque[Task]] = {}
        self._begun: set[tuple[int, str]] = set()
        for task in tasks:
            self._groups.setdefault(_group(task), deque()).append(task)

    def __len__(self) -> int:
        """How many are left."""
        return sum(len(group) for group in self._groups.values())

    def take(self, last: Task | None = None) -> Task | None:
        """The next task for a worker: of the group of its last one, else of one that nobody has begun."""
        places = [place for place, group in self._groups.items() if group]
        if not places:
            return None
        own = _group(last) if last is not None else None
        fresh = next((place for place in places if place not in self._begun), places[0])
        place = own if own in places else fresh
        self._begun.add(place)
        return self._groups[place].popleft()

    def give_back(self, task: Task) -> None:
        """Put back a task that was taken and not done."""
        self._groups[_group(task)].appendleft(task)

    def drop(self, method: str, test: str) -> int:
        """Leave out the tasks of a method and test; returns how many that were."""
        before = len(self)
        for place, group in self._groups.items():
            kept = (task for task in group if (task.method, task.test) != (method, test))
            self._groups[place] = deque(kept)
        return before - len(self)


def _group(task: Task) -> tuple[int, str]:
    return (0 if task.span is None else task.span[0], task.method)


class Executor(Protocol):
    """Does tasks; the results do not depend on which executor, nor on the order."""

    def run(self, job: Job, queue: Queue, tell: Callable[[Task, float], None]) -> Generator[Done]:
        """Do the tasks of a queue until it is empty, and hand out each as it is finished.

        Args:
            job: the audit.
            queue: may lose tasks between two results.
            tell: told a task and its finished share while it runs.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """One task after another in this process, with all threads of torch."""

    def run(self, job: Job, queue: Queue, tell: Callable[[Task, float], None]) -> Generator[Done]:
        """See `Executor`."""
        worker, last = Worker(job), None
        while (task := queue.take(last)) is not None:
            last = task
            tell(task, 0.0)
            yield worker.do(task, lambda share, task=task: tell(task, share))  # type: ignore[misc]


@dataclass(eq=False)
class Worker:
    """Does tasks one after another, and keeps from one to the next what both need.

    Attributes:
        job: the audit.
    """

    job: Job
    _subject: Subject | None = field(default=None, repr=False)

    def do(self, task: Task, tick: Tick) -> Done:
        """Do one task; whatever a method raises becomes the reason why it has no outcome."""
        began = time.perf_counter()
        start, stop = self.job.span(task)
        try:
            subject = self._of(task, start, stop)
            found = measure(subject, self._work(task, stop - start, tick))
        except Exception as error:
            # A method may be the user's own or another package's, and fail in any way.
            where = "" if task.span is None else f" (images {start} to {stop - 1})"
            return Done(task, None, time.perf_counter() - began, reason_of(error) + where)
        return Done(task, sampled(found, MAPS_KEPT - start), time.perf_counter() - began)

    def _work(self, task: Task, count: int, tick: Tick) -> Work:
        settings = dict(self.job.settings[task.test])
        settings["pairs" if "pairs" in settings else "images"] = count
        return Work(task, self.job.methods[task.method], settings, self.job.seed, self.job.batch, tick)

    def _of(self, task: Task, start: int, stop: int) -> Subject:
        """The images of a task, and what earlier tasks on them found."""
        if task.test in UNSPLIT:
            return replace(self._read(start, stop), manifold=self.job.manifold)
        kept = self._subject
        if kept is None or kept.first != start:
            self._subject = None  # the images before are let go before the next ones are read
            kept = self._subject = self._read(start, min(start + self.job.chunk, len(self.job.names)))
        count = stop - start
        if task.test == "manipulation":
            return self._with_partner(kept, count)
        if count == len(kept.names):
            return kept
        return replace(
            kept, images=kept.images[:count], targets=kept.targets[:count], names=kept.names[:count], known={}
        )

    def _read(self, start: int, stop: int) -> Subject:
        job = self.job
        return Subject(
            model=job.model, images=job.inputs.read(start, stop), targets=job.targets[start:stop],
            names=job.names[start:stop], display=job.display, label=job.label, bounds=job.bounds,
            retrained=job.retrained, first=start,
        )  # fmt: skip

    def _with_partner(self, kept: Subject, count: int) -> Subject:
        """The images and the one after them; after the last of the audit comes its first."""
        after = (kept.first + count) % len(self.job.names)
        rows, one = slice(kept.first, kept.first + count), slice(after, after + 1)
        images = torch.cat([kept.images[:count], self.job.inputs.read(after, after + 1)])
        targets = torch.cat([self.job.targets[rows], self.job.targets[one]])
        return replace(kept, images=images, targets=targets, names=self.job.names[rows] + self.job.names[one])


def reason_of(error: Exception) -> str:
    """The message of an error in one line of at most 500 characters, with its kind where that tells more."""
    text = " ".join(str(error).split())
    if not text or not isinstance(error, ValueError | TypeError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 500 else f"{text[:497]}..."
