"""The same relevance as Zennit, for every rule that both have, under the matching convention."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Sequential, images, seeded
from veridical.attributions import method

pytest.importorskip("torchvision", reason="needs torchvision, which Zennit imports (make peers)")
composites = pytest.importorskip("zennit.composites", reason="needs zennit (make peers)")
rules = pytest.importorskip("zennit.rules", reason="needs zennit (make peers)")
attribution = pytest.importorskip("zennit.attribution", reason="needs zennit (make peers)")
types = pytest.importorskip("zennit.types", reason="needs zennit (make peers)")

pytestmark = pytest.mark.peer

TARGET = torch.tensor([1, 2])
TOLERANCE = 1e-5
# Zennit adds a stabilizer to every denominator (1e-6 by default); ours divides exactly but for zeros.
STABILIZER = 1e-12


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def starting_one(logits: Tensor) -> Tensor:
    return F.one_hot(TARGET, logits.shape[1]).to(logits)


def starting_value(logits: Tensor) -> Tensor:
    return starting_one(logits) * logits.detach()


def zennit_relevance(
    model: nn.Module, x: Tensor, composite, start, kind: str = "Gradient", **options
) -> Tensor:
    with getattr(attribution, kind)(model, composite, **options) as attributor:
        return attributor(x.clone(), start)[1].detach()


def everywhere(rule, first=None):
    """A composite with one rule for convolutions and linear layers, and another for the first of them."""
    table = [(types.Activation, rules.Pass()), (types.AvgPool, rules.Norm()), (types.Linear, rule)]
    if first is None:
        return composites.LayerMapComposite(table)
    return composites.SpecialFirstLayerMapComposite(table, [(types.Linear, first)])


@pytest.mark.parametrize(
    ("name", "composite"), [("guided-backprop", "GuidedBackprop"), ("deconvnet", "DeconvNet")]
)
def test_modified_gradients_equal_zennit_on_relu_modules(name, composite) -> None:
    model, x = seeded(Sequential), images()
    theirs = zennit_relevance(model, x, getattr(composites, composite)(), starting_one)
    assert relative_error(method(name)(model, x, TARGET), theirs) < TOLERANCE


def test_gradient_equals_zennit() -> None:
    model, x = seeded(Sequential), images()
    theirs = zennit_relevance(model, x, None, starting_one)
    assert relative_error(method("gradient")(model, x, TARGET), theirs) < TOLERANCE


def test_integrated_gradients_at_right_ends_equal_zennit() -> None:
    model, x = seeded(Sequential), images()
    theirs = zennit_relevance(model, x, None, starting_one, "IntegratedGradients", n_iter=20)
    ours = method("integrated-gradients", steps=20, nodes="right")(model, x, TARGET)
    assert relative_error(ours, theirs) < TOLERANCE


def test_smoothgrad_equals_zennit_but_for_its_last_sample(monkeypatch) -> None:
    """Zennit's last sample has no noise, so n_iter of 7 is six noisy samples and the gradient itself."""
    model, x = seeded(Sequential), images()
    noise = torch.randn((6, *x.shape[1:]), generator=torch.Generator().manual_seed(5)).to(x)
    draws = iter(noise)
    monkeypatch.setattr(torch, "randn_like", lambda like: next(draws).expand_as(like))
    theirs = zennit_relevance(model, x, None, starting_one, "SmoothGrad", noise_level=0.2, n_iter=7)
    noisy = method("smoothgrad", samples=6, noise=0.2, seed=5)(model, x, TARGET)
    expected = (6 * noisy + method("gradient")(model, x, TARGET)) / 7
    assert relative_error(expected, theirs) < TOLERANCE


RULES = {
    "lrp-z": ("lrp-z", {}, lambda: rules.Epsilon(0.0)),
    "lrp-epsilon 1e-6": ("lrp-epsilon", {"epsilon": 1e-6}, lambda: rules.Epsilon(1e-6)),
    "lrp-epsilon 0.25": ("lrp-epsilon", {"epsilon": 0.25}, lambda: rules.Epsilon(0.25)),
    "lrp-zplus": ("lrp-zplus", {}, lambda: rules.ZPlus(STABILIZER, zero_params="bias")),
    "lrp-alpha1-beta0": ("lrp-alpha1-beta0", {}, lambda: rules.ZPlus(STABILIZER)),
    "lrp-alpha1-beta0 as AlphaBeta": ("lrp-alpha1-beta0", {}, lambda: rules.AlphaBeta(1.0, 0.0, STABILIZER)),
    "lrp-alpha2-beta1": ("lrp-alpha2-beta1", {}, lambda: rules.AlphaBeta(2.0, 1.0, STABILIZER)),
    "lrp-alpha2-beta1 without bias": (
        "lrp-alpha2-beta1", {"bias": "none"},
        lambda: rules.AlphaBeta(2.0, 1.0, STABILIZER, zero_params="bias"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES.values(), ids=RULES)
def test_lrp_equals_zennit(case) -> None:
    name, options, rule = case
    model, x = seeded(Sequential), images()
    theirs = zennit_relevance(model, x, everywhere(rule()), starting_value)
    assert relative_error(method(name, **options)(model, x, TARGET), theirs) < TOLERANCE


def test_deep_taylor_equals_zennits_z_box_before_z_plus() -> None:
    model, x = seeded(Sequential), images()
    low, high = float(x.min()) - 0.1, float(x.max()) + 0.1
    composite = everywhere(
        rules.ZPlus(STABILIZER, zero_params="bias"), rules.ZBox(low, high, stabilizer=STABILIZER)
    )
    theirs = zennit_relevance(model, x, composite, starting_value)
    assert relative_error(method("deep-taylor", bounds=(low, high))(model, x, TARGET), theirs) < TOLERANCE


def test_zennits_default_stabilizer_alone_explains_the_rest_of_the_difference() -> None:
    model, x = seeded(Sequential), images()
    ours = method("lrp-zplus")(model, x, TARGET)
    errors = [
        relative_error(
            ours,
            zennit_relevance(model, x, everywhere(rules.ZPlus(size, zero_params="bias")), starting_value),
        )
        for size in (1e-4, 1e-6, 1e-8)
    ]
    assert errors[0] > 50 * errors[1] > 2500 * errors[2] > 0  # first order in the stabilizer
