"""The attack's step by an explicit backward pass, layer by layer, as Dombrowski et al. 2019 describe theirs.

Each convolution and linear layer keeps its input and its value before the activation, which is part of the
layer. The explanation is a backward pass written in tensor operations, so that automatic differentiation can
go through it once more. Max pooling hands relevance to the winner; average pooling and dropout are left out
(VGG-16 at 224 pixels averages single values). The rules are the paper's: the gradient with the mask
sigmoid(beta z); LRP with alpha 1, beta 0 without bias and 1e-9 in the denominators, whose second branch is
computed although its factor is 0; the z^B rule in the first layer, with two numbers as bounds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.attacks.loss import Problem
from veridical.attributions import saliency

LOW, HIGH, TINY = -2.1179, 2.64, 1e-9


@dataclass
class Visit:
    """What a layer saw: its input, and its value before the activation or its winners."""

    layer: nn.Module
    x: Tensor
    seen: Tensor


def step(task: Problem, x: Tensor, parameters: bool) -> Tensor:
    """The loss's derivative with respect to the image; with that of all parameters where asked for."""
    image, model = x.clone().requires_grad_(), task.model
    beta = task.beta(0) if task.smooth else None
    visits, logits = forward(model, image, beta)
    chosen = F.one_hot(task.targets, logits.shape[1]) * logits
    relevance = by_lrp(visits, chosen) if beta is None else by_gradient(visits, chosen, beta)
    map_error = (saliency(relevance) - task.target_map).square().mean()
    output_error = (logits.softmax(1) - task.logits.softmax(1)).square().mean()
    loss = task.settings.factors[0] * map_error + task.settings.factors[1] * output_error
    if not parameters:
        return torch.autograd.grad(loss, image)[0]
    loss.backward()
    for one in model.parameters():
        one.grad = None
    return image.grad


def forward(model: nn.Module, x: Tensor, beta: float | None) -> tuple[list[Visit], Tensor]:
    visits: list[Visit] = []
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MaxPool2d)]
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            y, winners = F.max_pool2d(x, 2, return_indices=True)
            visits.append(Visit(layer, x, winners))
            x = y
            continue
        x = x.flatten(1) if isinstance(layer, nn.Linear) else x
        z = layer(x)
        visits.append(Visit(layer, x, z))
        x = z if layer is layers[-1] else F.relu(z) if beta is None else F.softplus(z, beta)
    return visits, x


def by_gradient(visits: list[Visit], relevance: Tensor, beta: float) -> Tensor:
    for visit in reversed(visits):
        if isinstance(visit.layer, nn.MaxPool2d):
            relevance = unpooled(visit, relevance)
            continue
        masked = relevance if visit is visits[-1] else relevance * torch.sigmoid(beta * visit.seen)
        relevance = adjoint(visit, masked.reshape(visit.seen.shape), visit.layer.weight)
    return relevance


def by_lrp(visits: list[Visit], relevance: Tensor) -> Tensor:
    for visit in reversed(visits):
        if isinstance(visit.layer, nn.MaxPool2d):
            relevance = unpooled(visit, relevance)
            continue
        relevance = relevance.reshape(visit.seen.shape)
        rule = in_bounds if visit is visits[0] else alpha_beta
        relevance = rule(visit, relevance)
    return relevance


def alpha_beta(visit: Visit, relevance: Tensor, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    shares = []
    for weight in (visit.layer.weight.clamp(min=0), visit.layer.weight.clamp(max=0)):
        z = product(visit, visit.x, weight) + TINY
        shares.append(visit.x * adjoint(visit, relevance / z, weight))
    return alpha * shares[0] - beta * shares[1]


def in_bounds(visit: Visit, relevance: Tensor) -> Tensor:
    weight = visit.layer.weight
    above, below = weight.clamp(min=0), weight.clamp(max=0)
    low, high = torch.full_like(visit.x, LOW), torch.full_like(visit.x, HIGH)
    z = product(visit, visit.x, weight) - product(visit, low, above) - product(visit, high, below) + TINY
    s = relevance / z
    lowest, highest = low * adjoint(visit, s, above), high * adjoint(visit, s, below)
    return visit.x * adjoint(visit, s, weight) - lowest - highest


def product(visit: Visit, x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) if isinstance(visit.layer, nn.Linear) else F.conv2d(x, weight, padding=1)


def adjoint(visit: Visit, r: Tensor, weight: Tensor) -> Tensor:
    return r @ weight if isinstance(visit.layer, nn.Linear) else F.conv_transpose2d(r, weight, padding=1)


def unpooled(visit: Visit, relevance: Tensor) -> Tensor:
    return F.max_unpool2d(relevance.reshape(visit.seen.shape), visit.seen, 2, output_size=visit.x.shape[2:])
