"""One step of a manipulation against bare autograd's double backward on the same smoothed network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import subjects, timing
from veridical.attributions import saliency
from veridical.attributions.gradient import input_gradient
from veridical.smoothing import SmoothedModel

BETA = 2.0
ORDINARY, DEPTHWISE = 1.2, 1.0


def plain_network() -> nn.Module:
    """Ordinary 3x3 convolutions, ReLU and max pooling, as VGG-16 without its large linear layers."""

    def stage(before: int, after: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, padding=1), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ]  # fmt: skip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [*stage(3, 32), *stage(32, 64), *stage(64, 128), *stage(128, 256)]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()


def measure(rounds: int = 5) -> list[timing.Claim]:
    plain, network = plain_network(), subjects.efficientnet_lite()
    return [
        _claim("ReLU network of ordinary convolutions", plain, subjects.batch(2, 128), ORDINARY, rounds),
        _claim("EfficientNet-Lite0", network, subjects.batch(2), DEPTHWISE, rounds),
    ]


def _claim(name: str, model: nn.Module, x: Tensor, target: float, rounds: int) -> timing.Claim:
    smoothed = SmoothedModel(model, BETA).eval()
    goal = saliency(torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        logits = smoothed(x)
    classes = logits.argmax(1)
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: subjects.forward(model, x),
        "smoothed forward": lambda: subjects.forward(smoothed, x),
        "veridical": lambda: step(engine_gradient, smoothed, x, classes, goal),
        "autograd": lambda: step(bare_gradient, smoothed, x, classes, goal),
    }
    subject = f"manipulation step of the gradient, {name}, batch {len(x)}, {x.shape[-1]} pixels"
    return timing.claim(subject, runs, of="veridical", to="autograd", target=target, rounds=rounds)


GradientOf = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def step(gradient: GradientOf, model: nn.Module, x: Tensor, classes: Tensor, goal: Tensor) -> Tensor:
    """The derivative of the attack's loss: the distance of maps plus that of outputs, one forward pass."""
    image = x.clone().requires_grad_()
    relevance, logits = gradient(model, image, classes)
    loss = 1e6 * (saliency(relevance) - goal).square().mean() + 100 * logits.softmax(1).square().mean()
    return torch.autograd.grad(loss, image)[0]


def engine_gradient(model: nn.Module, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(model, image, classes)


def bare_gradient(model: nn.Module, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(image)
    chosen = logits.gather(1, classes[:, None]).sum()
    return torch.autograd.grad(chosen, image, create_graph=True)[0], logits
