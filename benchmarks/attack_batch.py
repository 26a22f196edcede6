"""Eight pairs together and one by one: at most 0.6 of the time where there is room, never more than 1."""

import time
from functools import partial

import torch
from tests.networks_real import CifarResNet
from torch import Tensor, nn

from benchmarks import subjects, timing
from benchmarks.attack_step import METHODS, target_map
from veridical.attacks import ManipulationSettings, manipulate
from veridical.values import Explainer

PAIRS, STEPS = 8, 10
WITH_ROOM, ALWAYS = 0.6, 1.0


def measure(rounds: int = 3) -> list[timing.Claim]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        resnet = CifarResNet(3).eval()
    lite = subjects.efficientnet_lite()
    cases: list[tuple[str, nn.Module, int, str, float]] = [
        ("ResNet-20", resnet, 32, "gradient", WITH_ROOM),
        ("ResNet-20", resnet, 32, "lrp", WITH_ROOM),
        ("EfficientNet-Lite0", lite, 64, "gradient", WITH_ROOM),
        ("EfficientNet-Lite0", lite, 224, "gradient", ALWAYS),
        ("EfficientNet-Lite0", lite, 224, "lrp", ALWAYS),
    ]
    return [_claim(*case, rounds) for case in cases]


def _claim(network: str, model: nn.Module, size: int, name: str, target: float, rounds: int) -> timing.Claim:
    x = subjects.batch(PAIRS, size)
    runs = {
        "forward": partial(subjects.forward, model, x),
        "together": partial(attack, model, x, METHODS[name]),
        "one by one": lambda: [attack(model, one, METHODS[name]) for one in x.split(1)],
    }
    subject = f"{STEPS} steps of the attack on {name}, {network}, {PAIRS} pairs, {size} px"
    seconds = timing.race(runs, rounds=rounds, clock=time.process_time)
    return timing.compared(subject, seconds, of="together", to="one by one", target=target)


def attack(model: nn.Module, x: Tensor, explainer: Explainer) -> Tensor:
    """As a user calls it: how many pairs go together is found out, and that is part of the time."""
    settings = ManipulationSettings(steps=STEPS, every=STEPS)
    return manipulate(model, x, target_map(x), explainer=explainer, settings=settings).inputs
