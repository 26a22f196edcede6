"""What an audit costs besides its tests, and whether its memory grows with the number of images.

`python -m benchmarks.scale overhead` audits the bundled network and compares the processor time of the tests
with that of everything else: the plan, the pass over the images before the work, storage, joining, the
verdicts, the report. `python -m benchmarks.scale memory` audits a tiny network on 10, 100 and 1,000 images,
each in a process of its own, and reads the largest resident memory of the process.
`python -m benchmarks.scale estimates` measures each test of each method and prints what the plan says of it
over what it took. A figure that is stored already is not measured again; `--again` measures all.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import RESULTS, environment

FILE = RESULTS / "scale.json"
MIB = 2**20
SIDE = 64
TESTS = (
    "random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence", "manipulation",
    "curvature", "infidelity", "sensitivity",
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """Images that are drawn when they are asked for."""

    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> Tensor:
        drawn = [
            torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
            for index in range(start, stop)
        ]
        return torch.stack(drawn)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


def memory(count: int) -> dict[str, float]:
    """Megabytes at the peak of an audit with its report, and before it; to be called in a fresh process."""
    from veridical.auditing import audit
    from veridical.report import render

    audit(tiny(), Drawn(2), methods=["gradient"], tests=["random-logit"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report = audit(
            tiny(), Drawn(count), out=Path(folder) / "run", methods=["gradient", "lrp-zplus"],
            tests=["random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence"],
            max_images=count, render=render,
        )  # fmt: skip
        stored = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "images": count, "rows": len(report.scores),
        "MiB before": round(before, 1), "MiB at peak": round(peak, 1),
        "MiB of the audit": round(peak - before, 1), "MiB on the disk": round(stored, 1),
        "processor seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def overhead(methods: list[str], preset: str) -> dict[str, object]:
    """Processor seconds of the tests and of everything else, on the bundled network and photographs."""
    from veridical.auditing import audit, cost, executor, plan_audit
    from veridical.data import sample_photographs
    from veridical.models import load_model
    from veridical.report import render

    torch.set_flush_denormal(True)
    loaded = load_model("demo")
    images = torch.stack([loaded.preprocessing.apply(one) for one in sample_photographs(24).images])
    tests, plain = [], executor.measure

    def timed(subject: object, work: object) -> object:
        started = time.process_time()
        outcome = plain(subject, work)
        tests.append((work.task.key, time.process_time() - started))
        return outcome

    executor.measure, cost.CLOCK = timed, time.process_time
    low, high = (one.flatten().tolist() for one in loaded.preprocessing.bounds())
    options = {"preset": preset, "methods": methods, "bounds": (low, high)}
    began = time.process_time()
    plan = plan_audit(loaded.module, images, **options)
    planned = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        audit(loaded.module, images, out=Path(folder) / "run", **options)
        audited = time.process_time() - began - planned
        render(Path(folder) / "run")
    total, compute = time.process_time() - began, sum(seconds for _, seconds in tests)
    return {
        "methods": methods, "preset": preset, "images": min(len(images), 24), "tasks": len(tests),
        "seconds of the tests": round(compute, 1), "seconds of the plan": round(planned, 2),
        "seconds around the tests": round(audited - compute, 2),
        "seconds of the report": round(total - planned - audited, 2),
        "overhead": round((total - compute) / compute, 4), "estimated by the plan": round(plan.seconds, 1),
        "measured by test": {key: round(seconds, 1) for key, seconds in tests},
        "estimated by test": {f"{one.test}--{one.method}": round(one.seconds, 1) for one in plan.lines},
    }  # fmt: skip


def measured(method: str) -> dict[str, object]:
    """Processor seconds of each test of a method on the bundled network, and what a plan rests on.

    As the preset quick, but with 12 steps of the manipulation instead of 120, whose cost is that of a step.
    """
    from veridical.auditing import audit, cost, executor

    model, images, options = _bundled(method)
    found, plain = {}, executor.measure

    def timed(subject: object, work: object) -> object:
        started = time.process_time()
        outcome = plain(subject, work)
        found[work.task.test] = round(time.process_time() - started, 3)
        return outcome

    executor.measure, cost.CLOCK = timed, time.process_time
    before = _plan(model, images, options)
    audit(model, images, **options)
    after = _plan(model, images, options)
    # What else runs changes the speed of the machine: the mean of before and after.
    probe = {name: (value + getattr(after, name)) / 2 for name, value in asdict(before).items()}
    return {"seconds": found, "probe": probe}


def _bundled(method: str) -> tuple[nn.Module, Tensor, dict[str, object]]:
    from veridical.auditing import plan
    from veridical.data import sample_photographs
    from veridical.models import load_model

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    plan.PRESETS["quick"] = replace(plan.PRESETS["quick"], manipulation_steps=12)
    loaded = load_model("demo")
    images = torch.stack([loaded.preprocessing.apply(one) for one in sample_photographs().images])
    low, high = (one.flatten().tolist() for one in loaded.preprocessing.bounds())
    return loaded.module, images, {"methods": [method], "tests": list(TESTS), "bounds": (low, high)}


def _plan(model: nn.Module, images: Tensor, options: dict[str, object]) -> object:
    from veridical.auditing import plan_audit

    return plan_audit(model, images, **options).probe


def estimates() -> str:
    """What the plan says of each measured test, over what it took, as a table; by the probe of its run."""
    from veridical.auditing import cost, plan_audit

    lines = [f"| method | {' | '.join(TESTS)} |", "| --- " * (len(TESTS) + 1) + "|"]
    for name, entry in _stored().items():
        if not name.startswith("measured "):
            continue
        probe, seconds = cost.Probe(**entry["probe"]), entry["seconds"]
        cost.measure_probe = lambda _, probe=probe: probe
        model, images, options = _bundled(name.removeprefix("measured "))
        planned = {one.test: one.seconds for one in plan_audit(model, images, **options).lines}
        cells = [
            f"{planned[test]:.1f} / {seconds[test]:.1f} = {planned[test] / seconds[test]:.2f}"
            if test in seconds else "" for test in TESTS
        ]  # fmt: skip
        lines.append(f"| {name.removeprefix('measured ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _stored() -> dict[str, object]:
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def _keep(name: str, value: object) -> None:
    RESULTS.mkdir(exist_ok=True)
    found = {**_stored(), name: value, "environment": environment()}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(name, json.dumps(value), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead", "memory", "estimates", "one"])
    parser.add_argument("--images", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--methods", nargs="+", default=["gradient", "lrp-zplus", "lrp-epsilon"])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    if options.what == "one":
        print(json.dumps(memory(options.images[0])))
        return
    if options.what == "overhead":
        name = f"overhead {options.preset}, {len(options.methods)} methods"
        if options.again or name not in _stored():
            _keep(name, overhead(options.methods, options.preset))
        return
    if options.what == "estimates":
        for method in options.methods:
            if options.again or f"measured {method}" not in _stored():
                _keep(f"measured {method}", measured(method))
        print(estimates())
        return
    for count in options.images:
        if options.again or f"memory {count}" not in _stored():
            command = [sys.executable, "-m", "benchmarks.scale", "one", "--images", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            _keep(f"memory {count}", json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
