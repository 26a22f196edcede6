"""Methods need no more than 1.3 times the memory that bare autograd needs beyond the network and the images.

Each figure comes from a process of its own: the largest resident memory during the call less that before it.
A process's allocator keeps what it once had, so that two calls in one process cannot be told apart.
"""

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from benchmarks import subjects, timing
from veridical.attributions import method

TARGET = 1.3
AUTOGRAD = "autograd"
METHODS = (
    "gradient", "guided-backprop", "rectgrad", "grad-cam", "lrp-epsilon", "lrp-zplus", "lrp-alpha2-beta1",
    "lrp-cmp-alpha2", "deep-taylor", "deeplift-rescale", "deeplift-reveal-cancel", "deeplift-ablation",
)  # fmt: skip
NETWORKS = ("vgg16", "resnet50")
MEGABYTE = 1e6


def measure(rounds: int = 1, count: int = 8, size: int = 224) -> list[timing.Claim]:
    """The smallest of `rounds` peaks of each method."""
    claims = []
    for network in NETWORKS:
        for name in (AUTOGRAD, *METHODS):
            found = min(_in_a_process(network, name, count, size) for _ in range(rounds))
            if name == AUTOGRAD:
                bare = found
                print(f"memory, {network}, batch {count}: autograd adds {bare:.0f} MB", flush=True)
                continue
            ratio = round(found / bare, 3)
            notes = {"veridical": f"{found:.0f} MB", AUTOGRAD: f"{bare:.0f} MB"}
            subject = f"added memory of {name}, {network}, batch {count}, {size} px"
            claim = timing.Claim(subject, f"veridical / {AUTOGRAD}", ratio, TARGET, {}, {}, notes)
            timing.show(claim)
            claims.append(claim)
    return claims


def _in_a_process(network: str, name: str, count: int, size: int) -> float:
    given = [network, name, "--count", str(count), "--size", str(size)]
    given += ["--threads", str(torch.get_num_threads())]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *given],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(run.stdout.splitlines()[-1]))


def added(network: str, name: str, count: int, size: int) -> float:
    """Megabytes that one call adds at its peak."""
    model, x = subjects.torchvision_network(network), subjects.batch(count, size)
    small = x[:1, :, :64, :64]
    _call(name, model, small)  # what the first call loads is not the method's
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    _call(name, model, x)
    return _resident("VmHWM") - before


def _call(name: str, model: torch.nn.Module, x: torch.Tensor) -> None:
    if name == AUTOGRAD:
        subjects.autograd_gradient(model, x, 3)
    else:
        method(name)(model, x, 3)


def _resident(entry: str) -> float:
    """Megabytes: what the process holds (VmRSS), or the most that it held (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024 / MEGABYTE


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("network")
    parser.add_argument("name")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(json.dumps(added(options.network, options.name, options.count, options.size)))


if __name__ == "__main__":
    main()
