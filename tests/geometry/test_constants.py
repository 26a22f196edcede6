"""The constant of theorem 1: norms of layers against dense matrices, bounds against dense Hessians."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from networks import Attention, Concatenating, Gated, Mobile, Residual, Sequential, images, seeded
from surfaces import dense, perceptron
from veridical.geometry import weight_constant
from veridical.smoothing import SmoothedModel

CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 4, 3),
    "padded": nn.Conv2d(3, 4, 3, padding=1),
    "strided": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "grouped": nn.Conv2d(3, 6, 3, groups=3, padding=2),
    "same": nn.Conv2d(3, 2, (2, 4), padding="same"),
}


class After(nn.Module):
    """A layer, an activation, a linear head."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.layer = layer
        with torch.no_grad():
            self.head = nn.Linear(layer(images(1, size, dtype=torch.float32)).numel(), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.layer(x)).flatten(1))


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_norm_of_a_convolution_is_that_of_its_matrix(name: str) -> None:
    layer, x = CONVOLUTIONS[name], images(1, 5)
    model = seeded(lambda: After(layer, 5))
    matrix = jacobian(layer, x)
    found = weight_constant(model, x, 0, beta=1.0).norms["layer"]
    assert found == pytest.approx(float(matrix.norm()), rel=1e-12)


def test_batch_normalization_is_folded_into_the_layer_before_it() -> None:
    model, x = seeded(Residual), images(1, 8)
    found = weight_constant(model, x, 0, beta=1.0)
    padded = F.pad(x, (0, 1, 0, 1))  # an operation of its own
    matrix = jacobian(lambda image: model.norm(model.stem(image)), padded)
    assert found.norms["stem + norm"] == pytest.approx(float(matrix.norm()), rel=1e-12)
    assert "stem" not in found.norms and "alone" not in found.norms


def test_a_chain_of_layers_has_the_constant_of_the_paper() -> None:
    model = perceptron(0, (12, 6, 5, 3), None)
    norms = [float(layer.weight.detach().norm()) for layer in model if isinstance(layer, nn.Linear)]
    norms[-1] = float(model[-1].weight[1].detach().norm())
    # L = 2 layers with softplus and a linear last one, which drops the term m = 3.
    expected = sum(
        math.prod(norms[index] for index in range(m, 3)) * math.prod(norms[index] ** 2 for index in range(m))
        for m in (1, 2)
    )
    found = weight_constant(model, images(2, 2), 1, beta=7.0)
    assert found.constant.tolist() == pytest.approx([expected] * 2, rel=1e-12)
    assert found.hessian.tolist() == pytest.approx([7 * expected] * 2)
    tight = weight_constant(model, images(2, 2), 1, beta=7.0, factor="tight")
    assert tight.constant.tolist() == pytest.approx([expected / 4] * 2)


def test_softplus_after_the_last_layer_adds_the_term_of_the_paper() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Softplus(2.0)).double().eval()
    norm = float(model[1].weight.detach().norm())
    found = weight_constant(model, images(1, 2), 0)
    assert found.constant.item() == pytest.approx(norm**2) and found.beta == 2.0


@pytest.mark.parametrize("build", [Residual, Mobile, Concatenating])
def test_networks_with_residual_sums_and_concatenations_are_bounded(build: type[nn.Module]) -> None:
    model, x = seeded(build, 12), images(1, 6)
    for beta in (0.5, 20.0):
        found = weight_constant(model, x, 1, beta=beta, factor="tight")
        gradient, matrix, _ = dense(SmoothedModel(model, beta), x, 1)
        assert 0 < gradient.norm() <= found.gradient.item()
        assert 0 < matrix.norm() <= found.hessian.item()


def test_a_linear_network_with_two_uses_of_a_tensor_is_counted_twice() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.linear(x.flatten(1)))
            return torch.cat([y, y], 1) * 2 + torch.cat([y + y, y / 2], 1)

    model, x = seeded(Doubled), images(1, 2)
    found = weight_constant(model, x, 0, beta=3.0)
    gradient, matrix, _ = dense(SmoothedModel(model, 3.0), x, 0)
    assert gradient.norm() <= found.gradient.item() and matrix.norm() <= found.hessian.item()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Sequential, "another value becomes the largest"),
        (Gated, "slope of at most 1"),
        (Attention, r"divides by statistics|depend on the size|slope"),
    ],
)
def test_what_weights_do_not_bound_is_refused_with_the_reason(build: type[nn.Module], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        weight_constant(seeded(build, 29), images(1, 8), 0, beta=1.0)


def test_bad_arguments_are_refused() -> None:
    model, x = perceptron(0, (12, 6, 3), None), images(1, 2)
    with pytest.raises(ValueError, match="infinite for ReLU"):
        weight_constant(model, x, 0)
    with pytest.raises(ValueError, match="factor to be one of paper, tight"):
        weight_constant(model, x, 0, beta=1.0, factor="half")
    with pytest.raises(ValueError, match="positive, finite beta"):
        weight_constant(model, x, 0, beta=0.0)
    with pytest.raises(ValueError, match=r"target in 0\.\.2"):
        weight_constant(model, x, 5, beta=1.0)
    with pytest.raises(ValueError, match="its logits are affine"):
        weight_constant(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().eval(), x, 0)
