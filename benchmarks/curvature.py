"""Curvature: its cost grows linearly with the number of images, and one image stays within 60 passes.

Products are counted where they are made, and forward passes by a hook. The time is that of the processor,
which a busy machine does not change much. The memory comes from processes of their own. The network is
EfficientNet-Lite0 with its ImageNet weights, the images are the photographs of the folder VERIDICAL_DATA (or
shared/data beside the checkout) where there is one, and random numbers elsewhere.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import subjects, timing
from benchmarks.memory import MEGABYTE, _resident
from veridical.data import load_folder
from veridical.geometry import Curvature, curvature
from veridical.geometry.output import ShapeOperator
from veridical.models import load_model
from veridical.smoothing import SmoothedModel

COUNTS = (1, 2, 4, 8, 16)
BETA, TOLERANCE, PAIRS = 10.0, 1e-3, 60
LINEAR, SHARE = 1.5, 0.05
WEIGHTS = Path(__file__).parents[2] / "shared" / "data"


@dataclass
class Work:
    """What a measurement did: products with the Hessian, and forward passes, each times its images."""

    products: int = 0
    forward: int = 0


def photographs(count: int, size: int = 224) -> Tensor:
    """That many photographs, evenly over the folder, or random numbers."""
    folder = Path(os.environ.get("VERIDICAL_DATA", WEIGHTS)) / "imagenet-sample"
    if not folder.is_dir():
        return subjects.batch(count, size)
    images = load_folder(folder).images
    read = load_model("demo").preprocessing
    x = torch.stack([read.apply(image) for image in images[:: len(images) // count][:count]])
    return x if size == x.shape[2] else nn.functional.interpolate(x, (size, size), mode="bilinear")


@contextmanager
def counted(model: nn.Module) -> Iterator[Work]:
    """Count all that is done to the model meanwhile."""
    work, plain = Work(), ShapeOperator.__call__

    def product(operator: ShapeOperator, v: Tensor) -> Tensor:
        work.products += len(v)
        return plain(operator, v)

    def passed(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        work.forward += len(args[0])

    hook = model.register_forward_pre_hook(passed)
    try:
        with mock.patch.object(ShapeOperator, "__call__", product):
            yield work
    finally:
        hook.remove()


def top(model: nn.Module, x: Tensor, batch: int = 1) -> Curvature:
    """The largest curvature of each image, of a class that is given."""
    classes = torch.zeros(len(x), dtype=torch.long)
    return curvature(model, x, classes, beta=BETA, top=1, steps=PAIRS - 2, tolerance=TOLERANCE, batch=batch)


def measure(rounds: int = 1, counts: tuple[int, ...] = COUNTS, size: int = 224) -> list[timing.Claim]:
    """Products of one image, the growth with the number of images, and the memory."""
    model, x = subjects.efficientnet_lite(), photographs(max(counts), size)
    pair = _pair(model, x[:1])
    top(model, x[:1, :, :64, :64])  # what the first call loads is not the measurement's
    seconds, made = {}, {}
    for count in counts:
        with counted(model) as work:
            clock = time.process_time()
            found = top(model, x[:count])
            seconds[count], made[count] = time.process_time() - clock, work
    count, subject = max(counts), f"EfficientNet-Lite0, {size} px"
    largest = f"largest curvature of {count} photographs, {subject}"
    claims = [
        _pairs(found, made[count].products, largest),
        _passes(seconds[count] / count, made[count].products / count, pair, largest),
        _growth(seconds, made, subject),
    ]
    for claim in claims:
        timing.show(claim)
    return [*claims, *_memory(size, rounds)]


def _pair(model: nn.Module, x: Tensor) -> float:
    """Processor seconds of a forward and backward pass of the smoothed network for one image."""
    smooth = SmoothedModel(model, BETA)
    runs = {"pair": lambda: subjects.autograd_gradient(smooth, x, 0)}
    return timing.race(runs, rounds=3, clock=time.process_time)["pair"]


def _pairs(found: Curvature, products: int, subject: str) -> timing.Claim:
    """Passes of the image that took most: a product is a backward pass through a backward pass."""
    most = int(found.steps.max()) + 1  # and one for the residual
    residual = float((found.residuals[:, 0] / found.largest.abs()).max())
    return timing.Claim(
        subject=subject,
        rivals=f"most products of a photograph, and a forward and backward pass / {PAIRS}",
        ratio=round((most + 1) / PAIRS, 3),
        target=1.0,
        forward_passes={},
        notes={
            "products": f"{most} at most, {products / len(found.steps):.1f} in the mean",
            "residual": f"{residual:.1e} of the curvature at most",
        },
    )


def _passes(seconds: float, products: float, pair: float, subject: str) -> timing.Claim:
    """The time of a photograph in the mean, in forward and backward passes of the same network."""
    return timing.Claim(
        subject=subject,
        rivals=f"time of a photograph / {PAIRS} forward and backward passes",
        ratio=round(seconds / pair / PAIRS, 3),
        target=1.0,
        forward_passes={},
        seconds={"a photograph": round(seconds, 2), "a forward and backward pass": round(pair, 3)},
        notes={
            "a photograph": f"{seconds:.1f} s, {seconds / pair:.1f} forward and backward passes",
            "a product": f"{seconds / products / pair:.2f} of them, all else included",
        },
    )


def _growth(seconds: dict[int, float], made: dict[int, Work], subject: str) -> timing.Claim:
    """Time of a product: the most over the least of all numbers of images."""
    one = {count: seconds[count] / made[count].products for count in seconds}
    notes = {
        f"{count} images": f"{seconds[count]:.1f} s, {made[count].products} products, "
        f"{made[count].forward} forward passes, {1000 * one[count]:.0f} ms a product"
        for count in seconds
    }
    return timing.Claim(
        subject=f"largest curvature of {min(one)} to {max(one)} photographs, {subject}",
        rivals="time of a product, largest / smallest over the numbers of images",
        ratio=round(max(one.values()) / min(one.values()), 3),
        target=LINEAR,
        forward_passes={},
        seconds={f"{count} images": round(seconds[count], 2) for count in seconds},
        notes=notes,
    )


def _memory(size: int, rounds: int) -> list[timing.Claim]:
    """Of one image, against a matrix of its dimension; of four, one after the other, against that of one."""
    one, four = (min(_in_a_process(count, size) for _ in range(rounds)) for count in (1, 4))
    matrix = 4 * (3 * size**2) ** 2 / MEGABYTE
    share, growth = round(one / matrix, 4), round(four / one, 3)
    notes = {"1 image": f"{one:.0f} MB", "4 images": f"{four:.0f} MB", "d x d matrix": f"{matrix:.0f} MB"}
    subject = f"added memory of the largest curvature, EfficientNet-Lite0, {size} px"
    claims = [
        timing.Claim(subject, "1 image / d x d matrix in float32", share, SHARE, {}, {}, notes),
        timing.Claim(subject, "4 images, batch=1 / 1 image", growth, LINEAR, {}, {}, notes),
    ]
    for claim in claims:
        timing.show(claim)
    return claims


def _in_a_process(count: int, size: int) -> float:
    given = [str(count), "--size", str(size), "--threads", str(torch.get_num_threads())]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.curvature", *given],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(run.stdout.splitlines()[-1]))


def added(count: int, size: int) -> float:
    """Megabytes that the measurement adds at its peak."""
    model, x = subjects.efficientnet_lite(), photographs(count, size)
    top(model, x[:1, :, :64, :64])  # what the first call loads is not the measurement's
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    top(model, x)
    return _resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(json.dumps(added(options.count, options.size)))


if __name__ == "__main__":
    main()
