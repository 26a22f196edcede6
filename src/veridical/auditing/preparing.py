"""What has to be known before the first task: arguments checked, images looked at, the run described."""

import hashlib
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from veridical.auditing.chunks import divided, images_in_memory
from veridical.auditing.digests import state_digest
from veridical.auditing.executor import MAPS_KEPT, Executor, Job
from veridical.auditing.inputs import Inputs, as_inputs, batches
from veridical.auditing.plan import (
    DESCRIPTIONS,
    Preset,
    Task,
    describe,
    find_methods,
    find_preset,
    find_tests,
    make_plan,
    runnable,
    settings_of,
)
from veridical.auditing.retrained import open_retrained
from veridical.auditing.tangent import ManifoldLike, put_on_manifold
from veridical.checks import check_deterministic, check_logits, resolve_target
from veridical.records import (
    RUN_FILE,
    DataRecord,
    EnvironmentRecord,
    ImageRecord,
    MethodRecord,
    ModelRecord,
    Run,
    SkippedRecord,
    TestRecord,
    read_run,
)
from veridical.values import Explainer, Target
from veridical.verdicts import Policy, load_policy


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
    truth: tuple[Sequence[str], Sequence[int] | None] | None
    data_info: Mapping[str, Any] | None
    command: Sequence[str] | None
    render: Callable[[Path], Path] | None
    manifold: ManifoldLike | None
    roar: str | Path | None
    max_images: int | None
    memory_gib: float | None
    executor: Executor | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """An audit after all arguments were checked.

    Attributes:
        job: what workers need.
        run: the content of `run.json` before the work.
        policy: for the verdicts.
        whole: one task for each test of each method, in the order of the report.
        tasks: the same, divided over the images.
    """

    job: Job
    run: Run
    policy: Policy
    whole: tuple[Task, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class _Seen:
    """What one pass over the images found."""

    records: list[ImageRecord]
    targets: Tensor
    classes: int
    device: torch.device
    first: Tensor


def prepare(
    model: nn.Module,
    images: Tensor | Inputs,
    chosen: tuple[str, Target, int],
    options: AuditOptions,
    directory: Path | None,
) -> Prepared:
    """Check the arguments, look at every image once, and describe the run; nothing is written.

    Args:
        model: in evaluation mode.
        images: see `audit`.
        chosen: preset, target and seed.
        options: see `audit`.
        directory: of the run; the size of the tasks of a run that is stored there is kept.

    Raises:
        TypeError: see `audit`.
        ValueError: see `audit`.
    """
    name, target, seed = chosen
    preset = _sized(find_preset(name), options)
    inputs = as_inputs(images)
    methods = find_methods(options.get("methods"), preset)
    manifold, folder = options.get("manifold"), options.get("roar")
    needed = {"tangent-space": manifold, "roar": folder}
    given = [test for test, one in needed.items() if one is not None]
    tests, left_out = runnable(find_tests(options.get("tests")), given)
    retrained = None if folder is None else open_retrained(folder, model, methods)
    rules = options.get("policy")
    policy = rules if isinstance(rules, Policy) else load_policy(rules)
    if "manipulation" in (options.get("tests") or ()):
        preset = replace(preset, manipulated=tuple(methods))
    count = min(len(inputs), preset.images)
    names, bounds = _names(options.get("names"), len(inputs))[:count], _bounds(options.get("bounds"))
    label = options.get("labels") or (lambda index: f"class {index}")
    settings, placed = settings_of(preset, seed, count), None
    if manifold is not None:
        some = batches(inputs, settings["tangent-space"]["images"], preset.batch)
        placed = put_on_manifold(manifold, model, torch.cat([part for _, part in some]), bounds)
        settings["tangent-space"] |= placed.settings
    if retrained is not None:
        settings["roar"] = dict(retrained.settings)
    several = (options.get("model_info") or {}).get("output") == "labels"
    seen = _look(model, inputs, (names, target, label, several), preset.batch)
    chunk = _chunk(model, seen.first, preset, options.get("memory_gib"), directory)
    job = Job(
        model, inputs, seen.targets, names, options.get("display") or _stretch, label, bounds, methods,
        settings, seed, preset.batch, chunk, placed, retrained,
    )  # fmt: skip
    unretrained = {} if retrained is None else retrained.lacking
    whole, skipped = make_plan(methods, tests, preset, count, unretrained)
    run = _describe(job, seen, (name, tests, len(inputs)), options)
    run = run.model_copy(update={"skipped": [*left_out, *skipped], "policy": policy.model_dump()})
    return Prepared(job, run, policy, tuple(whole), tuple(divided(whole, settings, chunk)))


def _sized(preset: Preset, options: AuditOptions) -> Preset:
    count = options.get("max_images")
    if count is None:
        return preset
    if count < 1:
        raise ValueError(f"expected at least one image, got max_images {count}; None leaves it to the preset")
    return replace(preset, images=count)


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    found = tuple(names) if names is not None else tuple(f"image {index}" for index in range(count))
    if len(found) != count or len(set(found)) != len(found) or "" in found:
        raise ValueError(f"expected {count} different, non-empty names, got {len(found)}: {found[:5]}")
    return found


def _bounds(bounds: tuple[Sequence[float], Sequence[float]] | None) -> Any:
    return None if bounds is None else tuple(tuple(float(value) for value in side) for side in bounds)


def _stretch(images: Tensor) -> Tensor:
    """Every image stretched to [0, 1]."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


About = tuple[tuple[str, ...], Target, Callable[[int], str], bool]
"""Names of the images, explained class, label of a class, and whether several labels may hold at once."""


def _look(model: nn.Module, inputs: Inputs, about: About, size: int) -> _Seen:
    """One pass over the images, a batch at a time: digests, classes and probabilities."""
    names, target, label, several = about
    records: list[ImageRecord] = []
    targets: list[Tensor] = []
    logits, first = torch.empty(0), torch.empty(0)
    for start, images in batches(inputs, len(names), size):
        if not start:
            first = images[:1]
            check_deterministic(model, first)
        with torch.no_grad():
            logits = check_logits(model(images.clone()), len(images))
        if isinstance(target, Tensor) and not start:
            target = _each_target(logits, target, len(inputs), len(names))
        own = target[start : start + len(images)] if isinstance(target, Tensor) else target
        targets.append(resolve_target(logits, own))
        for place, pixels in enumerate(images):
            one = int(targets[-1][place])
            scores = logits[place].sigmoid() if several else logits[place].softmax(0)
            probability = float(scores[one])
            records.append(_image_record(names[start + place], pixels, (one, label(one)), probability))
    return _Seen(records, torch.cat(targets), logits.shape[1], first.device, first)


def _each_target(logits: Tensor, target: Tensor, given: int, used: int) -> Tensor:
    """A target for each image that is used, checked as a whole."""
    if target.dim() == 1 and len(target) == given:
        target = target[:used]
    return resolve_target(logits[:1].expand(used, -1), target)


def _image_record(name: str, pixels: Tensor, explained: tuple[int, str], probability: float) -> ImageRecord:
    content = f"{pixels.dtype}|{tuple(pixels.shape)}|".encode()
    content += pixels.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return ImageRecord(
        name=name, sha256=hashlib.sha256(content).hexdigest(), width=pixels.shape[2], height=pixels.shape[1],
        target=explained[0], label=explained[1], probability=probability,
    )  # fmt: skip


def _with_truth(
    records: list[ImageRecord], truth: tuple[Sequence[str], Sequence[int] | None] | None
) -> list[ImageRecord]:
    """The records with the names and the numbers of the classes that the data give."""
    if truth is None:
        return records
    names, numbers = truth
    known = [None] * len(names) if numbers is None else numbers
    return [
        record.model_copy(update={"truth": number, "truth_label": name})
        for record, name, number in zip(records, names, known, strict=False)
    ]


def _chunk(
    model: nn.Module, image: Tensor, preset: Preset, memory_gib: float | None, directory: Path | None
) -> int:
    """Images in a task; where nothing is said, as many as in the stored run."""
    found = images_in_memory(model, image, preset, memory_gib)
    if memory_gib is None and directory is not None and (directory / RUN_FILE).is_file():
        stored = read_run(directory).settings.get("images_in_a_task")
        return stored if isinstance(stored, int) and stored > 0 else found
    return found


def _describe(job: Job, seen: _Seen, about: tuple[str, tuple[str, ...], int], options: AuditOptions) -> Run:
    """The content of `run.json` before the work."""
    preset, tests, given = about
    model = _model_record(job.model, seen.classes, options)
    methods = {name: describe(explainer) for name, explainer in job.methods.items()}
    settings = {
        "preset": preset,
        "seed": job.seed,
        "methods": list(methods),
        "tests": list(tests),
        "device": str(seen.device),
        "images_given": given,
        "images_used": len(seen.records),
        "images_in_a_task": job.chunk,
        "images_with_stored_maps": min(MAPS_KEPT, len(seen.records)),
        "configuration": {
            "veridical": _version(),
            "model": model.sha256,
            "images": {record.name: record.sha256 for record in seen.records},
            "targets": [record.target for record in seen.records],
            "methods": {name: text for name, (text, _) in methods.items()},
            "tests": {name: job.settings[name] for name in tests},
            "seed": job.seed,
            "device": str(seen.device),
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
        images=_with_truth(seen.records, options.get("truth")),
        data=DataRecord(**(options.get("data_info") or {})),
        methods={one: MethodRecord(options=text, description=line) for one, (text, line) in methods.items()},
        tests={one: TestRecord(description=DESCRIPTIONS[one], settings=job.settings[one]) for one in tests},
    )


def _model_record(model: nn.Module, classes: int, options: AuditOptions) -> ModelRecord:
    info = dict(options.get("model_info") or {})
    info.setdefault("sha256", state_digest(model))
    info.setdefault("name", type(model).__name__)
    info.setdefault("parameters", sum(one.numel() for one in model.parameters()))
    info.setdefault("classes", classes)
    return ModelRecord(**info)


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


def unfinished(skipped: Iterable[SkippedRecord], task: Task, reason: str) -> list[SkippedRecord]:
    """The skipped tests with one more, unless it is there already."""
    found = list(skipped)
    if any((one.method, one.test) == (task.method, task.test) for one in found):
        return found
    return [*found, SkippedRecord(method=task.method, test=task.test, reason=reason)]
