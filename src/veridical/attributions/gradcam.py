"""Grad-CAM and guided Grad-CAM: where in the feature maps of one layer the evidence for a class lies."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.attributions.feature_maps import find_layer
from veridical.attributions.gradient import GRADIENT_RULES, Output, score_start
from veridical.attributions.modified_gradient import GuidedBackprop
from veridical.attributions.rule_based import Overrides
from veridical.checks import check_choice, resolve_target
from veridical.rules import Trace, propagate, record
from veridical.values import Target

Upsampling = Literal["bilinear", "bicubic", "nearest"]
"""How a layer's map is brought to the size of the image; corners are not aligned."""

_RULES = replace(GRADIENT_RULES, fold_batch_norm=False)  # folded, a convolution would show its BatchNorm's


@dataclass(frozen=True)
class GradCam:
    """The feature maps of one layer, weighted by the mean gradient of each, summed.

    With A_k the maps of the layer and s the score of the class: w_k = mean over the places of ds / dA_k, map
    L = [sum_k w_k A_k]+, brought to the size of the image. The map says where, not how each color counts:
    each of the C input channels gets L / C, so that the channels sum to L, and any reduction of the channels
    gives L up to a factor. The layer's output may be (N, K, h, w), channels last, or tokens on the grid of
    the latest maps before it; tokens in front of the grid (class, registers) are left out of map and mean.
    Between the score and the layer every operation, pooling, residual sums and BatchNorm included, has its
    gradient.

    Args:
        layer: name of a module, for the last operation performed inside it, or of an operation of the trace
            ("layer4.1.relu#2"; "#1" for the first of several). None: the last operation with feature maps
            larger than 1 x 1 that is not pooling (VGG-16: features.29); in vision transformers the last
            normalization before the last softmax, since behind it no gradient reaches the patches. In
            networks whose classifier is a convolution (SqueezeNet) these are the maps of the class itself.
        relu: cut the map's negative part before it is resized.
        upsampling: "bilinear", "bicubic" or "nearest".
        output: the explained score: logit, the same with the map scaled by the logit, or softmax probability.

    Source:
        Selvaraju et al. 2017, section 3, eqs. 1 and 2.

    Deviations:
        The paper takes the last convolution; ours the last operation before pooling, which is its ReLU where
        there is one. For tokens the paper has no definition. Convention "bordt2023" takes the raw map of
        layer4.1.conv2 of a ResNet-18, resized with bicubic interpolation (layer=None for other networks).

    Peers:
        Captum (LayerGradCam with and without relu_attributions, LayerAttribution.interpolate) to 1e-5.
    """

    layer: str | None = None
    relu: bool = True
    upsampling: Upsampling = "bilinear"
    output: Output = "logit"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("upsampling", self.upsampling, get_args(Upsampling))
        check_choice("output", self.output, get_args(Output))

    @property
    def name(self) -> str:
        """The method's name."""
        return "grad-cam"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance of the shape of `inputs`, the same in each channel."""
        return self.with_logits(model, inputs, target)[0]

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The relevance and the logits (N, K) of the one forward pass."""
        return _with_logits(self, model, inputs, target)

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """Relevance (T, N, C, H, W) for LongTensor targets (T, N), from a pass that others may share."""
        channels = trace.inputs.shape[1]
        return (self.maps(trace, targets) / channels).repeat(1, 1, channels, 1, 1)

    def maps(self, trace: Trace, targets: Tensor) -> Tensor:
        """One map of the size of the image for each target and image, (T, N, 1, H, W).

        Raises:
            ValueError: if the layer does not exist, has no spatial extent, or the logits do not depend on it.
        """
        operation, layout = find_layer(trace, self.layer)
        start = score_start(trace, targets, self.output)
        gradient = propagate(trace, _RULES, start, until=operation.name).layers.get(operation.name)
        if gradient is None:
            raise ValueError(
                f"expected a layer that the logits depend on, got {operation.describe()}; name a later one"
            )
        with torch.set_grad_enabled(trace.differentiable):
            values = operation.value if trace.differentiable else operation.value.detach()
        weights = layout.maps(gradient).mean((-2, -1), keepdim=True)
        summed = (weights * layout.maps(values)).sum(2)
        if self.relu:
            summed = summed.clamp(min=0)
        size = trace.inputs.shape[2:]
        aligned = None if self.upsampling == "nearest" else False
        return F.interpolate(summed, size=size, mode=self.upsampling, align_corners=aligned).unsqueeze(2)


@dataclass(frozen=True)
class GuidedGradCam:
    """Guided backpropagation times the Grad-CAM map of the same class, value by value.

    R = G L, with G the relevance of guided backpropagation, started with 1, and L the Grad-CAM map of a
    layer, [sum_k w_k A_k]+ at the size of the image, the same for each input channel. One forward pass serves
    both. Pooling, residual sums, BatchNorm and bias: as in guided-backprop, and as in grad-cam for the map.

    Args:
        layer: of the map, as for grad-cam; None for the same default.
        upsampling: of the map: "bilinear", "bicubic" or "nearest".
        overrides: pairs of a function's name and "gradient" or "pass", for operations that guided
            backpropagation has no rule for.

    Source:
        Selvaraju et al. 2017, section 3 (guided Grad-CAM); Springenberg et al. 2015 for the first factor.

    Deviations:
        On activations other than ReLU guided backpropagation has no definition; ours multiplies [R]+ by f'.
        Convention "bordt2023" takes the map of features.10 and upsampling "nearest", Captum's default, as
        that code did on its VGG-16 (layer=None for other networks).

    Peers:
        Captum (GuidedGradCam), with upsampling "nearest", its default, and "bilinear", to 1e-5.
    """

    layer: str | None = None
    upsampling: Upsampling = "bilinear"
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("upsampling", self.upsampling, get_args(Upsampling))

    @property
    def name(self) -> str:
        """The method's name."""
        return "guided-grad-cam"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Signed relevance, of the shape of `inputs`."""
        return self.with_logits(model, inputs, target)[0]

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The relevance and the logits (N, K) of the one forward pass."""
        return _with_logits(self, model, inputs, target)

    def from_trace(self, trace: Trace, targets: Tensor) -> Tensor:
        """Relevance (T, N, C, H, W) for LongTensor targets (T, N), from a pass that others may share."""
        maps = GradCam(self.layer, upsampling=self.upsampling).maps(trace, targets)
        return GuidedBackprop(overrides=self.overrides).from_trace(trace, targets) * maps


def _with_logits(
    method: GradCam | GuidedGradCam, model: nn.Module, inputs: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    trace = record(model, inputs, lean=isinstance(method, GradCam))  # the guided map is a second propagation
    relevance = method.from_trace(trace, resolve_target(trace.logits, target)[None])[0]
    return relevance, trace.logits if trace.differentiable else trace.logits.detach()
