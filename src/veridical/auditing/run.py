"""The audit: every test of every method, stored as it goes, and a verdict on each method at the end."""

import hashlib
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor, nn

from veridical.auditing.measure import Outcome, Subject, Work, array, measure
from veridical.auditing.plan import (
    DESCRIPTIONS,
    PRESETS,
    Preset,
    Task,
    describe,
    find_methods,
    find_preset,
    find_tests,
    make_plan,
    settings_of,
)
from veridical.auditing.policy import Policy, load_policy
from veridical.auditing.result import AuditReport, merge_maps
from veridical.auditing.store import Store
from veridical.auditing.verdict import judge
from veridical.checks import check_deterministic, check_inputs, check_logits, evaluation_mode, resolve_target
from veridical.records import (
    EnvironmentRecord,
    ImageRecord,
    MethodRecord,
    ModelRecord,
    Run,
    SkippedRecord,
    TestRecord,
    write_run,
)
from veridical.values import Explainer, Target


class Progress(NamedTuple):
    """Told while an audit runs: `done` of `total` tasks, with the share of the current one in `done`."""

    done: float
    total: int
    task: Task
    state: str
    """ "running", "finished", "reused" (from the stored run) or "failed"."""


class AuditOptions(TypedDict, total=False):
    """The optional arguments of `audit` that few callers need."""

    methods: Iterable[str | Explainer] | Mapping[str, Explainer] | None
    tests: Sequence[str] | None
    policy: Policy | str | Path | None
    progress: Callable[[Progress], None] | None
    names: Sequence[str] | None
    display: Callable[[Tensor], Tensor] | None
    labels: Callable[[int], str] | None
    bounds: tuple[Sequence[float], Sequence[float]] | None
    model_info: Mapping[str, Any] | None
    command: Sequence[str] | None
    render: Callable[[Path], Path] | None


@dataclass(frozen=True)
class _Job:
    """An audit after all arguments were checked."""

    subject: Subject
    methods: dict[str, Explainer]
    tests: tuple[str, ...]
    preset: Preset
    seed: int
    settings: dict[str, dict[str, Any]]
    policy: Policy
    progress: Callable[[Progress], None]


def audit(
    model: nn.Module,
    images: Tensor,
    *,
    out: str | Path | None = None,
    preset: str = "quick",
    target: Target = None,
    seed: int = 0,
    **options: Unpack[AuditOptions],
) -> AuditReport:
    """Find out which explanation methods may be believed for a model, on some images.

    Every test of every method is a task of its own, stored in `out` as soon as it is finished. The same call
    on an existing run directory resumes it. The model, its mode and the global random state stay as they are.

    Args:
        model: any module that maps images to logits (N, K).
        images: float (N, C, H, W), preprocessed for the model; a preset uses at most a certain number.
        out: run directory; None keeps the results in memory (see `AuditReport.save`).
        preset: "quick", "standard" or "thorough", see `PRESETS`.
        target: the explained class of each image; None for the predicted one.
        seed: of everything random.
        options: `methods` (names, callables, or a mapping of names to callables), `tests` (names), `policy`
            (a `Policy` or the path of a TOML file), `progress` (called with a `Progress`), `names` of the
            images, `display` (from images to [0, 1] for pictures), `labels` (from a class to its label),
            `bounds` (lowest and highest valid value of each channel, for the manipulation), `model_info`
            (fields of `ModelRecord`), `command` (for the record), `render` (makes the page of a run
            directory, as `veridical.report.render`).

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
    with evaluation_mode(model):
        job = _prepare(model, images, (preset, target, seed), options)
        run = _describe(job, images, preset, options)
        before = state_digest(model)
        store = Store(directory, run.settings["configuration"])
        if directory is not None:
            write_run(directory, run)
        outcomes, failed = _work(job, store, run.skipped)
    if state_digest(model) != before:
        raise RuntimeError("expected an unchanged model, got other weights; a method changed them")
    report = _finish(job, run, outcomes, (failed, directory))
    if directory is not None:
        report.save(directory, options.get("render"))
    return report


def _prepare(
    model: nn.Module, images: Tensor, chosen: tuple[str, Target, int], options: AuditOptions
) -> _Job:
    name, target, seed = chosen
    preset = find_preset(name)
    check_inputs(images)
    if isinstance(target, Tensor) and target.dim() == 1 and len(target) == len(images):
        target = target[: preset.images]
    used = images[: preset.images].detach().clone()
    policy = options.get("policy")
    methods, tests = find_methods(options.get("methods"), preset), find_tests(options.get("tests"))
    rules = policy if isinstance(policy, Policy) else load_policy(policy)
    if "manipulation" in (options.get("tests") or ()):
        preset = replace(preset, manipulated=tuple(methods))
    check_deterministic(model, used[:1])
    with torch.no_grad():
        targets = resolve_target(check_logits(model(used.clone()), len(used)), target)
    subject = Subject(
        model=model,
        images=used,
        targets=targets,
        names=_names(options.get("names"), images)[: len(used)],
        display=options.get("display") or _stretch,
        label=options.get("labels") or (lambda index: f"class {index}"),
        bounds=_bounds(options.get("bounds")),
    )
    progress = options.get("progress") or (lambda _: None)
    return _Job(subject, methods, tests, preset, seed, settings_of(preset, seed, len(used)), rules, progress)


def _names(names: Sequence[str] | None, images: Tensor) -> tuple[str, ...]:
    found = tuple(names) if names is not None else tuple(f"image {index}" for index in range(len(images)))
    if len(found) != len(images) or len(set(found)) != len(found) or "" in found:
        raise ValueError(f"expected {len(images)} different, non-empty names, got {len(found)}: {found[:5]}")
    return found


def _bounds(bounds: tuple[Sequence[float], Sequence[float]] | None) -> Any:
    return None if bounds is None else tuple(tuple(float(value) for value in side) for side in bounds)


def _stretch(images: Tensor) -> Tensor:
    """Every image stretched to [0, 1]."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def state_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the state dict of a model, in its order."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}|{value!r}\n".encode())
    return digest.hexdigest()


