"""The same relevance as Captum, for every method that both have, under the matching convention."""

import copy

import pytest
import torch
from torch import Tensor, nn

from networks import Sequential, images, seeded
from veridical.attributions import method

captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules", reason="needs captum (make peers)")

pytestmark = [
    pytest.mark.peer,
    # Captum tells of the hooks that it sets, and casts float64 quadratures to float32.
    pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require:UserWarning"),
]

TARGET = torch.tensor([1, 2])
TOLERANCE = 1e-5


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def without_flatten(model: nn.Module) -> nn.Module:
    """The same network in the form that Captum's LRP accepts: it refuses nn.Flatten."""
    model = copy.deepcopy(model)
    model.classifier = nn.Sequential(*list(model.classifier)[1:])

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.classifier = model.features, model.classifier

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(torch.flatten(self.features(x), 1))

    return Functional()


def captum_lrp(model: nn.Module, x: Tensor, rule) -> Tensor:
    model = without_flatten(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = rule()
    return captum.LRP(model).attribute(x.clone().requires_grad_(), target=TARGET).detach()


PAIRS = {
    "gradient": ("gradient", {}, "Saliency", {"abs": False}),
    "gradient-x-input": ("gradient-x-input", {}, "InputXGradient", {}),
    "guided-backprop": ("guided-backprop", {}, "GuidedBackprop", {}),
    "deconvnet": ("deconvnet", {}, "Deconvolution", {}),
    "integrated-gradients, Gauss-Legendre": (
        "integrated-gradients", {"steps": 20},
        "IntegratedGradients", {"n_steps": 20, "method": "gausslegendre"},
    ),
    "integrated-gradients, right ends": (
        "integrated-gradients", {"steps": 20, "nodes": "right"},
        "IntegratedGradients", {"n_steps": 20, "method": "riemann_right"},
    ),
    "integrated-gradients, midpoints": (
        "integrated-gradients", {"steps": 20, "nodes": "midpoint"},
        "IntegratedGradients", {"n_steps": 20, "method": "riemann_middle"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_gradient_family_equals_captum(pair, dtype) -> None:
    name, options, peer, settings = pair
    model, x = seeded(Sequential, dtype=dtype), images(dtype=dtype)
    theirs = getattr(captum, peer)(model).attribute(x.clone().requires_grad_(), target=TARGET, **settings)
    assert relative_error(method(name, **options)(model, x, TARGET), theirs.detach()) < TOLERANCE


def test_smoothgrad_equals_captum_on_the_same_noise(monkeypatch) -> None:
    """NoiseTunnel draws from the global generator; here it is handed our noise."""
    model, x = seeded(Sequential), images()
    samples, level = 6, 0.3
    noise = torch.randn((samples, *x.shape[1:]), generator=torch.Generator().manual_seed(5)).to(x)
    # NoiseTunnel repeats each image in place: all copies of the first, then all of the second.
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise.repeat(len(x), 1, 1, 1) * std)
    tunnel = captum.NoiseTunnel(captum.Saliency(model))
    theirs = tunnel.attribute(
        x.clone().requires_grad_(),
        nt_type="smoothgrad",
        nt_samples=samples,
        stdevs=level,
        target=TARGET,
        abs=False,
    )
    ours = method("smoothgrad", samples=samples, noise=level, range=1.0, seed=5)(model, x, TARGET)
    assert relative_error(ours, theirs.detach()) < TOLERANCE


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2, 0.25])
def test_lrp_epsilon_equals_captum(epsilon) -> None:
    model, x = seeded(Sequential), images()
    theirs = captum_lrp(model, x, lambda: lrp_rules.EpsilonRule(epsilon))
    assert relative_error(method("lrp-epsilon", epsilon=epsilon)(model, x, TARGET), theirs) < TOLERANCE


def test_lrp_z_equals_captums_epsilon_rule_with_its_smallest_stabilizer() -> None:
    model, x = seeded(Sequential), images()
    theirs = captum_lrp(model, x, lrp_rules.EpsilonRule)
    assert relative_error(method("lrp-z")(model, x, TARGET), theirs) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "options", "zero"),
    [("lrp-zplus", {}, True), ("lrp-alpha1-beta0", {"bias": "whole"}, False)],
    ids=["without bias", "whole bias"],
)
def test_alpha1_beta0_equals_captum_on_images_without_negative_values(name, options, zero) -> None:
    model, x = seeded(Sequential), images().abs()
    theirs = captum_lrp(model, x, lambda: lrp_rules.Alpha1_Beta0_Rule(set_bias_to_zero=zero))
    assert relative_error(method(name, **options)(model, x, TARGET), theirs) < TOLERANCE


def test_captums_alpha1_beta0_differs_where_the_image_has_negative_values() -> None:
    """Captum keeps W+ x whole, negative x included; the papers (and we) add W- x- to the positive."""
    model, x = seeded(Sequential), images()
    theirs = captum_lrp(model, x, lambda: lrp_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True))
    assert relative_error(method("lrp-zplus")(model, x, TARGET), theirs) > 0.1


@pytest.mark.parametrize(
    ("peer", "settings", "name", "options"),
    [
        ("InputXGradient", {}, "gradient-x-input", {}),
        ("IntegratedGradients", {"n_steps": 8}, "integrated-gradients", {"steps": 8}),
    ],
    ids=["gradient-x-input", "integrated-gradients"],
)
def test_captum_returns_a_graph_with_the_wrong_derivative(peer, settings, name, options) -> None:
    """The reason that derivatives of ours are held against central differences, not against Captum."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(144, 3)))
    x = images(1).requires_grad_()
    attribution = getattr(captum, peer)(model).attribute(x, target=0, **settings)
    (theirs,) = torch.autograd.grad(attribution.square().sum(), x)
    y = images(1).requires_grad_()
    (right,) = torch.autograd.grad(method(name, **options)(model, y, 0).square().sum(), y)
    assert relative_error(theirs, right) > 1e-2
