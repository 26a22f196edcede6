"""Models of a manifold that are made for given images: variational and plain autoencoders."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import check_choice
from veridical.manifold.networks import TCVAE, halvings

Architecture = Literal["vae", "convolutional", "residual"]
"""`"vae"`: Burgess et al. 2018, square images. `"convolutional"`: three strided convolutions and a map of
features. `"residual"`: that of the medical sets of Bordt et al. 2023, whose latent is such a map too."""

PLACES = 8
RESIDUAL_FEATURES = 8


class ConvolutionalAutoencoder(nn.Module):
    """Three strided convolutions each way, between them `features` numbers at each of H/8 x W/8 places.

    k = features * H/8 * W/8: 9 features make the 144 of CIFAR-10. Images are in (0, 1), by a sigmoid.

    Source: Bordt et al. 2023 print k = 144 for CIFAR-10 and nothing else; layers and widths are our choice.

    Args:
        channels: of the images.
        features: at each place of the latent.
        width: channels after the first convolution; twice and four times as many after the others.
    """

    def __init__(self, channels: int, features: int, width: int = 32) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        down: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[2], features, 3, padding=1))
        up: list[nn.Module] = [nn.Conv2d(features, widths[2], 3, padding=1)]
        for before, after in zip(widths[::-1], (*widths[1::-1], channels), strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())

    def encode(self, images: Tensor) -> Tensor:
        """Latents (N, features, H/8, W/8)."""
        found: Tensor = self.encoder(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions."""
        found: Tensor = self.decoder(self.encode(images))
        return found


class ResidualBlock(nn.Module):
    """x + convolution 1x1 (relu (convolution 3x3 (relu (x)))), 8 to 32 to 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(RESIDUAL_FEATURES, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, RESIDUAL_FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        found: Tensor = x + self.conv2(self.conv1(x.relu()).relu())
        return found


class ResidualAutoencoder(nn.Module):
    """The autoencoder of the medical sets: k = 8 * H/8 * W/8 latent values that are not negative.

    Encoder: three strided convolutions to 4, 4 and 8 channels, a convolution, four residual blocks and relu.
    Decoder: the same backwards, without an activation at its end, so that images may leave [0, 1].

    Source: Bordt et al. 2023, published code ("stride 8"); 7,168 latent values for 3 x 256 x 224.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        down: list[nn.Module] = []
        for before, after in ((channels, 4), (4, 4), (4, 8)):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, *_residual_part(), nn.ReLU())
        self.decoder = nn.Sequential(
            *_residual_part(),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, channels, 4, stride=2, padding=1),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Latents (N, 8, H/8, W/8)."""
        found: Tensor = self.encoder(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions."""
        found: Tensor = self.decoder(self.encode(images))
        return found


ManifoldModel = TCVAE | ConvolutionalAutoencoder | ResidualAutoencoder
"""A module with `encode`, images (N, C, H, W) to latents (N, ...) without chance, and `decoder`, back."""


@dataclass(frozen=True)
class ModelSettings:
    """Which model, for which images.

    Attributes:
        architecture: see `Architecture`.
        latents: k; None for the residual one, where it follows from the size of the images.
        channels: of the images, 1 or 3.
        height: of the images.
        width: of the images.
    """

    architecture: Architecture
    latents: int | None
    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check that there is such a model.

        Raises:
            ValueError: if sizes do not fit the architecture or k >= d.
        """
        check_choice("architecture", self.architecture, get_args(Architecture))
        if self.channels not in (1, 3):
            raise ValueError(f"expected images of 1 or 3 channels, got {self.channels}; convert them")
        if self.architecture != "vae" and (self.height % PLACES or self.width % PLACES):
            raise ValueError(
                f"expected images whose sides are multiples of {PLACES}, got {self.height} x {self.width}; "
                "resize them"
            )
        if self.architecture == "vae" and self.height != self.width:
            raise ValueError(
                f"expected square images, got {self.height} x {self.width}; resize them, or take an "
                "architecture without linear layers: convolutional or residual"
            )
        if self.architecture == "vae":
            halvings(self.height)
        self._check_latents()

    def _check_latents(self) -> None:
        if self.architecture == "residual":
            if self.latents not in (None, RESIDUAL_FEATURES * self.places):
                raise ValueError(
                    f"expected {RESIDUAL_FEATURES * self.places} latent values, which the residual "
                    f"architecture has for {self.height} x {self.width} pixels, got {self.latents}; leave "
                    "latents out"
                )
        elif self.latents is None or self.latents < 1:
            raise ValueError(f"expected latents of at least 1, got {self.latents}; MNIST32 has 10")
        elif self.architecture == "convolutional" and self.latents % self.places:
            raise ValueError(
                f"expected a multiple of {self.places} latent values, one or more for each place of "
                f"{self.height // PLACES} x {self.width // PLACES}, got {self.latents}; choose one"
            )
        if self.k >= self.dimension:
            raise ValueError(
                f"expected fewer latent values than the {self.dimension} values of an image, got "
                f"k = {self.k}; where k >= d every direction is tangent: take a narrower bottleneck"
            )

    @property
    def places(self) -> int:
        """Of the latent's map, H/8 x W/8."""
        return (self.height // PLACES) * (self.width // PLACES)

    @property
    def k(self) -> int:
        """How many values the latent has."""
        return self.latents if self.latents is not None else RESIDUAL_FEATURES * self.places

    @property
    def dimension(self) -> int:
        """How many values an image has: d."""
        return self.channels * self.height * self.width

    def build(self, seed: int = 0) -> ManifoldModel:
        """The model with initial weights; the global random state is as before."""
        with torch.random.fork_rng(devices=[]):
            network = self._built()
        _initialize(network, torch.Generator().manual_seed(seed))
        return network

    def _built(self) -> ManifoldModel:
        if self.architecture == "vae":
            return TCVAE(self.k, self.channels, self.height)
        if self.architecture == "residual":
            return ResidualAutoencoder(self.channels)
        return ConvolutionalAutoencoder(self.channels, self.k // self.places)


def _residual_part() -> list[nn.Module]:
    return [nn.Conv2d(8, 8, 3, padding=1), *(ResidualBlock() for _ in range(4))]


def _initialize(network: nn.Module, source: torch.Generator) -> None:
    """Uniform weights by He et al. 2015 for relu, torch's usual uniform biases, all from one generator."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=source)
            bound = 1 / math.sqrt(layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=source)
