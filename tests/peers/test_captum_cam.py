"""Grad-CAM, guided Grad-CAM and rectified gradients beside Captum, under the matching options."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Sequential, images, seeded
from veridical.attributions import method

captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require:UserWarning"),
]

TARGET = torch.tensor([1, 2, 0])
TOLERANCE = 1e-5
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class Blocks(nn.Module):
    """Batch normalization, a residual sum, average pooling; every ReLU a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 5, 3, stride=2), nn.BatchNorm2d(5), nn.ReLU()
        self.inner, self.inner_norm, self.last = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.last(self.inner_norm(self.inner(x)) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


LAYERS = [
    (Sequential, "features.0"), (Sequential, "features.1"), (Sequential, "features.2"),
    (Blocks, "stem"), (Blocks, "norm"), (Blocks, "inner"), (Blocks, "last"),
]  # fmt: skip
EVERY_LAYER = pytest.mark.parametrize(
    ("build", "layer"), LAYERS, ids=[f"{build.__name__} {layer}" for build, layer in LAYERS]
)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@DTYPES
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "bicubic"])
@EVERY_LAYER
def test_grad_cam_equals_captum(build, layer: str, upsampling: str, relu: bool, dtype) -> None:
    model, x = seeded(build, dtype=dtype), images(3, dtype=dtype)
    cam = captum.LayerGradCam(model, model.get_submodule(layer))
    small = cam.attribute(x.clone().requires_grad_(), target=TARGET, relu_attributions=relu)
    theirs = captum.LayerAttribution.interpolate(small, (8, 8), upsampling).detach()
    ours = method("grad-cam", layer=layer, upsampling=upsampling, relu=relu)(model, x, TARGET)
    assert relative_error(ours.sum(1, keepdim=True), theirs) < TOLERANCE


@DTYPES
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@EVERY_LAYER
def test_guided_grad_cam_equals_captum(build, layer: str, upsampling: str, dtype) -> None:
    model, x = seeded(build, dtype=dtype), images(3, dtype=dtype)
    peer = captum.GuidedGradCam(model, model.get_submodule(layer))
    theirs = peer.attribute(x.clone().requires_grad_(), target=TARGET, interpolate_mode=upsampling).detach()
    ours = method("guided-grad-cam", layer=layer, upsampling=upsampling)(model, x, TARGET)
    assert bool(theirs.any()) and relative_error(ours, theirs) < TOLERANCE


@DTYPES
@pytest.mark.parametrize("build", [Sequential, Blocks])
def test_rectgrad_at_the_0th_percentile_equals_captums_guided_backpropagation(build, dtype) -> None:
    model, x = seeded(build, dtype=dtype), images(3, dtype=dtype)
    theirs = captum.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=TARGET).detach()
    assert relative_error(method("rectgrad", percentile=0.0)(model, x, TARGET), theirs) < TOLERANCE


def test_captum_takes_a_layers_last_use_and_so_do_we() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
            self.head = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))

    model, x = seeded(Reused), images(3)
    small = captum.LayerGradCam(model, model.relu).attribute(x.clone().requires_grad_(), target=TARGET)
    theirs = captum.LayerAttribution.interpolate(small, (8, 8)).detach()
    for layer, same in (("relu", True), ("relu#2", True), ("relu#1", False)):
        ours = method("grad-cam", layer=layer, relu=False, upsampling="nearest")(model, x, TARGET)
        assert (relative_error(ours.sum(1, keepdim=True), theirs) < TOLERANCE) == same
