"""A step of the attack as a compiled graph beside the eager one: what it saves, and what compiling takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from tests.networks_real import CifarResNet
from torch import Tensor, nn

from benchmarks import subjects, timing
from benchmarks.attack_step import problem
from veridical.attacks.compiled import compiled_slope
from veridical.attacks.slope import slope


@dataclass(frozen=True)
class Case:
    """A step, and what the compiled one is held to: a share of the time of another."""

    network: str
    model: nn.Module
    x: Tensor
    method: str
    beside: str
    target: float


def measure(rounds: int = 5) -> list[timing.Claim]:
    torch.set_flush_denormal(True)  # as `manipulate` does while it optimizes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        resnet = CifarResNet(3).eval()
    lite = subjects.efficientnet_lite()
    small, large = subjects.batch(8, 32), subjects.batch(1)
    cases = (
        Case("ResNet-20", resnet, small, "gradient", "eager", 0.7),
        Case("ResNet-20", resnet, small, "lrp", "eager", 0.7),
        Case("EfficientNet-Lite0", lite, large, "gradient", "forward", 8.0),
    )
    return [_claim(case, rounds) for case in cases]


def _claim(case: Case, rounds: int) -> timing.Claim:
    x, model = case.x, case.model
    task, image = problem(model, x, case.method), x.clone().requires_grad_()
    span = task.settings.span(x)
    begin = time.perf_counter()
    compiled = compiled_slope(task, image, span)
    taken = time.perf_counter() - begin
    step = task.settings.steps // 2  # another beta than the one of the recording
    gap = compiled.gap(task, image, span, step)
    notes = {"compiled": f"took {taken:.0f} s to make; {gap:.1g} of the largest value from the eager one"}
    runs: dict[str, Callable[[], object]] = {
        "forward": partial(subjects.forward, model, x),
        "eager": partial(slope, task, image, span, step),
        "compiled": partial(compiled, task, image, span, step),
    }
    subject = f"step of the attack on {case.method}, {case.network}, {len(x)} pairs, {x.shape[-1]} px"
    seconds = timing.race(runs, rounds=rounds, clock=time.process_time)
    return timing.compared(subject, seconds, of="compiled", to=case.beside, target=case.target, notes=notes)
