"""The rules against closed forms, and the engine's promises."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fitted import ready
from networks import NETWORKS, Residual, Sequential, Shared, images, seeded
from veridical.attributions import method, methods, rule_coverage
from veridical.rules import UnsupportedOperation, class_start, propagate, record
from veridical.smoothing import beta_smooth

RULED = [name for name in methods() if getattr(method(name), "rules", None) is not None]


def test_the_ruled_methods_are_the_ones_that_layerwise_tests_need() -> None:
    unruled = {"gradient-x-input", "integrated-gradients", "smoothgrad", "grad-cam", "guided-grad-cam"}
    assert set(methods()) - set(RULED) == unruled


class Neuron(nn.Module):
    """W = (1, -1), b = -1, behind a view: the published example of the alpha-beta rule with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1).double()
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, -1.0]]))
            self.linear.bias.fill_(-1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lrp-alpha1-beta0", {}, (-1.0, 0.0)),
        ("lrp-alpha2-beta1", {}, (-2.0, 0.5)),
        ("lrp-zplus", {}, (-1.0, 0.0)),
        ("lrp-alpha1-beta0", {"bias": "whole"}, (0.0, 0.0)),  # 1 - 1 = 0: an exact zero hands on nothing
        ("lrp-alpha2-beta1", {"bias": "whole"}, (0.0, 0.5)),
        ("lrp-z", {}, (1.0, -1.0)),
        ("gradient", {}, (1.0, -1.0)),
    ],
)
def test_one_neuron_by_hand(name: str, options: dict, expected: tuple[float, float]) -> None:
    x = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    result = method(name, **options)(Neuron().eval(), x, 0)
    torch.testing.assert_close(result.flatten(), torch.tensor(expected, dtype=torch.float64))


def test_z_box_by_hand() -> None:
    x = torch.tensor([0.5, 0.25], dtype=torch.float64).view(1, 2, 1, 1)
    result = method("deep-taylor", bounds=(-1.0, 2.0), seed="one")(Neuron().eval(), x, 0)
    # z = W x - W+ low - W- high = 0.25 + 1 + 2; shares (x - low) W+ and (x - high) W-
    expected = torch.tensor([1.5, (0.25 - 2) * -1.0], dtype=torch.float64) / 3.25
    torch.testing.assert_close(result.flatten(), expected)


