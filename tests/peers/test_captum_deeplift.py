"""deeplift-rescale against Captum's DeepLift, and where the two part."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Residual, Sequential, images, seeded
from veridical.attributions import method

captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require:UserWarning"),
]

TARGET = torch.tensor([1, 2])
TOLERANCE = 1e-5


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def theirs(model: nn.Module, x: Tensor, reference: Tensor, target=TARGET) -> Tensor:
    attribution = captum.DeepLift(model).attribute(x.clone().requires_grad_(), reference, target=target)
    return attribution.detach()


class Stack(nn.Module):
    """Convolutions and linear layers with one kind of activation, and a pooling."""

    def __init__(self, activation, pooling: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), activation(), pooling, nn.Conv2d(4, 4, 2), activation(), nn.Flatten(),
            nn.LazyLinear(5), activation(), nn.Linear(5, 4),
        )  # fmt: skip
        with torch.no_grad():
            self.body(torch.zeros(1, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


AVERAGE = {
    "relu": nn.ReLU, "leaky": nn.LeakyReLU, "elu": nn.ELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}  # fmt: skip
BOTH_TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def references(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return images(2, seed=7, dtype=dtype), torch.zeros(2, 3, 8, 8, dtype=dtype)


@BOTH_TYPES
@pytest.mark.parametrize("activation", AVERAGE)
def test_rescale_equals_captum(activation: str, dtype: torch.dtype) -> None:
    model = seeded(lambda: Stack(AVERAGE[activation], nn.AvgPool2d(2)), dtype=dtype)
    x = images(dtype=dtype)
    for reference in references(dtype):
        ours = method("deeplift-rescale", reference=reference)(model, x, TARGET)
        assert relative_error(ours, theirs(model, x, reference)) < TOLERANCE


class PoolingAlone(nn.Module):
    """Max pooling between two convolutions."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), pooling, nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@BOTH_TYPES
@pytest.mark.parametrize("pooling", [nn.MaxPool2d(2), nn.MaxPool2d(2, 3)], ids=["2", "with gaps"])
def test_max_pooling_equals_captum_between_affine_layers(pooling, dtype: torch.dtype) -> None:
    model, x = seeded(lambda: PoolingAlone(pooling), dtype=dtype), images(dtype=dtype)
    reference = images(2, seed=7, dtype=dtype)
    ours = method("deeplift-rescale", reference=reference)(model, x, TARGET)
    assert relative_error(ours, theirs(model, x, reference)) < TOLERANCE


@BOTH_TYPES
@pytest.mark.parametrize("pooling", [nn.MaxPool2d(2), nn.MaxPool2d(2, 3)], ids=["2", "with gaps"])
def test_captum_loses_the_rule_of_a_max_pooling_next_to_an_activation(pooling, dtype: torch.dtype) -> None:
    """Both hook the tensor between them, and the earlier module's hook sees it before the rule is applied.

    So Captum is `max_pool="gradient"` behind an activation, and not complete.
    """
    for model in (seeded(Sequential, dtype=dtype), seeded(lambda: Stack(nn.ReLU, pooling), dtype=dtype)):
        x = images(dtype=dtype)
        for reference in references(dtype):
            gradient = method("deeplift-rescale", reference=reference, max_pool="gradient")(model, x, TARGET)
            assert relative_error(gradient, theirs(model, x, reference)) < TOLERANCE
        other = references(dtype)[0]
        expected = (model(x) - model(other)).gather(1, TARGET[:, None]).flatten()
        assert (theirs(model, x, other).sum((1, 2, 3)) - expected).abs().max() > 0.1 * expected.abs().max()


def test_captum_loses_contributions_where_the_windows_of_a_max_pooling_overlap() -> None:
    """It undoes the pooling with max_unpool, which keeps one window of those that share a winner."""
    model, x = seeded(lambda: PoolingAlone(nn.MaxPool2d(3, 1))), images()
    reference = images(2, seed=7)
    expected = (model(x) - model(reference)).gather(1, TARGET[:, None]).flatten()
    ours = method("deeplift-rescale", reference=reference)(model, x, TARGET).sum((1, 2, 3))
    torch.testing.assert_close(ours, expected)
    assert (theirs(model, x, reference).sum((1, 2, 3)) - expected).abs().max() > 1e-2 * expected.abs().max()


def test_captum_takes_the_gradient_at_functional_activations() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(192, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.relu(self.first(x.flatten(1))))

    model, x = seeded(Functional), images()
    reference = images(2, seed=7)
    expected = (model(x) - model(reference)).gather(1, TARGET[:, None]).flatten()
    ours = method("deeplift-rescale", reference=reference)(model, x, TARGET).sum((1, 2, 3))
    torch.testing.assert_close(ours, expected)
    assert (theirs(model, x, reference).sum((1, 2, 3)) - expected).abs().max() > 1e-2 * expected.abs().max()


def test_captum_refuses_a_reused_activation() -> None:
    model, x = seeded(Residual), images()
    ours = method("deeplift-rescale")(model, x, TARGET).sum((1, 2, 3))
    expected = (model(x) - model(torch.zeros_like(x))).gather(1, TARGET[:, None]).flatten()
    torch.testing.assert_close(ours, expected)
    with pytest.raises((RuntimeError, AssertionError)):
        theirs(model, x, torch.zeros_like(x))
