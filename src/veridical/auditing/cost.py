"""What an audit costs, told before it starts: tasks, seconds and bytes.

A forward pass and a comparison of two maps are timed on the first images. What a test needs of them is known:
how often it calls the method, how many images it predicts, how many maps it compares. What a method needs is
a number of forward passes, from the table here.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch

from veridical.auditing.executor import MAPS_KEPT, Job
from veridical.auditing.plan import Task
from veridical.auditing.size import (
    Measured,
    file_bytes,
    lines_of,
    map_bytes,
    measured_on,
    picture_bytes,
    table_bytes,
)
from veridical.metrics import compare_maps
from veridical.values import Explainer

ERROR = "which may be off by a factor of 3 (a method of your own counts as a gradient)"
"""How far the estimate may be off: our own guess, which `python -m benchmarks.scale estimates` checks."""

FORWARD_PASSES: Mapping[str, float] = {
    "gradient": 3.0, "gradient-x-input": 3.0, "guided-backprop": 3.0, "deconvnet": 3.0, "lrp-z": 4.0,
    "lrp-epsilon": 4.0, "lrp-zplus": 5.0, "lrp-alpha1-beta0": 6.0, "lrp-alpha2-beta1": 8.0,
    "deep-taylor": 6.0,
}  # fmt: skip
"""One explanation of an image, its own forward pass included, in forward passes; 3 for what is not here."""

CLOCK: Callable[[], float] = time.perf_counter
"""What the probe is timed by; on a busy machine a benchmark takes the processor's time instead."""


@dataclass(frozen=True)
class Probe:
    """What was timed.

    Attributes:
        forward: seconds of a forward pass for one image, in a batch of the audit's size.
        compare: seconds of comparing two maps.
        parameters: of the network.
    """

    forward: float
    compare: float
    parameters: int