def _describe(job: _Job, images: Tensor, preset: str, options: AuditOptions) -> Run:
    """The content of `run.json` before the work."""
    records = _image_records(job.subject)
    model = _model_record(job.subject, options)
    methods = {name: describe(explainer) for name, explainer in job.methods.items()}
    settings = {
        "preset": preset,
        "seed": job.seed,
        "methods": list(methods),
        "tests": list(job.tests),
        "device": str(images.device),
        "images_given": len(images),
        "images_used": len(records),
        "configuration": {
            "veridical": _version(),
            "model": model.sha256,
            "images": {record.name: record.sha256 for record in records},
            "targets": [record.target for record in records],
            "methods": {name: text for name, (text, _) in methods.items()},
            "tests": {name: job.settings[name] for name in job.tests},
            "seed": job.seed,
            "device": str(images.device),
        },
    }
    return Run(
        veridical=_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        finished=False,
        command=list(options.get("command") or ()),
        settings=settings,
        environment=_environment(),
        model=model,
        images=records,
        methods={one: MethodRecord(options=text, description=line) for one, (text, line) in methods.items()},
        tests={
            one: TestRecord(description=DESCRIPTIONS[one], settings=job.settings[one]) for one in job.tests
        },
        policy=job.policy.model_dump(),
        skipped=make_plan(job.methods, job.tests, job.preset, len(records))[1],
    )


def _model_record(subject: Subject, options: AuditOptions) -> ModelRecord:
    info = dict(options.get("model_info") or {})
    info.setdefault("sha256", state_digest(subject.model))
    info.setdefault("name", type(subject.model).__name__)
    info.setdefault("parameters", sum(one.numel() for one in subject.model.parameters()))
    with torch.no_grad():
        info.setdefault("classes", check_logits(subject.model(subject.images[:1].clone()), 1).shape[1])
    return ModelRecord(**info)


def _image_records(subject: Subject) -> list[ImageRecord]:
    with torch.no_grad():
        probabilities = check_logits(subject.model(subject.images.clone()), len(subject.images)).softmax(1)
    records = []
    for index, name in enumerate(subject.names):
        pixels, target = subject.images[index], int(subject.targets[index])
        content = f"{pixels.dtype}|{tuple(pixels.shape)}|".encode()
        content += pixels.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        records.append(
            ImageRecord(
                name=name,
                sha256=hashlib.sha256(content).hexdigest(),
                width=pixels.shape[2],
                height=pixels.shape[1],
                target=target,
                label=subject.label(target),
                probability=float(probabilities[index, target]),
            )  # fmt: skip
        )
    return records


def _environment() -> EnvironmentRecord:
    return EnvironmentRecord(
        python=sys.version.split()[0], torch=torch.__version__, platform=platform.platform(),
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _version() -> str:
    try:
        return version("veridical")
    except PackageNotFoundError:
        return "unknown"


def _work(
    job: _Job, store: Store, skipped: Sequence[SkippedRecord]
) -> tuple[dict[Task, Outcome], list[SkippedRecord]]:
    """Do every task that is not stored yet; a method that cannot explain this model does not end it."""
    tasks, _ = make_plan(job.methods, job.tests, job.preset, len(job.subject.images))
    outcomes: dict[Task, Outcome] = {}
    failed = list(skipped)
    for place, task in enumerate(tasks):
        outcome, state = store.load(task), "reused"
        if outcome is None:
            job.progress(Progress(place, len(tasks), task, "running"))
            try:
                outcome, state = measure(job.subject, _piece(job, task, (place, len(tasks)))), "finished"
            except Exception as error:
                # A method may be the user's own or another package's, and fail in any way.
                failed.append(SkippedRecord(method=task.method, test=task.test, reason=_reason(error)))
                job.progress(Progress(place + 1, len(tasks), task, "failed"))
                continue
            store.save(task, outcome)
        outcomes[task] = outcome
        job.progress(Progress(place + 1, len(tasks), task, state))
    return outcomes, failed


def _piece(job: _Job, task: Task, where: tuple[int, int]) -> Work:
    place, total = where

    def tick(share: float) -> None:
        job.progress(Progress(place + share, total, task, "running"))

    return Work(task, job.methods[task.method], job.settings[task.test], job.seed, job.preset.batch, tick)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not text or not isinstance(error, ValueError | TypeError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 500 else f"{text[:497]}..."


def _finish(
    job: _Job, run: Run, outcomes: Mapping[Task, Outcome], rest: tuple[list[SkippedRecord], Path | None]
) -> AuditReport:
    failed, directory = rest
    scores = tuple(score for outcome in outcomes.values() for score in outcome.scores)
    tests = {name: record.model_copy(deep=True) for name, record in run.tests.items()}
    for task, outcome in outcomes.items():
        tests[task.test].settings.update(outcome.facts)
    done = run.model_copy(update={"finished": True, "tests": tests, "skipped": failed})
    done = done.model_copy(update={"verdicts": judge(done, scores, job.policy)})
    maps = merge_maps(outcomes)
    maps["images"] = (
        {"images": array(job.subject.display(job.subject.images))},
        {"names": list(job.subject.names)},
    )
    return AuditReport(done, scores, maps, directory)


__all__ = ["PRESETS", "AuditOptions", "Progress", "audit", "state_digest"]
