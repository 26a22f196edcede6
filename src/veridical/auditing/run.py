"""The audit: every test of every method, stored as it goes, and a verdict on each method at the end."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Unpack

from torch import Tensor, nn

from veridical.auditing.cost import Plan, planned
from veridical.auditing.digests import state_digest
from veridical.auditing.executor import MAPS_KEPT, Job, LocalExecutor, Queue
from veridical.auditing.inputs import Inputs
from veridical.auditing.lock import locked
from veridical.auditing.plan import PRESETS, Task
from veridical.auditing.pooling import Outcome, joined
from veridical.auditing.preparing import AuditOptions, Prepared, Progress, prepare, unfinished
from veridical.auditing.result import AuditReport, MapFile, StoredMaps, merge_maps
from veridical.auditing.store import Store, check_directory
from veridical.auditing.subject import array
from veridical.checks import evaluation_mode
from veridical.records import Score, SkippedRecord, write_run
from veridical.values import Target
from veridical.verdicts import judge

UNREADABLE = "its stored result could not be read; run the same command again"


def audit(
    model: nn.Module,
    images: Tensor | Inputs,
    *,
    out: str | Path | None = None,
    preset: str = "quick",
    target: Target = None,
    seed: int = 0,
    **options: Unpack[AuditOptions],
) -> AuditReport:
    """Find out which explanation methods may be believed for a model, on some images.

    Every test of every method, on a part of the images, is a task of its own, stored in `out` as soon as it
    is finished. The same call on an existing run directory resumes it. The model, its mode and the global
    random state stay as they are.

    Args:
        model: any module that maps images to logits (N, K).
        images: float (N, C, H, W), preprocessed for the model, or a source that reads them when they are
            needed (see `Inputs`); a preset uses at most a certain number.
        out: run directory; None keeps the results in memory (see `AuditReport.save`).
        preset: "quick", "standard" or "thorough", see `PRESETS`.
        target: the explained class of each image; None for the predicted one.
        seed: of everything random.
        options: `methods` (names, callables, or a mapping of names to callables), `tests` (names), `policy`
            (a `Policy` or the path of a TOML file), `progress` (called with a `Progress`), `names` of the
            images, `display` (from images to [0, 1] for pictures), `labels` (from a class to its label),
            `bounds` (lowest and highest valid value of each channel, for the manipulation), `model_info`
            (fields of `ModelRecord`), `truth` (names of the images' classes, and the model's numbers of these
            or None), `data_info` (fields of `DataRecord`), `command` (for the record), `render` (makes the
            page of a run directory, as `veridical.report.render`), `manifold` (for the test tangent-space: a
            directory of `veridical manifold fit`, a fitted manifold, or a decoder with latents; see
            `ManifoldLike`), `roar` (for the test roar: the folder that `veridical.roar` stored its trainings
            in), `max_images` (instead of the preset's), `memory_gib` (what a task may use; the images are
            divided so, without a change of the results), `executor` (who does the tasks: `LocalExecutor()`,
            or `RayExecutor()`).

    Returns:
        Verdicts, scores and maps.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, the model is not deterministic or does not return logits, or
            `out` holds something else or a run with another configuration.
        OSError: the run directory cannot be written.
        RuntimeError: a method changed the model.
    """
    directory = None if out is None else Path(out)
    if directory is not None:
        check_directory(directory)
    with evaluation_mode(model):
        prepared = prepare(model, images, (preset, target, seed), options, directory)
        before = state_digest(model)
        with locked(directory):
            store = Store(directory, prepared.run.settings["configuration"])
            if directory is not None:
                write_run(directory, prepared.run)
            failed = _work(prepared, store, options)
            if state_digest(model) != before:
                raise RuntimeError("expected an unchanged model, got other weights; a method changed them")
            report = _finish(prepared, store, failed)
            if directory is not None:
                report.save(directory, options.get("render"))
    return report


def plan_audit(
    model: nn.Module,
    images: Tensor | Inputs,
    *,
    out: str | Path | None = None,
    preset: str = "quick",
    target: Target = None,
    seed: int = 0,
    **options: Unpack[AuditOptions],
) -> Plan:
    """What `audit` with the same arguments would do, and about how long it would take; nothing is written.

    The images are looked at once, as an audit does first, and a forward pass is timed on the first of them.

    Args:
        model: see `audit`; also all other arguments.
        images: see `audit`.
        out: see `audit`; where a run is stored there, what is done already is counted.
        preset: see `audit`.
        target: see `audit`.
        seed: see `audit`.
        options: see `audit`.

    Returns:
        Tasks, seconds and bytes; see `Plan`.

    Raises:
        TypeError: see `audit`.
        ValueError: see `audit`.
    """
    directory = None if out is None else Path(out)
    with evaluation_mode(model):
        prepared = prepare(model, images, (preset, target, seed), options, directory)
        store = Store(directory, prepared.run.settings["configuration"])
        done = {task for task in prepared.tasks if store.load(task) is not None}
        return planned(prepared.job, prepared.tasks, done)


def _work(prepared: Prepared, store: Store, options: AuditOptions) -> list[SkippedRecord]:
    """Do every task that is not stored yet; a method that cannot explain this model does not end it."""
    told: Callable[[Progress], None] = options.get("progress") or (lambda _: None)
    total, failed = len(prepared.tasks), list(prepared.run.skipped)
    todo, done = [], 0
    for task in prepared.tasks:
        if store.load(task) is None:
            todo.append(task)
        else:
            done += 1
            told(Progress(done, total, task, "reused"))
    queue = Queue(todo)

    def tell(task: Task, share: float) -> None:
        told(Progress(done + share, total, task, "running"))

    executor = options.get("executor") or LocalExecutor()
    with closing(executor.run(prepared.job, queue, tell)) as results:
        for task, outcome, seconds, reason in results:
            done += 1
            if outcome is None:
                failed = unfinished(failed, task, reason)
                done += queue.drop(task.method, task.test)
            else:
                store.save(task, outcome, seconds)
            told(Progress(done, total, task, "failed" if outcome is None else "finished"))
    return failed


def _finish(prepared: Prepared, store: Store, failed: list[SkippedRecord]) -> AuditReport:
    """Join the parts, one method after another, and judge."""
    job, run = prepared.job, prepared.run
    tests = {name: record.model_copy(deep=True) for name, record in run.tests.items()}
    maps: dict[str, MapFile] | StoredMaps = {} if store.directory is None else StoredMaps(store.directory)
    scores: list[Score] = []
    for method in job.methods:
        outcomes, failed = _joined(prepared, store, method, failed)
        for task, outcome in outcomes.items():
            scores += outcome.scores
            tests[task.test].settings.update(outcome.facts)
        _put(maps, merge_maps(outcomes))
    _put(maps, _pictures(job))
    done = run.model_copy(update={"finished": True, "tests": tests, "skipped": failed})
    done = done.model_copy(update={"verdicts": judge(done, scores, prepared.policy)})
    return AuditReport(done, tuple(scores), maps, store.directory)


def _joined(
    prepared: Prepared, store: Store, method: str, failed: list[SkippedRecord]
) -> tuple[dict[Task, Outcome], list[SkippedRecord]]:
    """The outcomes of one method's tests, and the tests without one."""
    outcomes: dict[Task, Outcome] = {}
    for whole in prepared.whole:
        if whole.method != method or any((one.method, one.test) == (method, whole.test) for one in failed):
            continue
        tasks = [one for one in prepared.tasks if (one.method, one.test) == (method, whole.test)]
        parts = [outcome for task in tasks if (outcome := store.load(task)) is not None]
        if len(parts) < len(tasks):
            failed = unfinished(failed, whole, UNREADABLE)
        else:
            outcomes[whole] = joined(parts, prepared.job.seed)
    return outcomes, failed


def _put(maps: dict[str, MapFile] | StoredMaps, files: Mapping[str, MapFile]) -> None:
    for name, content in files.items():
        if isinstance(maps, StoredMaps):
            maps.put(name, content)
        else:
            maps[name] = content


def _pictures(job: Job) -> dict[str, MapFile]:
    """The images as they are shown, and where there is a manifold their reconstructions."""
    names = list(job.names[:MAPS_KEPT])
    shown = array(job.display(job.inputs.read(0, len(names))))
    found: dict[str, MapFile] = {"images": ({"images": shown}, {"names": names})}
    if job.manifold is not None:
        points = array(job.display(job.manifold.points[:MAPS_KEPT]))
        found["tangent-space/images"] = ({"reconstructions": points}, {"names": names[: len(points)]})
    return found


__all__ = ["PRESETS", "AuditOptions", "Progress", "audit", "plan_audit", "state_digest"]
