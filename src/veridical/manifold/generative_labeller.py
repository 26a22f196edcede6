"""The network that gives images of a manifold their labels, trained on reconstructions of labeled images."""

import torch
from torch import Tensor, nn

from veridical.manifold.fitting_store import encode
from veridical.manifold.models import ManifoldModel

_BLOCKS = ((64, 128, 128, 128), (128, 128, 256), (256, 256), (512,))
_DROP = 0.1


class Bordt2023Labeller(nn.Module):
    """The convolutional network that labels MNIST32: images (N, channels, 32, 32) to logits (N, classes).

    Ten convolutions of 3 x 3 in four blocks with pooling, two of 1 x 1, one more of 3 x 3 and a linear
    layer, with batch normalization and dropout; the SimpleNet of Hasanpour et al. 2016.

    Source: Bordt et al. 2023, published code.

    Args:
        seed: of the initial weights: Glorot's uniform distribution with the gain of relu, zero biases.
        channels: of the images.
        classes: of the labels.
    """

    def __init__(self, seed: int = 0, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.features = nn.Sequential(*_layers(channels))
            self.last = nn.Linear(256, classes)
        source = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                gain = nn.init.calculate_gain("relu") if isinstance(layer, nn.Conv2d) else 1.0
                nn.init.xavier_uniform_(layer.weight, gain, generator=source)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        found: Tensor = self.last(self.features(images))
        return found


def reconstructions(model: ManifoldModel, images: Tensor, batch: int = 128) -> Tensor:
    """Images decoded from their own latents, (N, C, H, W), on the CPU: what a labeling network is trained on.

    Source: Bordt et al. 2023, section 3.4; the paper names latents and images as the network's input, the
    published code gives it images only.

    Args:
        model: see `FittedManifold.model`; `load_tcvae` gives the published one.
        images: (N, C, H, W), uint8 or float in [0, 1].
        batch: images at once.
    """
    with torch.no_grad():
        return torch.cat([model.decoder(encode(model, part)).cpu() for part in images.split(batch)])


def _layers(channels: int) -> list[nn.Module]:
    found: list[nn.Module] = []
    before = channels
    for block in _BLOCKS:
        for after in block:
            found += _convolution(before, after, 3)
            before = after
        found += [nn.MaxPool2d(2), nn.Dropout2d(_DROP)]
    found += [
        *_convolution(before, 2048, 1),
        *_convolution(2048, 256, 1),
        nn.MaxPool2d(2),
        nn.Dropout2d(_DROP),
    ]
    return [*found, *_convolution(256, 256, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(_DROP)]


def _convolution(before: int, after: int, size: int) -> list[nn.Module]:
    layer = nn.Conv2d(before, after, size, padding=size // 2)
    return [layer, nn.BatchNorm2d(after, momentum=0.05), nn.ReLU()]
