"""The gradient, and the gradient times the input."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import (
    check_choice,
    check_gradients,
    check_inputs,
    check_logits,
    edits_input,
    evaluation_mode,
    resolve_target,
)
from veridical.rules import RuleSet, Trace, affine_gradient, class_start, gradient, propagate, record
from veridical.values import Target

Output = Literal["logit", "logit-value", "probability"]
"""The explained score: the class's logit; the same, with the map scaled by the logit's value; or its softmax
probability."""

GRADIENT_RULES = RuleSet("gradient", affine_gradient, {}, frozenset(), otherwise=gradient, lean=True)


def input_gradient(
    model: nn.Module, inputs: Tensor, target: Target, output: Output = "logit"
) -> tuple[Tensor, Tensor]:
    """Gradient (N, C, H, W) of the explained score, and the logits (N, K) of the same forward pass.

    Where `inputs.requires_grad`, the gradient is differentiable; its convolutions are then written as
    transposed convolutions, whose derivative is a plain convolution: the second derivative of a depthwise
    convolution is several times as fast that way.
    """
    if inputs.requires_grad:
        trace = record(model, inputs)
        classes = resolve_target(trace.logits, target)
        return gradient_from_trace(trace, classes[None], output)[0], trace.logits
    check_inputs(inputs)
    check_gradients(inputs)
    image = inputs.detach().requires_grad_()
    with torch.enable_grad(), evaluation_mode(model):
        logits = check_logits(_forward(model, image), len(inputs))
        classes = resolve_target(logits, target)
        scores = logits.softmax(1) if output == "probability" else logits
        chosen = scores.gather(1, classes[:, None])
    (result,) = torch.autograd.grad(
        chosen, image, chosen.detach() if output == "logit-value" else torch.ones_like(chosen)
    )
    return result, logits.detach()


def score_start(trace: Trace, targets: Tensor, output: Output) -> Tensor:
    """The gradient (T, N, K) of the explained scores of LongTensor targets (T, N) at the logits."""
    start = class_start(trace, targets, "value" if output == "logit-value" else "one")
    if output != "probability":
        return start
    logits = trace.logits if trace.differentiable else trace.logits.detach()
    probabilities = logits.softmax(1)
    share = probabilities.expand(len(targets), -1, -1).gather(2, targets[..., None])
    return share * (start - probabilities)


def gradient_from_trace(trace: Trace, targets: Tensor, output: Output = "logit") -> Tensor:
    """Gradient (T, N, C, H, W) of the explained scores of LongTensor targets (T, N)."""
    return propagate(trace, GRADIENT_RULES, score_start(trace, targets, output)).inputs


def _forward(model: nn.Module, image: Tensor) -> object:
    """The model's output; autograd refuses an edit of the image in place before it happens."""
    try:
        return model(image)
    except RuntimeError as error:
        if "leaf Variable that requires grad is being used in an in-place operation" not in str(error):
            raise
        raise ValueError(edits_input(type(model).__name__)) from error


@dataclass(frozen=True)
class Gradient:
    """The gradient of the class's score with respect to the image (Simonyan et al. 2014).

    R = df / dx, f the logit of the class, or its softmax probability; equal to autograd to the last bit.

    Args:
        output: the explained score. Dombrowski's code multiplies the map by the logit's value.

    Source:
        Simonyan et al. 2014, section 3. Used by Dombrowski et al. 2019 (section 2.2), Sixt et al. 2020 and
        Bordt et al. 2023.

    Deviations:
        Signed and unreduced. The papers reduce it differently: the maximum of absolute channels (Simonyan;
        Sixt's code, where the paper says sum), their sum (Dombrowski), none (Bordt); `saliency` does that.
        The mask of a ReLU at exactly 0 is torch's (0), in Dombrowski's code 1.

    Peers:
        Captum `Saliency(abs=False)` (float32 and float64) and Zennit `Gradient` without a composite: equal to
        1e-5 of the largest value.
    """

    output: Output = "logit"

    def __post_init__(self) -> None:
        """Check the score."""
        check_choice("output", self.output, get_args(Output))

    @property
    def name(self) -> str:
        """The method's name."""
        return "gradient"

    @property
    def rules(self) -> RuleSet:
        """The gradient as rules of the relevance engine."""
        return GRADIENT_RULES

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Signed gradient, of the shape of `inputs`."""
        return self.with_logits(model, inputs, target)[0]

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The gradient and the logits (N, K) of the one forward pass."""
        return input_gradient(model, inputs, target, self.output)

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """The gradient (T, N, C, H, W) for LongTensor targets (T, N), from a pass that others may share."""
        return gradient_from_trace(trace, targets, self.output)


@dataclass(frozen=True)
class GradientTimesInput:
    """The gradient multiplied by the image, value by value (Shrikumar et al. 2016).

    R = x df / dx. Every operation, pooling, residual sums and BatchNorm included, has its gradient; the bias
    has no part of its own. On networks of affine maps, ReLU and max pooling it equals LRP-z with the bias as
    an input that absorbs relevance.

    Args:
        output: the explained score; "logit-value" also scales the map by the logit (Dombrowski 2019's code).

    Source:
        Shrikumar et al. 2016. Used by Dombrowski et al. 2019 (section 2.2) and Bordt et al. 2023; its
        equality with LRP-z is in Sixt et al. 2020, section 2.2.

    Deviations:
        None. x is what the network is given, after the preprocessing, as in the code of both papers. It is
        multiplied before any reduction over the channels.

    Peers:
        Captum `InputXGradient` (float32 and float64): equal to 1e-5 of the largest value. Captum's result
        also carries a graph, whose derivative is wrong.
    """

    output: Output = "logit"

    def __post_init__(self) -> None:
        """Check the score."""
        check_choice("output", self.output, get_args(Output))

    @property
    def name(self) -> str:
        """The method's name."""
        return "gradient-x-input"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Signed product, of the shape of `inputs`."""
        return self.with_logits(model, inputs, target)[0]

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The product and the logits (N, K) of the one forward pass."""
        gradient_, logits = input_gradient(model, inputs, target, self.output)
        return gradient_ * inputs, logits

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """The product (T, N, C, H, W) for LongTensor targets (T, N), from a pass that others may share."""
        inputs = trace.inputs if trace.differentiable else trace.inputs.detach()
        return gradient_from_trace(trace, targets, self.output) * inputs