@dataclass(frozen=True)
class Estimate:
    """One line of a plan: a test of a method on all of its images.

    Attributes:
        method: its name.
        test: its name.
        tasks: how many tasks it is divided into.
        done: how many of them are stored already.
        images: images, or pairs.
        passes: forward passes that it amounts to.
        seconds: of one worker for what is not done.
        bytes: that it will take on the disk, besides the page of the report.
    """

    method: str
    test: str
    tasks: int
    done: int
    images: int
    passes: float
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What an audit would do.

    Attributes:
        lines: one for each test of each method.
        chunk: images in a task at most.
        probe: what the seconds rest on.
        network: what the bytes rest on.
        pictures: bytes of the images that are stored to be shown.
        error: how far it may be off.
    """

    lines: tuple[Estimate, ...]
    chunk: int
    probe: Probe
    network: Measured
    pictures: int
    error: str = ERROR

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return sum(line.tasks for line in self.lines)

    @property
    def done(self) -> int:
        """How many of them are done."""
        return sum(line.done for line in self.lines)

    @property
    def seconds(self) -> float:
        """Of one worker, for what is not done."""
        return sum(line.seconds for line in self.lines)

    @property
    def bytes(self) -> int:
        """On the disk, when everything is done, besides the page of the report (at most 15 MB)."""
        return self.pictures + sum(line.bytes for line in self.lines)


def planned(job: Job, tasks: Sequence[Task], done: Set[Task]) -> Plan:
    """The plan of an audit: a line for each test of each method.

    Args:
        job: the audit.
        tasks: all of its tasks.
        done: those that are stored.
    """
    probe = measure_probe(job)
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.method, task.test), []).append(task)
    network = measured_on(job.model, job.inputs.read(0, 1), job.names, {task.test for task in tasks})
    first = next(iter(job.methods))
    lines = [_line(job, (probe, network), group, done, name == first) for (name, _), group in groups.items()]
    return Plan(
        tuple(lines), job.chunk, probe, network, picture_bytes(min(len(job.names), MAPS_KEPT), network)
    )


def measure_probe(job: Job) -> Probe:
    """Time a forward pass and a comparison on the first batch; the faster of three runs counts."""
    images = job.inputs.read(0, min(job.batch, len(job.names)))

    def forward() -> None:
        with torch.no_grad():
            job.model(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((2, len(images), *images.shape[2:]), generator=generator).to(images.device)
    seconds = [
        _fastest(one) / len(images) for one in (forward, lambda: compare_maps(maps[0], maps[1], "sixt2020"))
    ]
    parameters = sum(one.numel() for one in job.model.parameters())
    return Probe(seconds[0], seconds[1], parameters)


def _fastest(run: Callable[[], object]) -> float:
    found = []
    for _ in range(4):
        began = CLOCK()
        run()
        found.append(CLOCK() - began)
    return min(found[1:])


def explanation_passes(explainer: Explainer) -> float:
    """Forward passes of one explanation; those of averages over samples or nodes are multiples."""
    name = str(getattr(explainer, "name", ""))
    own = FORWARD_PASSES.get(name, FORWARD_PASSES["gradient"])
    for count in ("samples", "steps"):
        times = getattr(explainer, count, None)
        if isinstance(times, int) and not isinstance(times, bool):
            return own * times
    return own


def _line(
    job: Job, known: tuple[Probe, Measured], tasks: list[Task], done: Set[Task], first: bool
) -> Estimate:
    head, (probe, network) = tasks[0], known
    settings = dict(job.settings[head.test])
    if head.test == "cascading-randomization":
        settings["steps"] = min(settings["steps"], network.units)
    sizes = {task: job.span(task)[1] - job.span(task)[0] for task in tasks}
    left = [task for task in tasks if task not in done]
    passes, maps = _needs(head.test, settings, job.methods[head.method], first)
    images, open_images = sum(sizes.values()), sum(sizes[task] for task in left)
    seconds = open_images * (passes * probe.forward + maps * probe.compare)
    seconds += len(left) * _fixed(head.test, probe)
    lines = lines_of(head.test, settings, network)
    stored = sum(file_bytes(lines, size, network) for size in sizes.values()) + table_bytes(lines, images)
    stored += map_bytes(head.test, settings, min(images, MAPS_KEPT), network)
    return Estimate(
        head.method, head.test, len(tasks), len(tasks) - len(left), images, passes * images, seconds,
        int(stored),
    )  # fmt: skip


def _needs(test: str, settings: Mapping[str, Any], explainer: Explainer, first: bool) -> tuple[float, float]:
    """For each image: forward passes and compared maps."""
    steps, method = settings.get("steps", 0), explanation_passes(explainer)
    if test == "random-logit":
        # Two maps, from one forward pass where the method can answer from a recorded one.
        return 2 * method - (1 if hasattr(explainer, "from_trace") else 0), 1
    if test == "cascading-randomization":
        return steps * method, steps
    if test == "pixel-flipping":
        orders = 2 + (settings["random"] if first else 0)
        return 1 + orders * len(steps), 0
    if test == "cosine-convergence":
        return (settings["vectors"] + 1) * SENT, 0
    if test == "manipulation":
        return MEASURED + steps * MANIPULATED * method, 4
    if test == "infidelity":
        squares = settings["samples"]
        return 1 + (squares if first else 0), squares * (1 + settings["shuffles"]) * ADDED_UP
    if test == "sensitivity":
        return 1 + settings["samples"] * method, 0
    if test == "curvature":
        return CURVED + (settings["products"] + 1) * PRODUCT, 0
    return 2 * method, 0


MANIPULATED = 3.0
"""A step of the manipulation in explanations: the map is differentiated."""

MEASURED = 50.0
"""The target map, and the manipulated image measured on the network as it is, in forward passes."""

ADDED_UP = 0.02
"""What a map predicts for a removed square, in comparisons of two maps."""

SENT = 5.5
"""A starting vector sent down to the input and compared with the others, in forward passes, by any method."""

CURVED, PRODUCT = 13.0, 7.0
"""Two gradients of the softplus network with their graphs, and a product with the Hessian, in forward passes.
One product more than asked for measures how well the largest curvature was found."""


def _fixed(test: str, probe: Probe) -> float:
    """Seconds for each task, whatever the number of images: the weights that are drawn anew."""
    return 2e-8 * probe.parameters if test == "cascading-randomization" else 0.0
