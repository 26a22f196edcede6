"""Tasks on many machines and GPUs, by Ray: workers that may die at any time and lose at most their task."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from veridical.auditing.executor import Done, Job, Queue, Worker, reason_of
from veridical.auditing.plan import Task

MISSING = "expected the package ray for --executor ray, got none; install it: pip install 'veridical[ray]'"

_POLL = 0.5
"""Seconds between two looks at what runs."""

_STARTS = 3
"""How often the start of a cluster on this machine is tried."""


@dataclass(frozen=True)
class RayExecutor:
    """Workers of a Ray cluster, each with one GPU where the images are on one, else with some processors.

    The audit itself stays in this process: it hands out tasks, stores what comes back, and is the only one to
    write. Each worker holds the network and does one task at a time. Where one dies, its task is given to a
    new one, up to `retries` times; then the task counts as failed and the audit goes on.

    Attributes:
        address: of a cluster that is running ("auto", "ray://HOST:10001"); None starts one on this machine
            and ends it afterwards.
        workers: how many; None is one for each GPU of the cluster, or for each `threads` processors.
        threads: of torch in each worker on processors; None is as many as this process uses. With as many,
            results are those of `LocalExecutor` to the last bit.
        retries: how often a task may lose its worker.

    Raises:
        ValueError: a number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("workers", 1), ("threads", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}; leave it out to choose")

    def run(self, job: Job, queue: Queue, tell: Callable[[Task, float], None]) -> Generator[Done]:
        """See `Executor`.

        Raises:
            ImportError: Ray is not installed.
            ConnectionError: there is no cluster at the address.
            ValueError: the cluster has no GPU for images on one.
        """
        ray = find_ray()
        threads = self.threads or torch.get_num_threads()
        with _connected(ray, self.address, (self.workers or 0) * threads):
            on_gpu = job.targets.is_cuda
            needs = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": threads}
            count = self.workers or _most(ray, "GPU" if on_gpu else "CPU", 1 if on_gpu else threads)
            crew = _Crew(ray, ray.put(job), needs, threads)
            try:
                yield from self._attend(crew, queue, tell, min(count, len(queue)))
            finally:
                crew.dismiss()

    def _attend(
        self, crew: "_Crew", queue: Queue, tell: Callable[[Task, float], None], count: int
    ) -> Generator[Done]:
        """Keep all workers busy until nothing is left."""
        lost: dict[Task, int] = {}
        crew.hire(count)
        while crew.busy or len(queue):
            for task in crew.hand_out(queue):
                tell(task, 0.0)
            for task, done, error in crew.finished():
                if done is not None:
                    yield done
                    continue
                lost[task] = lost.get(task, 0) + 1
                crew.hire(1)
                if lost[task] <= self.retries:
                    queue.give_back(task)
                else:
                    reason = f"its worker died {lost[task]} times; {reason_of(error)}"
                    yield Done(task, None, 0.0, reason[:500])


@dataclass(eq=False)
class _Crew:
    """The workers, and what each is doing."""

    ray: Any
    job: Any
    needs: dict[str, int]
    threads: int
    idle: deque[tuple[Any, Task | None]] = field(default_factory=deque)
    busy: dict[Any, tuple[Any, Task]] = field(default_factory=dict)

    def hire(self, count: int) -> None:
        """Start workers; they begin when the cluster has room for them."""
        actor = self.ray.remote(**self.needs, max_restarts=0)(_RemoteWorker)
        for _ in range(count):
            self.idle.append((actor.remote(self.job, self.threads, flushes_denormals()), None))

    def hand_out(self, queue: Queue) -> list[Task]:
        """Give a task to everybody who has none, and tell which."""
        given = []
        while self.idle and (task := queue.take(self.idle[0][1])) is not None:
            worker, _ = self.idle.popleft()
            self.busy[worker.do.remote(task)] = (worker, task)
            given.append(task)
        return given

    def finished(self) -> list[tuple[Task, Done | None, Any]]:
        """Wait a moment; the tasks that came back, and those whose worker did not."""
        if not self.busy:
            time.sleep(_POLL)
            return []
        found: list[tuple[Task, Done | None, Any]] = []
        ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_POLL)
        for reference in ready:
            worker, task = self.busy.pop(reference)
            try:
                found.append((task, self.ray.get(reference), None))
                self.idle.append((worker, task))
            except self.ray.exceptions.RayError as error:
                found.append((task, None, error))
        return found

    def dismiss(self) -> None:
        """End all workers, whatever they do."""
        for worker in [one for one, _ in self.idle] + [one for one, _ in self.busy.values()]:
            self.ray.kill(worker)


class _RemoteWorker:
    """A `Worker` in a process of its own."""

    def __init__(self, job: Job, threads: int, flush: bool) -> None:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flush)
        self._worker = Worker(job)

    def do(self, task: Task) -> Done:
        return self._worker.do(task, lambda _: None)


def flushes_denormals() -> bool:
    """Whether this process takes denormal numbers for zero; there is no other way to ask."""
    return bool(torch.tensor([1e-39]).mul(1.0) == 0)


def find_ray() -> Any:
    """The package, loaded only when it is asked for.

    Raises:
        ImportError: it is not installed.
    """
    # Nothing is sent to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise ImportError(MISSING) from error


@contextmanager
def _connected(ray: Any, address: str | None, processors: int) -> Generator[None]:
    """A connection that is there, one to the address, or a cluster on this machine; ends what it began."""
    if ray.is_initialized():
        yield
        return
    # What this process can import, workers can import: a user's own methods and networks.
    path = os.pathsep.join(place for place in sys.path if place)
    common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    common["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
    if address is None:
        count = max(processors, os.cpu_count() or 1)
        _start(ray, num_cpus=count, include_dashboard=False, **common)
    else:
        ray.init(address=address, **common)
    try:
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, **options: Any) -> None:
    """Start a cluster on this machine; Ray gives itself 30 seconds, which a busy machine may exceed.

    Raises:
        RuntimeError: it does not start.
    """
    for attempt in range(_STARTS):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Ray raises a plain Exception here.
            ray.shutdown()
            if attempt + 1 == _STARTS:
                raise RuntimeError(
                    f"expected Ray to start on this machine, got: {reason_of(error)}; wait until the machine "
                    "is less busy, or start a cluster (ray start --head) and give its --ray-address"
                ) from error


def _most(ray: Any, kind: str, each: int) -> int:
    """How many workers the cluster has room for.

    Raises:
        ValueError: for none.
    """
    there = int(ray.cluster_resources().get(kind, 0))
    if there < each:
        raise ValueError(
            f"expected a cluster with at least {each} {kind}, got {there}; give another address, or other "
            "--device or threads"
        )
    return there // each
