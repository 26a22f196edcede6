"""Products with W and W^T: of any groups, each the other's derivative, in both precisions."""

import pytest
import torch
from torch import Tensor, nn

from veridical.rules import record
from veridical.rules.affine import Affine, affine_of

LAYERS = {
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (5, 4)),
    "grouped, strided and dilated": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 3), 2, (1, 2), groups=2), (6, 7)),
    "grouped, same": (lambda: nn.Conv2d(4, 8, (2, 4), padding="same", groups=4), (5, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (4, 4)),
    "depthwise, two of each": (lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=4), (6, 5)),
    "single places": (lambda: nn.Conv2d(4, 6, 1), (3, 4)),
    "single places, grouped": (lambda: nn.Conv2d(4, 6, 1, groups=2), (3, 4)),
    "single places, depthwise": (lambda: nn.Conv2d(4, 8, 1, groups=4), (3, 4)),
    "single places, grouped and strided": (lambda: nn.Conv2d(4, 6, 1, 2, groups=2), (5, 4)),
    "single places, grouped and padded": (lambda: nn.Conv2d(4, 6, 1, padding=1, groups=2), (3, 4)),
    "1d, grouped": (lambda: nn.Conv1d(4, 6, 3, 2, 1, groups=2), (7,)),
    "1d, single places, grouped": (lambda: nn.Conv1d(4, 6, 1, groups=2), (7,)),
    "3d, grouped": (lambda: nn.Conv3d(4, 2, 2, groups=2), (3, 3, 3)),
    "3d, single places, grouped": (lambda: nn.Conv3d(4, 2, 1, groups=2), (2, 3, 2)),
}


class Ending(nn.Module):
    """A layer of the image, folded to the layer's shape; its outputs are the logits."""

    def __init__(self, layer: nn.Module, size: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.size = layer, size

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.reshape(len(x), 4, *self.size)).flatten(1)
        return result


def at_work(name: str, dtype: torch.dtype) -> tuple[nn.Module, Affine, Tensor, Tensor]:
    """A layer, its map, an input (2, 4, ...) and starting vectors (3, 2, ...) of its output."""
    build, size = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = build().to(dtype)
    x = torch.randn(2, 4, *size, generator=generator, dtype=dtype)
    trace = record(Ending(layer, size).eval(), x.reshape(2, 4, 1, -1))
    affine = next(affine_of(one) for one in trace.operations if one.kind == "convolution")
    vectors = torch.randn(3, *layer(x).shape, generator=generator, dtype=dtype)
    return layer, affine, x, vectors


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_the_adjoint_is_the_gradient_of_the_layer(name: str, dtype: torch.dtype) -> None:
    layer, affine, x, vectors = at_work(name, dtype)
    x.requires_grad_()
    y = layer(x)
    expected = torch.stack([torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in vectors])
    torch.testing.assert_close(affine.adjoint(vectors, affine.weight), expected)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", LAYERS)
def test_a_map_through_a_layer_has_its_second_derivatives(name: str) -> None:
    """The gradient of a smooth function of the layer, as an attack differentiates it."""
    _, affine, x, _ = at_work(name, torch.float64)

    def explained(image: Tensor) -> Tensor:
        slope = affine.product(image, affine.weight).tanh()[None]
        return image[None] * affine.adjoint(slope, affine.weight)

    image = x[:1].requires_grad_()
    assert torch.autograd.gradcheck(explained, image, fast_mode=True)
    assert torch.autograd.gradgradcheck(explained, image, fast_mode=True)


def test_each_weight_of_the_shape_may_take_the_place_of_the_layers() -> None:
    _, affine, x, vectors = at_work("single places, grouped", torch.float64)
    positive = affine.weight.clamp(min=0)
    x.requires_grad_()
    (back,) = torch.autograd.grad(affine.product(x, positive), x, vectors[0])
    torch.testing.assert_close(affine.adjoint(vectors, positive)[0], back)