def test_the_bounds_of_z_box_follow_a_negative_factor_and_parts_of_the_image() -> None:
    class Inverted(Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.cat([part * -1.0 for part in x.chunk(3, 1)], 1))

    plain, inverted, x = seeded(Sequential), seeded(Inverted), images()
    for bounds in (None, (-5.0, 4.0)):
        explainer = method("deep-taylor", bounds=bounds)
        mirrored = method("deep-taylor", bounds=bounds and (-bounds[1], -bounds[0]))
        torch.testing.assert_close(explainer(inverted, x, 0), mirrored(plain, -x, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lrp_z_is_gradient_times_input_on_relu_networks(dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for build in (Sequential, Residual, Shared):
        model, x = seeded(build, dtype=dtype), images(4, dtype=dtype)
        z, product = method("lrp-z")(model, x, 1), method("gradient-x-input")(model, x, 1)
        assert ((z - product).norm() / product.norm()).item() <= tolerance


def test_lrp_z_does_not_care_how_batch_norm_is_treated() -> None:
    model, x = seeded(Residual), images()
    folded, alone = method("lrp-z"), method("lrp-z", fold_batch_norm=False)
    torch.testing.assert_close(folded(model, x, 1), alone(model, x, 1))


def test_folding_equals_a_network_that_was_folded_by_hand() -> None:
    model, x = seeded(Residual), images()
    folded = seeded(Residual)
    scale = model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)
    folded.stem = nn.Conv2d(3, 4, 3, stride=2).double()
    with torch.no_grad():
        folded.stem.weight.copy_(model.stem.weight * scale[:, None, None, None])
        folded.stem.bias.copy_(model.norm.bias - model.norm.running_mean * scale)
    folded.norm = nn.Identity()
    folded.eval()
    for name in ("lrp-zplus", "lrp-alpha2-beta1", "lrp-epsilon", "deep-taylor"):
        torch.testing.assert_close(method(name)(model, x, 1), method(name)(folded, x, 1))
    alone = method("lrp-alpha2-beta1", fold_batch_norm=False)
    assert not torch.allclose(alone(model, x, 1), method("lrp-alpha2-beta1")(folded, x, 1))


class Positive(nn.Module):
    """Residual, pooled, strided; positive weights and inputs keep every denominator positive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.again = nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.head = nn.Linear(4, 3, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, 0.1, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = x + F.relu(self.again(x))
        x = F.max_pool2d(x, 2)
        return self.head(F.avg_pool2d(x, 2).sum((2, 3)))


@pytest.mark.parametrize("name", ["lrp-zplus", "lrp-alpha1-beta0", "lrp-z", "deep-taylor"])
def test_relevance_is_conserved_at_every_layer(name: str) -> None:
    model, x = seeded(Positive), images().abs()
    trace, rules = record(model, x), method(name).rules
    start = torch.rand(3, *trace.logits.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    result = propagate(trace, rules, start, keep="all")
    total = start.flatten(2).sum(2)
    torch.testing.assert_close(result.inputs.flatten(2).sum(2), total)
    for layer in ("conv", ":add", ":max_pool2d", "head"):
        torch.testing.assert_close(result.layers[layer].flatten(2).sum(2), total)


def test_zplus_is_conserved_wherever_its_denominators_are_positive() -> None:
    model, x = seeded(lambda: Sequential(bias=False)), images(16)
    relevance = method("lrp-zplus", seed="one")(model, x, 1).sum((1, 2, 3))
    absorbed = ~torch.isclose(relevance, torch.ones_like(relevance))
    assert absorbed.sum() < 16
    torch.testing.assert_close(relevance[absorbed], torch.zeros_like(relevance[absorbed]))


@pytest.mark.parametrize("name", RULED)
@pytest.mark.parametrize("network", NETWORKS)
def test_several_starting_vectors_equal_one_at_a_time(name: str, network: str) -> None:
    model = NETWORKS[network]()
    trace, rules = record(model, images()), ready(name, model).rules
    start = torch.randn(
        4, *trace.logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    together = propagate(trace, rules, start, keep="all")
    for i in range(4):
        alone = propagate(trace, rules, start[i : i + 1], keep="all")
        torch.testing.assert_close(together.inputs[i : i + 1], alone.inputs)
        assert together.layers.keys() == alone.layers.keys()


def test_relevance_can_start_at_any_layer() -> None:
    trace, rules = record(seeded(Residual), images()), method("lrp-zplus").rules
    whole = propagate(trace, rules, class_start(trace, torch.tensor([1, 1]), "value"), keep="all")
    for name, relevance in whole.layers.items():
        if name in ("stem", ":view", ":adaptive_avg_pool2d", "alone", "relu#2", ":add"):
            if name == "stem":
                continue  # folded into the normalization after it
            part = propagate(trace, rules, relevance, at=name)
            torch.testing.assert_close(part.inputs, whole.inputs)


def test_what_the_start_does_not_reach_is_absent() -> None:
    trace, rules = record(seeded(Residual), images()), method("gradient").rules
    result = propagate(
        trace, rules, torch.ones(1, *trace.operation("norm").output.shape).double(), at="norm", keep="all"
    )
    assert set(result.layers) == {":pad", "stem", "norm"}


@pytest.mark.parametrize("name", RULED)
def test_shared_layers_equal_their_unrolled_clone(name: str) -> None:
    shared = seeded(Shared)
    unrolled = Shared(unrolled=True).double().eval()
    unrolled.load_state_dict(shared.state_dict() | {
        f"{layer}_again.{part}": getattr(getattr(shared, layer), part).detach()
        for layer in ("conv", "linear") for part in ("weight", "bias")
    })  # fmt: skip
    x = images()
    assert torch.equal(shared(x), unrolled(x))
    one, two = ready(name, shared), ready(name, unrolled)
    torch.testing.assert_close(one(shared, x, 1), two(unrolled, x, 1), rtol=0, atol=0)


class Periodic(nn.Module):
    """A sine, which no method but the gradient has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(self.block(x)).mean([2, 3]))


def test_an_operation_without_a_rule_is_an_error_with_the_way_out() -> None:
    model, x = seeded(Periodic), images()
    for name in ("lrp-zplus", "guided-backprop"):
        with pytest.raises(
            UnsupportedOperation, match="sin .called from the model itself.*overrides"
        ) as caught:
            method(name)(model, x)
        assert '(("sin", "gradient"),)' in str(caught.value)
    assert method("guided-backprop", overrides=(("sin", "gradient"),))(model, x).shape == x.shape
    assert method("lrp-zplus", overrides=(("sin", "pass"),))(model, x).shape == x.shape
    method("gradient")(model, x)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def test_a_modified_method_that_modifies_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="the plain gradient"):
        method("guided-backprop")(seeded(Linear), images())


