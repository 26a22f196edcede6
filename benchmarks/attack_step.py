"""A step of an attack on one image, in forward passes, beside an explicit backward pass and bare autograd."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import explicit, subjects, timing
from benchmarks.manipulation import bare_gradient
from benchmarks.manipulation import step as loss_step
from veridical.attacks import ManipulationSettings
from veridical.attacks.loss import Problem
from veridical.attributions import method, saliency
from veridical.smoothing import SmoothedModel
from veridical.values import Explainer

METHODS: dict[str, Explainer] = {
    "gradient": method("gradient"),
    "lrp": method("deep-taylor", convention="dombrowski2019", bounds=(explicit.LOW, explicit.HIGH)),
}
BOUNDS = {
    ("VGG-16", "gradient"): 5.2, ("VGG-16", "lrp"): 9.0,
    ("EfficientNet-Lite0", "gradient"): 8.0, ("EfficientNet-Lite0", "lrp"): 13.0,
}  # fmt: skip


def measure(rounds: int = 7) -> list[timing.Claim]:
    torch.set_flush_denormal(True)  # as `manipulate` does while it optimizes
    vgg, lite = subjects.torchvision_network("vgg16"), subjects.efficientnet_lite()
    networks, x = {"VGG-16": vgg, "EfficientNet-Lite0": lite}, subjects.batch(1)
    return [
        _claim((network, name), networks[network], x, target, rounds)
        for (network, name), target in BOUNDS.items()
    ]


def _claim(what: tuple[str, str], model: nn.Module, x: Tensor, target: float, rounds: int) -> timing.Claim:
    (network, name), notes = what, {}
    task = problem(model, x, name)
    runs: dict[str, Callable[[], object]] = {
        "forward": partial(subjects.forward, model, x),
        "veridical": partial(gradient_of_loss, task, x),
    }
    if name == "gradient":
        smoothed = SmoothedModel(model, task.beta(0)).eval()
        runs["autograd"] = partial(loss_step, bare_gradient, smoothed, x, task.targets, task.target_map)
    if network == "VGG-16":
        for kind, parameters in (("explicit", True), ("explicit, parameters frozen", False)):
            runs[kind] = partial(explicit.step, task, x, parameters)
        ours, theirs = gradient_of_loss(task, x), explicit.step(task, x, parameters=False)
        apart = (ours - theirs).abs().max() / theirs.abs().max()
        notes["explicit"] = f"its result is {apart.item():.1g} of the largest value from ours"
    subject = f"step of the attack on {name}, {network}, 1 image, 224 px"
    seconds = timing.race(runs, rounds=rounds, clock=time.process_time)
    return timing.compared(subject, seconds, of="veridical", to="forward", target=target, notes=notes)


def target_map(x: Tensor) -> Tensor:
    return saliency(torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))


def problem(model: nn.Module, x: Tensor, name: str) -> Problem:
    with torch.no_grad():
        logits = model(x)
    classes = torch.full((len(x),), 3)
    return Problem(
        model, METHODS[name], classes, target_map(x), logits, ManipulationSettings(), name == "gradient"
    )


def gradient_of_loss(task: Problem, x: Tensor) -> Tensor:
    image = x.clone().requires_grad_()
    losses = task.losses(image, task.beta(0))
    return torch.autograd.grad(losses.sum(), image)[0]
