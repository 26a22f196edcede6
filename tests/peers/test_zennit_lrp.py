"""LRP-CMP, first layers, alpha5-beta4 and the excitation backprop family against Zennit.

Zennit adds a stabilizer to every denominator (1e-6 by default); ours divides exactly but for zeros, so the
comparisons set it to 1e-12. Where an option of Zennit's differs from ours by more, the test says which.
"""

import copy

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
STABILIZER = 1e-12


class Padded(nn.Module):
    """Padding and stride in the first layer, average and max pooling, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=2), nn.ReLU(),
            nn.AvgPool2d(2), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


BUILDS = pytest.mark.parametrize("build", [Sequential, Padded])


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def one(logits: Tensor) -> Tensor:
    return F.one_hot(TARGET, logits.shape[1]).to(logits)


def value(logits: Tensor) -> Tensor:
    return one(logits) * logits.detach()


def others(logits: Tensor) -> Tensor:
    return (1 - one(logits)) * logits.detach()


def zennit(model: nn.Module, x: Tensor, composite, start=value) -> Tensor:
    with attribution.Gradient(model, composite) as attributor:
        return attributor(x.clone(), start)[1].detach()


def table(rule, first=None):
    """A composite with one rule for all affine layers, and another for the first of them."""
    rows = [(types.Activation, rules.Pass()), (types.AvgPool, rules.Norm(STABILIZER)), (types.Linear, rule)]
    if first is None:
        return composites.LayerMapComposite(rows)
    return composites.SpecialFirstLayerMapComposite(rows, [(types.Linear, first)])


def settled(name: str, **options):
    return getattr(composites, name)(epsilon=1e-10, stabilizer=STABILIZER, **options)


# Zennit takes 0 * 0 / stabilizer where ours has an exact zero: the same 0.
COMPOSITES = {
    "EpsilonPlus": ("lrp-cmp-alpha1", {}, lambda: settled("EpsilonPlus")),
    "EpsilonAlpha2Beta1": ("lrp-cmp-alpha2", {}, lambda: settled("EpsilonAlpha2Beta1")),
    "EpsilonPlusFlat": ("lrp-cmp-alpha1", {"first": "flat"}, lambda: settled("EpsilonPlusFlat")),
    "EpsilonAlpha2Beta1Flat": (
        "lrp-cmp-alpha2", {"first": "flat"}, lambda: settled("EpsilonAlpha2Beta1Flat"),
    ),
    "EpsilonAlpha2Beta1, larger epsilon": (
        "lrp-cmp-alpha2", {"epsilon": 0.25},
        lambda: composites.EpsilonAlpha2Beta1(epsilon=0.25, stabilizer=STABILIZER),
    ),
}  # fmt: skip


@BUILDS
@pytest.mark.parametrize("case", COMPOSITES.values(), ids=COMPOSITES)
def test_lrp_cmp_equals_zennits_composites(case, build) -> None:
    name, options, composite = case
    model, x = seeded(build), images()
    assert (
        relative_error(method(name, **options)(model, x, TARGET), zennit(model, x, composite())) < TOLERANCE
    )


PLAIN = {
    "alpha5-beta4": ("lrp-alpha5-beta4", {}, lambda: table(rules.AlphaBeta(5.0, 4.0, STABILIZER))),
    "alpha5-beta4 without bias": (
        "lrp-alpha5-beta4", {"bias": "none"},
        lambda: table(rules.AlphaBeta(5.0, 4.0, STABILIZER, zero_params="bias")),
    ),
    "alpha1.5-beta0.5": (
        "lrp-alpha1-beta0", {"alpha": 1.5, "beta": 0.5}, lambda: table(rules.AlphaBeta(1.5, 0.5, STABILIZER)),
    ),
    "w^2 before z+": (
        "lrp-zplus", {"first": "w-square"},
        lambda: table(
            rules.ZPlus(STABILIZER, zero_params="bias"), rules.WSquare(STABILIZER, zero_params="bias")
        ),
    ),
    "flat before z+": (
        "lrp-zplus", {"first": "flat"},
        lambda: table(rules.ZPlus(STABILIZER, zero_params="bias"), rules.Flat(STABILIZER)),
    ),
    "w^2 before epsilon": (
        "lrp-epsilon", {"first": "w-square"},
        lambda: table(rules.Epsilon(1e-6), rules.WSquare(STABILIZER, zero_params="bias")),
    ),
    "z^B before epsilon": (
        "lrp-epsilon", {"first": "z-box", "bounds": (-5.0, 5.0)},
        lambda: table(rules.Epsilon(1e-6), rules.ZBox(-5.0, 5.0, stabilizer=STABILIZER, zero_params="bias")),
    ),
}  # fmt: skip


@BUILDS
@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_rules_equal_zennit(case, build) -> None:
    name, options, composite = case
    model, x = seeded(build), images()
    assert (
        relative_error(method(name, **options)(model, x, TARGET), zennit(model, x, composite())) < TOLERANCE
    )


def test_zennits_w_square_counts_the_squared_bias_as_an_input() -> None:
    model, x = seeded(lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten())), images()
    theirs = zennit(model, x, table(rules.WSquare(STABILIZER)), one)
    squares = model[0].weight.square().sum()
    expected = method("lrp-zplus", first="w-square", seed="one")(model, x, TARGET)
    expected = expected * squares / (squares + model[0].bias.square())
    assert relative_error(expected, theirs) < TOLERANCE


def excitation():
    return composites.ExcitationBackprop(stabilizer=STABILIZER, zero_params="bias")


@BUILDS
def test_excitation_backprop_equals_zennit_without_bias(build) -> None:
    """Zennit's composite lets the positive bias absorb unless told not to; ours has no bias, as the paper.

    It leaves activations to autograd, whose mask at a ReLU only meets units that receive nothing.
    """
    model, x = seeded(build), images()
    ours = method("excitation-backprop")(model, x, TARGET)
    theirs = zennit(model, x, excitation(), one)
    assert relative_error(ours, theirs) < TOLERANCE
    with_bias = zennit(model, x, composites.ExcitationBackprop(stabilizer=STABILIZER), one)
    assert relative_error(ours, with_bias) > 0.01
    absorbing = method("lrp-alpha1-beta0", seed="one")(model, x, TARGET)
    assert relative_error(absorbing, with_bias) < TOLERANCE


@BUILDS
def test_contrastive_excitation_backprop_equals_the_difference_of_two_runs_of_zennit(build) -> None:
    model, x = seeded(build), images()
    negated = copy.deepcopy(model)
    with torch.no_grad():
        negated.classifier[-1].weight.neg_()
    theirs = zennit(model, x, excitation(), one) - zennit(negated, x, excitation(), one)
    ours = method("contrastive-excitation-backprop")(model, x, TARGET)
    assert relative_error(ours, theirs) < TOLERANCE


@BUILDS
@pytest.mark.parametrize("rest", ["logits", "magnitudes", "uniform"])
def test_contrastive_lrp_equals_the_difference_of_two_runs_of_zennit(build, rest: str) -> None:
    model, x = seeded(build), images()
    composite = table(rules.ZPlus(STABILIZER, zero_params="bias"))
    second_start = {
        "logits": others,
        "magnitudes": lambda logits: others(logits).abs(),
        "uniform": lambda logits: 1 - one(logits),
    }
    starts = (value, second_start[rest])
    first, second = (zennit(model, x, composite, start) for start in starts)
    theirs = first / first.sum((1, 2, 3), keepdim=True) - second / second.sum((1, 2, 3), keepdim=True)
    assert relative_error(method("contrastive-lrp", rest=rest)(model, x, TARGET), theirs) < TOLERANCE


def test_the_stabilizer_alone_explains_the_rest_of_the_difference() -> None:
    model, x = seeded(Padded), images()
    ours = method("lrp-cmp-alpha2", first="flat")(model, x, TARGET)
    errors = [
        relative_error(
            ours,
            zennit(model, x, composites.EpsilonAlpha2Beta1Flat(epsilon=1e-10, stabilizer=size)),
        )
        for size in (1e-6, 1e-8, 1e-10)
    ]
    assert errors[0] > 50 * errors[1] > 2500 * errors[2] > 0  # first order in the stabilizer


def captum_epsilon_plus(model: nn.Module, x: Tensor) -> Tensor:
    """Captum's LRP with Alpha1_Beta0 in convolutions and the epsilon rule in dense layers."""
    captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules", reason="needs captum (make peers)")
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.rule = lrp_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True)
        elif isinstance(module, nn.Linear):
            module.rule = lrp_rules.EpsilonRule(1e-10)
    return captum.LRP(model).attribute(x.clone().requires_grad_(), target=TARGET).detach()


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
def test_lrp_cmp_equals_captum_on_images_without_negative_values() -> None:
    """Captum keeps W+ x whole, negative x included, and starts with the logit."""
    model, x = seeded(Padded), images().abs()
    ours = method("lrp-cmp-alpha1", bias="none")(model, x, TARGET)
    assert relative_error(ours, captum_epsilon_plus(model, x)) < TOLERANCE
