"""What the numbers mean that a network returns."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import find_logits
from veridical.models.preprocessing import Preprocessing

Output = Literal["classes", "binary", "labels"]
"""One logit a class (softmax), one logit for two classes (sigmoid), or one logit for each of several labels
that exclude one another not (sigmoid of each)."""

OUTPUTS = get_args(Output)

_HALVES = (-0.5, 0.5)


class TwoLogits(nn.Module):
    """A classifier of one logit z as one of two: (-z / 2, z / 2).

    Their softmax is (1 - sigmoid(z), sigmoid(z)), so that probabilities stay; both classes have a map, and
    the gradients of the two are each other's negative. Where `network` ends in one linear layer it is given
    two outputs instead, see `as_two_logits`.

    Args:
        network: maps images to z, (N,) or (N, 1), or to something that holds it.
    """

    def __init__(self, network: nn.Module) -> None:
        """Wrap the network."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The two logits (N, 2)."""
        found = find_logits(self.network(images))
        if not isinstance(found, Tensor):
            raise TypeError(f"expected one logit an image as a tensor, got {type(found).__name__}; return it")
        z = found.reshape(len(images), 1)
        return torch.cat([z * -0.5, z * 0.5], dim=1)


def as_two_logits(module: nn.Module, images: Tensor) -> nn.Module:
    """A classifier of one logit with two, whatever the sign of its evidence.

    The last layer's weights w become the rows -w / 2 and w / 2: methods that treat positive and negative
    contributions differently then find, for either class, what speaks for that class. Where the network does
    not end in the only linear layer with one output, `TwoLogits` halves and negates z instead, and such
    methods show for both classes what speaks for the second.

    Args:
        module: changed where its head can be; its weights are those of the caller otherwise.
        images: two images or more, to compare the result on.
    """
    heads = [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == 1 and name
    ]
    if len(heads) != 1:
        return TwoLogits(module)
    name, head = heads[0]
    with torch.no_grad():
        expected = TwoLogits(module)(images)
    module.set_submodule(name, _doubled(head))
    try:
        made = find_logits(_forward(module, images))
        fits = (
            isinstance(made, Tensor)
            and made.shape == expected.shape
            and torch.allclose(made, expected, atol=1e-5, rtol=1e-4)
        )
    except (RuntimeError, ValueError, TypeError):
        fits = False
    if fits:
        return module
    module.set_submodule(name, head)
    return TwoLogits(module)


def find_output(module: nn.Module, preprocessing: Preprocessing) -> tuple[Output, Tensor | None]:
    """Whether a network has one logit or several, by running it once, and the images that it ran on.

    A network that cannot run on images of the preprocessing's size is left alone: whatever uses it says why.
    """
    if any(nn.parameter.is_lazy(one) for one in module.parameters()):
        return "classes", None
    height, width = preprocessing.input_size or (224, 224)
    local = torch.Generator().manual_seed(0)
    images = torch.rand(2, preprocessing.channels, height, width, generator=local)
    images = preprocessing.normalize(images)
    first = next((one for one in module.parameters() if one.is_floating_point()), None)
    images = images if first is None else images.to(first)
    try:
        found = find_logits(_forward(module, images))
    except Exception:  # of the user's code, at a size that is only a guess
        return "classes", None
    single = isinstance(found, Tensor) and tuple(found.shape) in ((2,), (2, 1))
    return ("binary", images) if single else ("classes", None)


def _doubled(head: nn.Linear) -> nn.Linear:
    doubled = nn.Linear(head.in_features, 2, bias=head.bias is not None)
    doubled = doubled.to(head.weight)
    halves = torch.tensor(_HALVES).to(head.weight)
    with torch.no_grad():
        doubled.weight.copy_(halves[:, None] * head.weight)
        if head.bias is not None:
            doubled.bias.copy_(halves * head.bias)
    doubled.requires_grad_(head.weight.requires_grad)
    return doubled.train(head.training)


def _forward(module: nn.Module, images: Tensor) -> object:
    with torch.no_grad():
        return module(images)
