"""What the peers get wrong without a word, as measured on them; each of these is a test that ours does not.

Captum 0.9.0 and Zennit 0.5.1 look at modules. Functional calls, shared layers and `+` are invisible to them.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fitted import ready
from networks import NETWORKS, Shared, images, seeded
from veridical.attributions import method, methods
from veridical.rules import UnsupportedOperation, record

ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "gelu": F.gelu, "hardswish": F.hardswish}


class FunctionalNet(nn.Module):
    """Convolutions with a functional activation between them."""

    def __init__(self, activation) -> None:
        super().__init__()
        self.activation = activation
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.second(self.activation(self.first(x))))
        return self.head(x.mean((2, 3)))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_modified_gradients_differ_from_the_gradient_on_functional_activations(activation, name) -> None:
    model, x = seeded(lambda: FunctionalNet(ACTIVATIONS[activation])), images()
    gradient = method("gradient")(model, x, 0)
    assert relative_error(method(name)(model, x, 0), gradient) > 0.05


@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
def test_modified_gradients_are_refused_where_they_would_be_the_gradient(name) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(2, 3)))
    with pytest.raises(UnsupportedOperation, match="plain gradient"):
        method(name)(model, images(), 0)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
def test_captums_guided_backprop_is_the_gradient_on_functional_relu() -> None:
    """The peer's failure itself: should this test fail, the peer has mended it and the docs must say so."""
    captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    model, x = seeded(lambda: FunctionalNet(F.relu)), images()
    theirs = captum.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=0)
    assert torch.equal(theirs.detach(), method("gradient")(model, x, 0))


@pytest.mark.parametrize("name", methods())
def test_a_layer_used_twice_equals_its_unrolled_clone(name) -> None:
    shared = seeded(Shared)
    unrolled = seeded(lambda: Shared(unrolled=True))
    unrolled.load_state_dict(shared.state_dict())
    x = images()
    # with a percentile of 98 nothing is left of maps as small as these
    options = {"percentile": 60.0} if name == "rectgrad" else {}
    one, two = (ready(name, model, **options) for model in (shared, unrolled))
    assert torch.equal(shared(x), unrolled(x))
    assert relative_error(one(shared, x, 1), two(unrolled, x, 1)) < 1e-10


class PositiveResidual(nn.Module):
    """Bias-free, with positive weights throughout: all denominators of z+ are positive."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.stem, self.branch = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.head = nn.Linear(4, 3, bias=False)
        for parameter in self.parameters():
            parameter.data.abs_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        branch = self.branch(x)
        if self.form == "in place":
            branch += x
        else:
            branch = torch.add(branch, x) if self.form == "torch.add" else branch + x
        return self.head(F.relu(branch).mean((2, 3)))


@pytest.mark.parametrize("form", ["+", "in place", "torch.add"])
@pytest.mark.parametrize("name", ["lrp-zplus", "lrp-alpha1-beta0", "lrp-z", "deep-taylor"])
def test_relevance_sums_to_its_start_at_a_residual_addition(form, name) -> None:
    """Zennit's EpsilonPlus hands the whole relevance to both addends, and its sum is 2."""
    model, x = seeded(lambda: PositiveResidual(form)), images().abs()
    for parameter in model.parameters():
        parameter.data.abs_()
    relevance = method(name, seed="one")(model, x, 0)
    torch.testing.assert_close(
        relevance.sum((1, 2, 3)), torch.ones(len(x), dtype=x.dtype), rtol=1e-10, atol=0
    )


@pytest.mark.peer
def test_zennits_relevance_doubles_at_a_functional_addition() -> None:
    pytest.importorskip("torchvision", reason="needs torchvision, which Zennit imports (make peers)")
    attribution = pytest.importorskip("zennit.attribution", reason="needs zennit (make peers)")
    composites = pytest.importorskip("zennit.composites", reason="needs zennit (make peers)")
    model, x = seeded(lambda: PositiveResidual("+")), images().abs()
    for parameter in model.parameters():
        parameter.data.abs_()
    with attribution.Gradient(model, composites.EpsilonPlus()) as attributor:
        _, theirs = attributor(x, torch.eye(3, dtype=x.dtype)[[0, 0]])
    assert theirs.sum((1, 2, 3)).min() > 1.5


@pytest.mark.parametrize("activation", [F.softplus, F.silu, torch.tanh], ids=["softplus", "silu", "tanh"])
@pytest.mark.parametrize("name", ["gradient-x-input", "integrated-gradients", "gradient", "smoothgrad"])
def test_relevance_is_exactly_differentiable(activation, name) -> None:
    model = seeded(lambda: FunctionalNet(activation))
    options = (
        {"steps": 6} if name == "integrated-gradients" else {"samples": 3} if name == "smoothgrad" else {}
    )
    explainer = method(name, **options)
    generator = torch.Generator().manual_seed(3)
    weights, direction = (
        torch.randn(images(1).shape, generator=generator, dtype=torch.float64) for _ in "ab"
    )

    def score(point: Tensor) -> Tensor:
        return (explainer(model, point, 0) * weights).sum()

    x = images(1).requires_grad_()
    (derivative,) = torch.autograd.grad(score(x), x)
    step = 1e-5
    slope = (score(images(1) + step * direction) - score(images(1) - step * direction)) / (2 * step)
    torch.testing.assert_close((derivative * direction).sum(), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["lrp-zplus", "lrp-alpha2-beta1", "lrp-epsilon", "guided-backprop", "deep-taylor"]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_modified_relevance_is_exactly_differentiable_at_any_moment(network, name) -> None:
    """In the best peer a derivative that is taken while its hooks are on is wrong without a word."""
    model, explainer = NETWORKS[network](), method(name)
    generator = torch.Generator().manual_seed(3)
    weights, direction = (
        torch.randn(images(1).shape, generator=generator, dtype=torch.float64) for _ in "ab"
    )

    def score(point: Tensor) -> Tensor:
        return (explainer(model, point, 0) * weights).sum()

    x = images(1).requires_grad_()
    (derivative,) = torch.autograd.grad(score(x), x)
    step = 1e-6
    slope = (score(images(1) + step * direction) - score(images(1) - step * direction)) / (2 * step)
    torch.testing.assert_close((derivative * direction).sum(), slope, rtol=1e-5, atol=1e-6)


class Spectral(nn.Module):
    """An operation that no rule knows, in a named submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.mixer = nn.Module()
        self.mixer.forward = lambda x: torch.cumsum(x, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixer(F.relu(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet", "lrp-z", "lrp-zplus", "deep-taylor"])
def test_an_operation_without_a_rule_is_an_error_that_names_it(name) -> None:
    model = seeded(Spectral)
    with pytest.raises(UnsupportedOperation, match=r"cumsum .*called from .*overrides"):
        method(name)(model, images(), 0)
    assert "cumsum" in {operation.base for operation in record(model, images()).operations}
