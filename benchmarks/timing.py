"""Run rivals in turn, keep the fastest of several runs, and report multiples of a forward pass."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
MOST = 9
ENOUGH = 60.0
PACKAGES = ("torch", "torchvision", "captum", "zennit", "numpy")


@dataclass(frozen=True)
class Claim:
    """A measured ratio and the bound that it should keep.

    Attributes:
        subject: what is compared, with network and batch.
        seconds: fastest run of every rival.
        ratio: of the first rival's time to that of the second, or to the forward pass.
        target: the bound; None where there is none.
        forward_passes: each rival's time as a multiple of one forward pass of the same batch.
        notes: what else is known of a rival: why it cannot run, how far its result is from ours.
    """

    subject: str
    rivals: str
    ratio: float
    target: float | None
    forward_passes: Mapping[str, float]
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool | None:
        return None if self.target is None else self.ratio <= self.target


def race(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Fastest seconds of each by a clock, interleaved so that a busy moment meets all of them.

    Every other round runs in reverse: what ran before leaves its mark on memory and caches.
    Short races have more rounds, because they are the ones that a busy moment decides: up to `MOST`, as many
    as fit into `ENOUGH` seconds.
    """
    for _ in range(warmup):
        for run in runs.values():
            run()
    best, names = dict.fromkeys(runs, float("inf")), list(runs)
    begin = time.perf_counter()
    done = 0
    while done < rounds or (done < MOST and time.perf_counter() - begin < ENOUGH):
        for name in names[:: 1 - 2 * (done % 2)]:
            started = clock()
            runs[name]()
            best[name] = min(best[name], clock() - started)
        done += 1
    return best


def claim(
    subject: str,
    runs: Mapping[str, Callable[[], object]],
    *,
    of: str,
    to: str,
    target: float | None,
    rounds: int,
) -> Claim:
    """Race `runs`, one of which must be "forward", and compare `of` with `to`."""
    return compared(subject, race(runs, rounds=rounds), of=of, to=to, target=target)


def compared(
    subject: str,
    seconds: Mapping[str, float],
    *,
    of: str,
    to: str,
    target: float | None,
    notes: Mapping[str, str] | None = None,
) -> Claim:
    """Compare `of` with `to` where the seconds of all, one of them "forward", are known; print the claim."""
    passes = {name: round(value / seconds["forward"], 3) for name, value in seconds.items()}
    ratio = round(seconds[of] / seconds[to], 3)
    rounded = {name: round(value, 5) for name, value in seconds.items()}
    found = Claim(subject, f"{of} / {to}", ratio, target, passes, rounded, notes or {})
    show(found)
    return found


def show(found: Claim) -> None:
    verdict = {None: "", True: "kept", False: "MISSED"}[found.kept]
    bound = "" if found.target is None else f" (target {found.target:g}: {verdict})"
    print(f"{found.subject}\n  {found.rivals} = {found.ratio:.3f}{bound}")
    for name, multiple in found.forward_passes.items():
        print(
            f"  {name:<28} {multiple:8.2f} forward passes {1000 * found.seconds[name]:10.1f} ms", flush=True
        )
    for name, note in found.notes.items():
        print(f"  {name:<28} {note}", flush=True)


def store(name: str, claims: list[Claim]) -> Path:
    """Write the claims and the environment to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    rows = [{**asdict(item), "kept": item.kept} for item in claims]
    path.write_text(json.dumps({"environment": environment(), "claims": rows}, indent=2) + "\n")
    print(f"wrote {path}")
    return path


def environment() -> dict[str, object]:
    """What the figures depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return {
        "python": platform.python_version(), "platform": platform.platform(), "processors": os.cpu_count(),
        "threads": torch.get_num_threads(), "load": [round(value, 2) for value in os.getloadavg()],
        "packages": found,
    }  # fmt: skip
