"""What a step of an attack on VGG-16 adds at its peak to network and image: GiB, in a process of its own."""

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from benchmarks import explicit, subjects, timing
from benchmarks.attack_step import gradient_of_loss, problem
from benchmarks.memory import MEGABYTE, _resident

BOUNDS = {"gradient": 1.0, "lrp": 1.9}
RIVALS = ("veridical", "explicit", "explicit, parameters frozen")
GIB = 2**30


def measure(rounds: int = 2) -> list[timing.Claim]:
    """The smallest of `rounds` peaks."""
    claims = []
    for name, target in BOUNDS.items():
        found = {rival: min(_in_a_process(name, rival) for _ in range(rounds)) for rival in RIVALS}
        notes = {rival: f"{value:.3f} GiB" for rival, value in found.items()}
        subject = f"peak memory over idle of a step on {name}, VGG-16, 1 image, 224 px"
        claim = timing.Claim(subject, "veridical, GiB", round(found["veridical"], 3), target, {}, {}, notes)
        timing.show(claim)
        claims.append(claim)
    return claims


def _in_a_process(name: str, rival: str) -> float:
    given = [name, rival, "--threads", str(torch.get_num_threads())]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.attack_memory", *given],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(run.stdout.splitlines()[-1]))


def added(name: str, rival: str) -> float:
    """GiB that two steps add at their peak; the second begins with what the first left behind."""
    model, x = subjects.torchvision_network("vgg16"), subjects.batch(1)
    task = problem(model, x, name)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    for _ in range(2):
        if rival == "veridical":
            gradient_of_loss(task, x)
        else:
            explicit.step(task, x, parameters=rival == "explicit")
    return (_resident("VmHWM") - before) * MEGABYTE / GIB


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("rival")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(json.dumps(added(options.name, options.rival)))


if __name__ == "__main__":
    main()
