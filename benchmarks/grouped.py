"""A step of an attack on networks of grouped convolutions, in forward passes and beside bare autograd.

Bare autograd is what a user would write by hand: the double backward of torch's own convolution and softplus,
and z+ shares as vector-Jacobian products of a layer with its positive weights. Groups of 1 and 4 channels
leave a convolution little to compute, so that the passes over the memory between them count for more.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import explicit, subjects, timing
from benchmarks.attack_step import gradient_of_loss, problem
from benchmarks.manipulation import bare_gradient
from benchmarks.manipulation import step as loss_step
from veridical.attacks.loss import Problem
from veridical.attributions import saliency

CHANNELS, PIXELS, DEPTH = 128, 56, 3
BOUNDS = {
    (1, "gradient"): 6.5, (1, "lrp"): 11.0,
    (4, "gradient"): 8.5, (4, "lrp"): 13.5,
    (32, "gradient"): 9.5, (32, "lrp"): 16.0,
    (128, "gradient"): 14.0, (128, "lrp"): 20.0,
}  # fmt: skip


def network(groups: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A dense convolution and `DEPTH` of `groups` groups, each 3x3 with an activation.

    Without biases: a unit that only a bias turns on has a z+ denominator of 0, about which the two differ.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), activation()]
        for _ in range(DEPTH):
            parts += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=groups, bias=False), activation()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)]
        return nn.Sequential(*parts, *head).eval()


def measure(rounds: int = 7) -> list[timing.Claim]:
    torch.set_flush_denormal(True)  # as `manipulate` does while it optimizes
    x = subjects.batch(1, PIXELS)
    return [_claim(groups, name, target, x, rounds) for (groups, name), target in BOUNDS.items()]


def _claim(groups: int, name: str, target: float, x: Tensor, rounds: int) -> timing.Claim:
    model = network(groups)
    task = problem(model, x, name)
    ours, bare = partial(gradient_of_loss, task, x), _bare(task, groups, x)
    runs: dict[str, Callable[[], object]] = {
        "forward": partial(subjects.forward, model, x), "veridical": ours, "autograd": bare,
    }  # fmt: skip
    notes = {}
    if name == "lrp":
        apart = (ours() - bare()).abs().max() / bare().abs().max()
        notes["autograd"] = f"its result is {apart.item():.1g} of the largest value from ours"
    subject = (
        f"step of the attack on {name}, {DEPTH} 3x3 convolutions of {CHANNELS} channels, groups={groups}"
    )
    seconds = timing.race(runs, rounds=rounds, clock=time.process_time)
    return timing.compared(subject, seconds, of="veridical", to="forward", target=target, notes=notes)


def _bare(task: Problem, groups: int, x: Tensor) -> Callable[[], Tensor]:
    if not task.smooth:
        return partial(lrp_step, task, x)
    smooth = network(groups, partial(nn.Softplus, task.beta(0)))
    return partial(loss_step, bare_gradient, smooth, x, task.targets, task.target_map)


def lrp_step(task: Problem, x: Tensor) -> Tensor:
    """The derivative of the attack's loss by autograd, the shares of relevance being its products as well."""
    image = x.clone().requires_grad_()
    seen = list(_forward(task.model, image))
    logits = task.model[-1](seen[-1][1])
    relevance = F.one_hot(task.targets, logits.shape[1]) * logits
    for layer, values in reversed(seen):
        relevance = _shares(layer, values, relevance, first=values is image)
    map_error = (saliency(relevance) - task.target_map).square().mean()
    output_error = (logits.softmax(1) - task.logits.softmax(1)).square().mean()
    loss = task.settings.map_factor(x[0, 0].numel()) * map_error + task.settings.factors[1] * output_error
    return torch.autograd.grad(loss, image)[0]


def _forward(model: nn.Module, x: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """Each layer with its input."""
    for layer in model.children():
        yield layer, x
        x = layer(x)


def _shares(layer: nn.Module, x: Tensor, relevance: Tensor, first: bool) -> Tensor:
    if isinstance(layer, nn.ReLU):
        return relevance
    if isinstance(layer, nn.Flatten):
        return relevance.reshape(x.shape)
    if not first:
        z = _positive(layer, x)
        return x * torch.autograd.grad(z, x, relevance / (z + explicit.TINY), create_graph=True)[0]
    weight = layer.weight
    low, high = (torch.full_like(x, end, requires_grad=True) for end in (explicit.LOW, explicit.HIGH))
    parts = (
        F.conv2d(x, weight, padding=1), F.conv2d(low, weight.clamp(min=0), padding=1),
        F.conv2d(high, weight.clamp(max=0), padding=1),
    )  # fmt: skip
    scaled = relevance / (parts[0] - parts[1] - parts[2] + explicit.TINY)
    back = [
        values * torch.autograd.grad(part, values, scaled, create_graph=True)[0]
        for values, part in zip((x, low, high), parts, strict=True)
    ]
    return back[0] - back[1] - back[2]


def _positive(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's value with its positive weights and no bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight.clamp(min=0), padding=1, groups=layer.groups)
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight.clamp(min=0))
    return layer(x)
