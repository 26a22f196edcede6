"""The audit divided into tasks: over images, over interrupts, over executors."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest
import torch

from veridical.attributions import method as find_method
from veridical.auditing import LocalExecutor, Preset, audit, plan_audit
from veridical.auditing.executor import Job, Queue, Worker
from veridical.auditing.inputs import TensorInputs, as_inputs, batches
from veridical.auditing.lock import LOCK, locked
from veridical.auditing.plan import PRESETS, Task
from veridical.records import read_arrays, read_run

SMALL = Preset(10, 3, 6, 2, 6, 3, ("gradient",), 2, batch=2, curved=2, curvature_products=4)
FOUR = ["random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence"]
ONE = {"methods": ["gradient"], "tests": ["random-logit"]}
METHODS = {name: find_method(name) for name in ("gradient", "lrp-zplus")}


def rows(report):
    return [tuple(map(repr, vars(score).values())) for score in report.scores]


@pytest.fixture
def ten():
    return torch.randn(10, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def small(monkeypatch):
    """A preset of ten images in batches of two."""
    monkeypatch.setitem(PRESETS, "quick", SMALL)


@pytest.fixture
def in_tasks_of(monkeypatch, small):
    def divide(count):
        monkeypatch.setattr("veridical.auditing.chunks.MOST", count)

    return divide


@dataclass(eq=False)
class Watched:
    """Images that note how many of them were read at once."""

    images: torch.Tensor
    asked: list = field(default_factory=list)

    def __len__(self):
        return len(self.images)

    def read(self, start, stop):
        self.asked.append((start, stop))
        return self.images[start:stop].clone()


def test_results_do_not_depend_on_how_the_images_are_divided(network, ten, in_tasks_of):
    found = {}
    for size in (64, 4, 2):
        in_tasks_of(size)
        report = audit(network, ten, methods=METHODS)
        found[size] = report
        assert report.run.settings["images_in_a_task"] == size
    assert rows(found[64]) == rows(found[4]) == rows(found[2])
    assert {score.test for score in found[2].scores} >= {
        "random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence", "manipulation",
        "infidelity", "sensitivity",
    }  # fmt: skip
    assert found[64].verdicts == found[2].verdicts
    assert found[64].run.tests == found[2].run.tests
    for name, (arrays, metadata) in found[64].maps.items():
        others, same = found[2].maps[name]
        assert metadata == same and arrays.keys() == others.keys()
        assert all((arrays[key] == others[key]).all() for key in arrays)
    names = found[2].maps["manipulation/gradient"][1]
    assert names["images"] == [f"image {index}" for index in range(6)]
    assert names["target_images"] == [f"image {index}" for index in range(1, 7)]


def test_a_source_is_read_in_parts_and_gives_what_a_tensor_gives(network, ten, in_tasks_of, tmp_path):
    in_tasks_of(4)
    source = Watched(ten)
    tests = ["random-logit", "pixel-flipping"]
    lazy = audit(network, source, methods=METHODS, tests=tests, out=tmp_path / "run")
    assert rows(lazy) == rows(audit(network, ten, methods=METHODS, tests=tests))
    # Once before the work in batches, once for each task's images whatever the methods and tests, and the
    # pictures of the report.
    assert source.asked == [
        *[(start, start + 2) for start in range(0, 10, 2)],
        *[(0, 4), (4, 8), (8, 10)],
        (0, 10),
    ]


def test_maps_are_stored_for_the_first_images_only(network, ten, in_tasks_of, tmp_path, monkeypatch):
    in_tasks_of(4)
    monkeypatch.setattr("veridical.auditing.executor.MAPS_KEPT", 5)
    for place in ("run", "preparing"):
        monkeypatch.setattr(f"veridical.auditing.{place}.MAPS_KEPT", 5)
    tests = ["random-logit", "cascading-randomization"]
    report = audit(network, ten, methods=["gradient"], tests=tests, out=tmp_path / "run")
    arrays, metadata = read_arrays(tmp_path / "run" / "maps" / "gradient.safetensors")
    assert arrays["original"].shape == (5, 12, 12) and arrays["randomized"].shape[1:] == (5, 12, 12)
    assert len(metadata["other_labels"]) == 5
    assert read_arrays(tmp_path / "run" / "maps" / "images.safetensors")[0]["images"].shape[0] == 5
    assert report.run.settings["images_with_stored_maps"] == 5
    assert sum(score.statistic == "ssim" and score.test == "random-logit" for score in report.scores) == 10
    assert not (tmp_path / "run" / "tasks" / "random-logit--gradient--8-10.safetensors").exists()


def test_a_stored_run_keeps_the_size_of_its_tasks(network, ten, in_tasks_of, tmp_path, monkeypatch):
    in_tasks_of(4)
    first = audit(network, ten, **ONE, out=tmp_path / "run")
    in_tasks_of(6)
    done = []
    monkeypatch.setattr("veridical.auditing.executor.measure", lambda *_: done.append(1))
    again = audit(network, ten, **ONE, out=tmp_path / "run")
    assert not done and rows(first) == rows(again)


def test_a_failure_on_some_images_is_told_once_with_the_images(network, ten, in_tasks_of):
    in_tasks_of(4)
    calls = []

    def moody(model, inputs, target=None):
        calls.append(len(inputs))
        if torch.equal(inputs[0], ten[4]):
            raise ValueError("no")
        return inputs * 2.0

    report = audit(network, ten, methods={"moody": moody}, tests=["random-logit"])
    (skipped,) = [one for one in report.run.skipped if one.test == "random-logit"]
    assert skipped.reason == "no (images 4 to 7)" and report.scores == ()
    # Two classes of two batches, the failing call, and nothing of the images after it.
    assert len(calls) == 2 * 2 + 1


def interrupted(network, images, folder, moments):
    """Run until nothing stops it any more: at each of the moments, counted in calls of progress."""
    stops = 0
    for moment in [*moments, None]:
        ticks = 0

        def told(_event, moment=moment):
            nonlocal ticks
            ticks += 1
            if ticks == moment:
                raise KeyboardInterrupt

        try:
            report = audit(network, images, methods=METHODS, tests=FOUR, out=folder, progress=told)
        except KeyboardInterrupt:
            stops += 1
    return report, stops


def test_ten_interrupts_at_random_moments_change_nothing(network, ten, in_tasks_of, tmp_path):
    in_tasks_of(4)
    whole = audit(network, ten, methods=METHODS, tests=FOUR)
    moments = random.Random(3).choices(range(2, 40), k=10)
    report, stops = interrupted(network, ten, tmp_path / "run", moments)
    assert stops >= 5
    assert rows(report) == rows(whole) and report.verdicts == whole.verdicts
    for name, (arrays, _) in whole.maps.items():
        stored = report.maps[name][0]
        assert all((arrays[key].astype("float32") == stored[key]).all() for key in arrays)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".")]


# Python itself loses an interrupt that comes while an object is finalized, and warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ten_signals_at_random_moments_change_nothing(network, ten, in_tasks_of, tmp_path):
    in_tasks_of(4)
    whole = audit(network, ten, methods=METHODS, tests=FOUR)
    chance, stops, tries = random.Random(0), 0, 0
    while stops < 10 and (tries := tries + 1) < 15:
        timer = threading.Timer(0.01 + chance.random() / 4, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            audit(network, ten, methods=METHODS, tests=FOUR, out=tmp_path / "run")
            timer.join()
        except KeyboardInterrupt:
            stops += 1
    report = audit(network, ten, methods=METHODS, tests=FOUR, out=tmp_path / "run")
    assert stops == 10
    assert rows(report) == rows(whole) and report.verdicts == whole.verdicts


KILLED = """
import sys, torch
from torch import nn
from veridical.auditing import audit
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
report = audit(
    model.eval(), torch.randn(5, 3, 16, 16), out=sys.argv[1] or None,
    methods=["gradient", "lrp-zplus"], tests=["random-logit", "cascading-randomization", "pixel-flipping"],
    progress=lambda event: print(event.state, flush=True),
)
print([repr(score) for score in report.scores])
"""


@pytest.mark.slow
def test_a_process_killed_three_times_changes_nothing(tmp_path):
    command = [sys.executable, "-c", KILLED]
    whole = subprocess.run([*command, ""], capture_output=True, text=True, check=True)
    for lines in (2, 6, 9):
        with subprocess.Popen([*command, str(tmp_path / "run")], stdout=subprocess.PIPE) as process:
            for _ in range(lines):
                process.stdout.readline()
            process.kill()
    last = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, check=True)
    assert last.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert "reused" in last.stdout


def test_a_directory_at_work_is_refused_and_the_process_named(network, ten, small, tmp_path):
    def again(_event):
        audit(network, ten, **ONE, out=tmp_path / "run")

    with pytest.raises(ValueError, match=rf"where process {os.getpid()} on .* is at work; wait for it"):
        audit(network, ten, **ONE, out=tmp_path / "run", progress=again)
    assert audit(network, ten, **ONE, out=tmp_path / "run").run.finished
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_lock_left_by_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import os, runpy, sys; from pathlib import Path\n"
        "with runpy.run_path(sys.argv[1])['locked'](Path(sys.argv[2])): os.kill(os.getpid(), 9)"
    )
    file = sys.modules[locked.__module__].__file__
    subprocess.run([sys.executable, "-c", code, file, str(tmp_path)], check=False)
    assert json.loads((tmp_path / LOCK).read_text())["process"] != os.getpid()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_directory_with_only_a_lock_is_a_new_one(network, ten, small, tmp_path):
    (tmp_path / LOCK).write_text("{")
    assert audit(network, ten, **ONE, out=tmp_path).run.finished


def test_a_worker_takes_the_tasks_of_its_images_and_method_first():
    tasks = [Task(method, test, span) for span in ((0, 4), (4, 8)) for method in "ab" for test in ("x", "y")]
    queue = Queue(tasks)
    one, other = queue.take(), queue.take()
    assert (one, other) == (tasks[0], tasks[2])
    assert queue.take(one) == tasks[1] and queue.take(other) == tasks[3]
    queue.give_back(one)
    assert queue.take(one) == one
    assert queue.drop("b", "x") == 1 and len(queue) == 3
    third = queue.take(one)
    assert third == tasks[4]
    assert [queue.take(third), queue.take(third), queue.take(third)] == [tasks[5], tasks[7], None]


def test_a_worker_explains_each_image_once_for_all_tests(network, ten, in_tasks_of):
    in_tasks_of(4)
    seen = []

    def watched(model, inputs, target=None):
        seen.append((model is network, len(inputs)))
        return inputs * target[:, None, None, None]

    tests = ["random-logit", "cascading-randomization", "pixel-flipping"]
    audit(network, ten, methods={"watched": watched}, tests=tests)
    assert sum(count for unchanged, count in seen if unchanged) == 2 * 10


def test_more_images_than_the_preset(network, ten):
    found = audit(network, ten, **ONE, max_images=7)
    assert len(found.run.images) == 7
    with pytest.raises(ValueError, match="at least one image, got max_images 0"):
        audit(network, ten, max_images=0)


@pytest.mark.parametrize(
    ("memory", "message"),
    [(0.0, "positive number of GiB"), (float("nan"), "positive number"), (1e-9, "at least one batch of 2")],
)
def test_memory_that_holds_nothing_is_refused(memory, message, network, ten, small):
    with pytest.raises(ValueError, match=message):
        audit(network, ten, memory_gib=memory)


def test_less_memory_makes_smaller_tasks(network, ten, small):
    sizes = [
        audit(network, ten, **ONE, memory_gib=gib).run.settings["images_in_a_task"] for gib in (1.0, 0.00045)
    ]
    assert sizes[0] == 64 and 2 <= sizes[1] < 64 and sizes[1] % 2 == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda images: images.long(), TypeError, "floating point"),
        (lambda images: images[:, 0], ValueError, "shape"),
        (lambda images: torch.full_like(images, torch.nan), ValueError, "NaN"),
        (lambda images: images[:1].repeat(3, 1, 1, 1), ValueError, "expected images of shape"),
    ],
)
def test_what_a_source_may_not_give(change, error, message, ten):
    class Odd(Watched):
        def read(self, start, stop):
            return change(self.images[start:stop])

    with pytest.raises(error, match=message):
        list(batches(Odd(ten), 10, 4))


def test_sources():
    assert isinstance(as_inputs(torch.zeros(2, 3, 4, 4)), TensorInputs)
    with pytest.raises(ValueError, match="at least one image, got none"):
        as_inputs(Watched(torch.zeros(0, 3, 4, 4)))
    with pytest.raises(TypeError, match="torch tensor"):
        as_inputs([1, 2])


def test_the_plan_counts_tasks_and_what_is_done(network, ten, in_tasks_of, tmp_path):
    in_tasks_of(4)
    options = {"methods": ["gradient", "smoothgrad"], "tests": ["random-logit", "pixel-flipping"]}
    plan = plan_audit(network, ten, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert (plan.tasks, plan.done, plan.chunk) == (12, 0, 4)
    assert plan.seconds > 0 and plan.bytes > 0 and [line.images for line in plan.lines] == [10] * 4
    passes = {(line.method, line.test): line.passes for line in plan.lines}
    assert passes["smoothgrad", "random-logit"] > 2 * passes["gradient", "random-logit"]
    assert passes["gradient", "pixel-flipping"] > passes["smoothgrad", "pixel-flipping"]
    audit(network, ten, out=tmp_path / "run", **(options | {"progress": None}))
    after = plan_audit(network, ten, out=tmp_path / "run", **options)
    assert (after.tasks, after.done, after.seconds, after.bytes) == (12, 12, 0.0, plan.bytes)
    with pytest.raises(ValueError, match="seed"):
        plan_audit(network, ten, out=tmp_path / "run", seed=1, **options)


def test_an_executor_of_ones_own(network, ten, in_tasks_of):
    in_tasks_of(4)

    @dataclass(frozen=True)
    class Backwards:
        """The last task first, each by a worker that knows nothing."""

        def run(self, job: Job, queue: Queue, tell):
            tasks = []
            while (task := queue.take()) is not None:
                tasks.append(task)
            for task in reversed(tasks):
                yield Worker(job).do(task, lambda _: None)

    found = [audit(network, ten, methods=METHODS, executor=one) for one in (LocalExecutor(), Backwards())]
    assert rows(found[0]) == rows(found[1]) and found[0].verdicts == found[1].verdicts


def test_the_stored_tasks_say_how_long_they_took(network, ten, small, tmp_path):
    audit(network, ten, **ONE, out=tmp_path / "run")
    content = json.loads((tmp_path / "run" / "tasks" / "random-logit--gradient.json").read_text())
    assert content["seconds"] >= 0 and read_run(tmp_path / "run").finished