def test_coverage_says_beforehand_what_a_rule_touches() -> None:
    rows = {
        row.name: row.treatment
        for row in rule_coverage(seeded(Residual), images(), method("guided-backprop"))
    }
    assert {name for name, treatment in rows.items() if treatment == "modified"} == {
        "relu",
        ":relu",
        "relu#2",
    }
    rows = {row.name: row.treatment for row in rule_coverage(seeded(Periodic), images(), method("lrp-z"))}
    assert rows[":sin"] == "no rule"
    with pytest.raises(ValueError, match="with propagation rules"):
        rule_coverage(seeded(Linear), images(), method("smoothgrad"))


def test_wrong_starts_are_named() -> None:
    trace, rules = record(seeded(Residual), images()), method("gradient").rules
    with pytest.raises(ValueError, match=r"\(S, 2, 4\), got \(2, 4\)"):
        propagate(trace, rules, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="got 'nowhere'; known: :pad, stem"):
        propagate(trace, rules, torch.zeros(1, 2, 4), at="nowhere")
    with pytest.raises(ValueError, match="got 'nowhere'"):
        propagate(trace, rules, torch.zeros(1, 2, 4).double(), keep=["nowhere"])


def test_batch_norm_on_batch_statistics_is_refused() -> None:
    class OwnStatistics(Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.batch_norm(x, None, None, training=True))

    with pytest.raises(ValueError, match="stored statistics"):
        method("lrp-z")(seeded(OwnStatistics), images())


def test_residual_relevance_can_be_clipped_as_sixts_code_does() -> None:
    model, x = seeded(Residual), images()
    plain = method("lrp-alpha2-beta1")
    clipped = method("lrp-alpha2-beta1", clip_sums=True)
    trace, start = record(model, x), None
    start = class_start(trace, torch.tensor([0, 1]), "value")
    low = propagate(trace, clipped.rules, start, keep=["second"]).layers["second"]
    assert (low >= 0).all()
    assert (propagate(trace, plain.rules, start, keep=["second"]).layers["second"] < 0).any()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("padding", "dilation", "groups", "kernel"), [(0, 1, 1, 3), (2, 2, 1, 3), (1, 1, 2, 4)]
)
def test_the_transposed_convolution_is_the_convolutions_gradient(
    stride, padding, dilation, groups, kernel
) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(1)

    model = seeded(One)
    x = torch.randn(2, 4, 11, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trace = record(model, x)
    start = torch.randn(2, *trace.logits.shape, dtype=torch.float64)
    result = propagate(trace, method("gradient").rules, start).inputs
    for i in range(2):
        image = x.clone().requires_grad_()
        torch.testing.assert_close(result[i], torch.autograd.grad(model(image), image, start[i])[0])


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("module", [nn.Conv1d(2, 3, 2, padding="same"), nn.Conv3d(2, 3, 2, padding="same")])
def test_other_dimensions_and_uneven_same_padding(module: nn.Module) -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = module

        def forward(self, x: Tensor) -> Tensor:
            shape = (len(x), 2, 64) if isinstance(module, nn.Conv1d) else (len(x), 2, 4, 4, 4)
            return self.conv(x.reshape(shape)).flatten(1)

    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    relevance = method("lrp-z")(Reshaped().eval(), x, 5)
    torch.testing.assert_close(relevance, method("gradient-x-input")(Reshaped().eval(), x, 5))


class AlmostDead(nn.Module):
    """Units far below zero: softplus leaves numbers near the smallest of single precision of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight.abs_().mul_(0.1)
            self.first.bias.fill_(-0.9)
            self.second.bias.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean([2, 3]))


def test_denominators_without_precision_hand_on_nothing() -> None:
    """Their quotient overflowed: NaN on a ResNet-20 with softplus of beta 30 to 300."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AlmostDead().eval()
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for beta in (50.0, 90.0, 100.0, 110.0, 300.0):
        assert bool(beta_smooth(method("lrp-zplus"), beta)(model, x, 1).isfinite().all())
