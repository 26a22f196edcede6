"""Workers of Ray: the same scores as local, also where one of them is killed in the middle."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from veridical.attributions import method as find_method
from veridical.auditing import RayExecutor, audit
from veridical.auditing.executor import Done, Queue
from veridical.auditing.plan import Task
from veridical.auditing.ray_executor import _connected, _Crew, find_ray
from veridical.records import read_run

QUIET = pytest.mark.filterwarnings(
    # What Ray itself does when it starts and ends processes.
    "ignore::ResourceWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
TESTS = ["random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence"]


def rows(report):
    return [tuple(map(repr, vars(score).values())) for score in report.scores]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers of at least 1"),
        ({"threads": 0}, "threads of"),
        ({"retries": -1}, "retries of"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RayExecutor(**options)


def test_without_the_package_the_message_says_what_to_install(monkeypatch, network, images):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"expected the package ray .*pip install 'veridical\[ray\]'"):
        find_ray()
    with pytest.raises(ImportError, match="package ray"):
        audit(network, images, methods=["gradient"], tests=["random-logit"], executor=RayExecutor())


class Mortal:
    """Stands for Ray in one process: each worker dies at the task with the name that it is told."""

    class exceptions:  # noqa: N801 - the name of Ray's module
        class RayError(Exception):
            pass

    def __init__(self, deaths):
        self.deaths, self.hired = dict(deaths), 0

    def remote(self, **_):
        def decorate(_kind):
            return SimpleNamespace(remote=lambda *_: self.worker())

        return decorate

    def worker(self):
        self.hired += 1
        return SimpleNamespace(do=SimpleNamespace(remote=self.do))

    def do(self, task):
        if self.deaths.get(task.test, 0) > 0:
            self.deaths[task.test] -= 1
            return (len(self.deaths), self.exceptions.RayError("the worker died"), object())
        return (0, Done(task, "outcome", 0.0), object())

    def wait(self, references, **_):
        return references[:1], references[1:]

    def get(self, reference):
        if isinstance(reference[1], Exception):
            raise reference[1]
        return reference[1]

    def kill(self, _worker):
        pass


@pytest.mark.parametrize(("deaths", "hired"), [(0, 2), (2, 4), (3, 5)])
def test_a_task_whose_worker_dies_is_done_by_another_and_given_up_at_last(deaths, hired):
    ray = Mortal({"b": deaths})
    tasks = [Task("m", test, span) for span in ((0, 4), (4, 8)) for test in "abc"]
    tasks = [task for task in tasks if task != Task("m", "b", (4, 8))]
    crew, told = _Crew(ray, None, {}, 1), []
    attend = RayExecutor(retries=2)._attend(crew, Queue(tasks), lambda task, _: told.append(task), 2)
    found = {done.task: done for done in attend}
    crew.dismiss()
    assert set(found) == set(tasks) and ray.hired == hired
    lost = found[Task("m", "b", (0, 4))]
    assert (lost.outcome is None) == (deaths == 3)
    assert ("its worker died 3 times; RayError: the worker died" == lost.reason) == (deaths == 3)
    assert told.count(lost.task) == min(deaths, 2) + 1


def test_a_cluster_that_does_not_start_is_tried_again_and_told():
    starts, stops = [], []

    def init(**_):
        starts.append(1)
        raise Exception("timed out")

    ray = SimpleNamespace(init=init, shutdown=lambda: stops.append(1), is_initialized=lambda: False)
    with (
        pytest.raises(RuntimeError, match=r"expected Ray to start .* timed out; wait"),
        _connected(ray, None, 2),
    ):
        pass
    assert len(starts) == len(stops) == 3


@pytest.fixture(scope="module")
def cluster():
    """A cluster on this machine, for both tests; processes of one thread."""
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with _connected(find_ray(), None, 2):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def several_tasks(cluster, monkeypatch):
    """A size of the tasks that makes several of five images."""
    monkeypatch.setattr("veridical.auditing.chunks.MOST", 4)


@pytest.mark.slow
@QUIET
def test_two_workers_give_the_scores_of_one_process(several_tasks, network, images, tmp_path):
    options = {"methods": ["gradient", "lrp-zplus"], "tests": TESTS}
    local = audit(network, images, **options)
    spread = audit(network, images, out=tmp_path / "run", executor=RayExecutor(workers=2), **options)
    assert rows(spread) == rows(local) and spread.verdicts == local.verdicts
    assert read_run(tmp_path / "run").finished


@pytest.mark.slow
@QUIET
def test_a_worker_killed_in_the_middle_changes_nothing(several_tasks, network, images, tmp_path):
    flag = tmp_path / "killed"
    explain = find_method("gradient")

    def deadly(model, inputs, target=None):
        # Only in a worker, in the middle of a task, and once.
        if os.getpid() != here and len(inputs) == 1 and not flag.exists():
            flag.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return explain(model, inputs, target)

    here = os.getpid()
    options = {"methods": {"own": deadly, "lrp-zplus": find_method("lrp-zplus")}, "tests": TESTS}
    local = audit(network, images, **options)
    spread = audit(network, images, out=tmp_path / "run", executor=RayExecutor(workers=2), **options)
    assert int(flag.read_text()) != here
    assert rows(spread) == rows(local) and spread.verdicts == local.verdicts
