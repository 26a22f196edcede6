"""Five targets of the same images cost at most one forward and five backward passes of bare autograd."""

import time
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import subjects, timing
from veridical.attributions import explain_several, method

CLASSES = (3, 141, 59, 26, 535)
TARGET = 1.0
METHODS = ("gradient", "guided-backprop")


def measure(rounds: int = 6, size: int = 224) -> list[timing.Claim]:
    claims = []
    for network in ("vgg16", "resnet50"):
        model = subjects.torchvision_network(network)
        for count in (1, 8):
            x = subjects.batch(count, size)
            runs = {
                "forward": partial(subjects.forward, model, x),
                "autograd, 1 forward and 5 backward": partial(bare, model, x),
                **{name: partial(together, name, model, x) for name in METHODS},
            }
            seconds = timing.race(runs, rounds=rounds, warmup=0, clock=time.process_time)
            for name in METHODS:
                subject = f"{len(CLASSES)} targets, {name}, {network}, batch {count}, {size} px"
                to = "autograd, 1 forward and 5 backward"
                claims.append(timing.compared(subject, seconds, of=name, to=to, target=TARGET))
    return claims


def together(name: str, model: nn.Module, x: Tensor) -> Tensor:
    """(T, N, C, H, W) of one recorded pass."""
    return explain_several(model, x, {name: method(name)}, CLASSES)[name]


def bare(model: nn.Module, x: Tensor) -> Tensor:
    """The same gradients, one class after another, through one graph."""
    image = x.clone().requires_grad_()
    logits = model(image)
    grads = [torch.autograd.grad(logits[:, c].sum(), image, retain_graph=True)[0] for c in CLASSES]
    return torch.stack(grads)
