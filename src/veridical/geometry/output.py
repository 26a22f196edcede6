"""One output of a network as a function g of the image, its gradient, and products with its Hessian."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from veridical.checks import check_choice, check_gradients, check_inputs, check_logits, resolve_target
from veridical.geometry.convolutions import ConstantWeights
from veridical.smoothing import SmoothedModel, predicted_target, rectifications
from veridical.tensors import per_sample
from veridical.values import Target

Score = Literal["logit", "probability"]
"""g: the class's logit, or its probability after the softmax."""

_DAMPED = 60


@dataclass(frozen=True, eq=False)
class Output:
    """g_i(x_i) for a batch of images.

    Attributes:
        model: the network, with softplus in place of ReLU where beta is given.
        classes: LongTensor (N,), one for each image.
        score: logit or probability.
        beta: of the softplus; None where the network is taken as it is.
    """

    model: nn.Module
    classes: Tensor
    score: Score
    beta: float | None

    def __call__(self, x: Tensor) -> Tensor:
        """The values g (N,) at x (N, C, H, W), differentiable."""
        logits = check_logits(self.model(x), len(x))
        scores = logits.softmax(dim=1) if self.score == "probability" else logits
        return scores.gather(1, self.classes[:, None])[:, 0]

    def at(self, rows: Tensor | slice) -> Output:
        """The same function for some of the images, in any order."""
        return replace(self, classes=self.classes[rows])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The values g (N,) and their gradient (N, C, H, W), without a graph."""
        with torch.enable_grad():
            image = x.detach().clone().requires_grad_()
            value = self(image)
            (gradient,) = torch.autograd.grad(value.sum(), image)
        return value.detach(), gradient


def output_of(
    model: nn.Module, inputs: Tensor, target: Target, beta: float | None, score: Score = "logit"
) -> Output:
    """The function g of the smoothed network; a target of None is what the **unmodified** network predicts.

    Raises:
        TypeError: if inputs or target are of the wrong type.
        ValueError: if inputs, target, beta or score have a wrong value, or no gradient can be taken.
    """
    check_inputs(inputs)
    check_gradients(inputs)
    check_choice("score", score, get_args(Score))
    if inputs[0].numel() < 2:
        raise ValueError("expected images of at least 2 values, got 1; its level sets are points")
    classes = predicted_target(model, inputs, target)
    with torch.no_grad():
        logits = check_logits(model(inputs[:1].detach().clone()), 1)
    smoothed = model if beta is None else SmoothedModel(model, beta)
    return Output(smoothed, resolve_target(logits.expand(len(inputs), -1), classes), score, beta)


def check_curved(model: nn.Module, inputs: Tensor, beta: float | None) -> None:
    """Check that the level sets are smooth: no ReLU is left as it is.

    Raises:
        ValueError: if one is; between its kinks the network is linear.
    """
    if beta is None and rectifications(model, inputs) > 0:
        raise ValueError(
            "expected beta for a network with ReLU, got None; its level sets are flat pieces, of curvature 0 "
            "almost everywhere and infinite at the kinks. Pass beta, the sharpness of a softplus in place of "
            "ReLU: veridical.choose_beta finds one"
        )


class ShapeOperator:
    """v -> P H P v / ||grad g|| at every image: its eigenvalues are the principal curvatures.

    H is the Hessian of g, P = I - n n^T the projection on the tangent space of {g = c}, n = grad g / ||grad
    g||. Products are made by double backward; no d x d matrix is stored.

    Attributes:
        value: float64 (N,), g.
        gradient_norm: float64 (N,).
        normal: (N, d) in the dtype of the images; zeros where the gradient is 0.
        products: how many were made, each for all images.
        beta: of the output. With one, a product of exactly 0 is a softplus so sharp that it is a ReLU here.
    """

    def __init__(self, output: Output, x: Tensor) -> None:
        """Run the network forward and backward once."""
        # The fused attention kernels have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), ConstantWeights():
            self._image = x.detach().clone().requires_grad_()
            value = output(self._image)
            (self._gradient,) = torch.autograd.grad(value.sum(), self._image, create_graph=True)
        flat = self._gradient.detach().flatten(1)
        self.value = value.detach().double()
        self.gradient_norm = flat.double().norm(dim=1)
        self._divisor = torch.where(self.gradient_norm > 0, self.gradient_norm, 1.0)
        self.beta = output.beta
        self.normal = (flat.double() / self._divisor[:, None]).to(x.dtype)
        self.products = 0

    def tangent(self, v: Tensor) -> Tensor:
        """P v for v (N, d)."""
        return v - (v * self.normal).sum(dim=1, keepdim=True) * self.normal

    def __call__(self, v: Tensor) -> Tensor:
        """The product (N, d) for v (N, d).

        Raises:
            ValueError: if the gradient does not depend on the image, or the first product is exactly 0 for a
                network that is taken as it is.
        """
        self.products += 1
        along = self.tangent(v).view_as(self._image)
        product = None
        if self._gradient.requires_grad:
            (product,) = torch.autograd.grad(
                self._gradient, self._image, along, retain_graph=True, allow_unused=True
            )
        first = self.products == 1 and self.beta is None and bool((self.gradient_norm > 0).any())
        if product is None or (first and not bool(product.any())):
            raise ValueError(
                "expected a curved function of the image, got one whose gradient is the same everywhere "
                "nearby: a piecewise linear network, whose level sets are flat. Pass beta where it has a "
                "ReLU, or use smooth activations"
            )
        return self.tangent(product.flatten(1)) / self._divisor[:, None].to(v.dtype)


def pull_back(output: Output, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Points moved onto {g = level} by Newton's method along the gradient: x - (g - c) grad g / ||grad g||^2.

    A step that does not bring |g - c| down is halved.

    Args:
        output: g.
        x: (N, C, H, W).
        level: (N,), c of every image.

    Returns:
        The points, and a BoolTensor (N,): whether |g - c| <= 1000 eps (|c| + ||grad g||) was reached.
    """
    x = x.detach()
    value, gradient = output.value_and_gradient(x)
    share = torch.ones_like(value)
    for _ in range(_DAMPED):
        squares = gradient.flatten(1).square().sum(dim=1)
        limit = 1000 * torch.finfo(x.dtype).eps * (level.abs() + squares.sqrt())
        active = ((value - level).abs() > limit) & (squares > 0) & (share > 1e-6)
        if not bool(active.any()):
            break
        size = torch.where(active, share * (value - level) / torch.where(squares > 0, squares, 1.0), 0.0)
        tried = x - per_sample(size, x) * gradient
        new_value, new_gradient = output.value_and_gradient(tried)
        better = active & ((new_value - level).abs() < (value - level).abs())
        x = torch.where(per_sample(better, x), tried, x)
        gradient = torch.where(per_sample(better, x), new_gradient, gradient)
        value = torch.where(better, new_value, value)
        share = torch.where(better, torch.ones_like(share), torch.where(active, share / 2, share))
    limit = 1000 * torch.finfo(x.dtype).eps * (level.abs() + gradient.flatten(1).norm(dim=1))
    return x, (value - level).abs() <= limit
