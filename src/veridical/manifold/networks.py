"""The beta-TCVAE from whose decoder MNIST32 is drawn, and decoders of resized images."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TCVAEEncoder(nn.Module):
    """Strided convolutions down to 4 x 4 and three linear layers: images to a normal distribution.

    Three convolutions for the 32 x 32 pixels of the published weights, whose layers have these names.
    """

    def __init__(self, latents: int = 10, channels: int = 1, side: int = 32) -> None:
        super().__init__()
        self.side = side
        self.count = halvings(side)
        for number in range(1, self.count + 1):
            before = channels if number == 1 else 32
            self.add_module(f"conv{number}", nn.Conv2d(before, 32, 4, stride=2, padding=1))
        self.lin1 = nn.Linear(512, 256)
        self.lin2 = nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 2 * latents)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each latent value, both (N, k).

        The last layer gives them interleaved: mean and logarithm of the first value, then of the second.

        Raises:
            ValueError: if the images have another size.
        """
        if images.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"expected images of {self.side} x {self.side} pixels, got {tuple(images.shape)}; resize them"
            )
        x = images
        for number in range(1, self.count + 1):
            x = F.relu(self.get_submodule(f"conv{number}")(x))
        x = F.relu(self.lin2(F.relu(self.lin1(x.flatten(1)))))
        mean, log_variance = self.mu_logvar_gen(x).unflatten(1, (-1, 2)).unbind(2)
        return mean, log_variance


class TCVAEDecoder(nn.Module):
    """Three linear layers, transposed convolutions from 4 x 4 upwards and a sigmoid: latents to images.

    Its latents have a standard normal prior, which `tangent_space` checks them against.
    """

    prior = "normal"

    def __init__(self, latents: int = 10, channels: int = 1, side: int = 32) -> None:
        super().__init__()
        self.count = halvings(side)
        self.lin1 = nn.Linear(latents, 256)
        self.lin2 = nn.Linear(256, 256)
        self.lin3 = nn.Linear(256, 512)
        for number in range(1, self.count + 1):
            after = channels if number == self.count else 32
            self.add_module(f"convT{number}", nn.ConvTranspose2d(32, after, 4, stride=2, padding=1))

    def logits(self, latents: Tensor) -> Tensor:
        """The images before the sigmoid, for losses that are exact where it is flat."""
        x = F.relu(self.lin3(F.relu(self.lin2(F.relu(self.lin1(latents))))))
        x = x.unflatten(1, (32, 4, 4))
        for number in range(1, self.count):
            x = F.relu(self.get_submodule(f"convT{number}")(x))
        last: Tensor = self.get_submodule(f"convT{self.count}")(x)
        return last

    def forward(self, latents: Tensor) -> Tensor:
        """Images (N, channels, side, side) in (0, 1)."""
        return torch.sigmoid(self.logits(latents))


class TCVAE(nn.Module):
    """Encoder and decoder of the beta-TCVAE, and of the beta-VAE, for square images.

    Source: the architecture of Burgess et al. 2018 ("Understanding disentangling in beta-VAE"), trained with
    the loss of Chen et al. 2018; Bordt et al. 2023 draw MNIST32 from its decoder.

    Args:
        latents: k.
        channels: of the images.
        side: their height and width: 8, 16, 32, 64, ...
    """

    def __init__(self, latents: int = 10, channels: int = 1, side: int = 32) -> None:
        super().__init__()
        self.encoder = TCVAEEncoder(latents, channels, side)
        self.decoder = TCVAEDecoder(latents, channels, side)

    def encode(self, images: Tensor) -> Tensor:
        """The means of the latents (N, k)."""
        mean: Tensor = self.encoder(images)[0]
        return mean

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions from the means of the latents, without sampling."""
        found: Tensor = self.decoder(self.encode(images))
        return found


def halvings(side: int) -> int:
    """How often a side is halved until 4 pixels are left.

    Raises:
        ValueError: if that does not end at 4.
    """
    count = (side // 4).bit_length() - 1
    if count < 1 or side != 4 << count:
        raise ValueError(f"expected images of 8, 16, 32, 64, ... pixels a side, got {side}; resize them")
    return count


class Resized(nn.Module):
    """A decoder followed by bilinear resizing: MNIST256 is `Resized(decoder, 256)`.

    Args:
        decoder: latents to images.
        size: height and width of the new images.
    """

    def __init__(self, decoder: nn.Module, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"expected a size of at least one pixel, got {size}; MNIST256 has 256")
        self.decoder = decoder
        self.size = size

    @property
    def prior(self) -> str:
        """That of the decoder."""
        return str(getattr(self.decoder, "prior", "none"))

    def forward(self, latents: Tensor) -> Tensor:
        """Images (N, C, size, size)."""
        images = self.decoder(latents)
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)


def load_tcvae(path: str | Path) -> TCVAE:
    """The beta-TCVAE with stored weights, in evaluation mode; k and the channels follow from the file.

    Only tensors are read from the file, never code.

    Args:
        path: a state dict of `TCVAE`, as the published one of the experiment `btcvae_mnist`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"expected weights of a beta-TCVAE at {file}, got no file; check the path")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        latents, channels = state["decoder.lin1.weight"].shape[1], state["encoder.conv1.weight"].shape[1]
        side = 4 << sum(name.startswith("encoder.conv") and name.endswith("weight") for name in state)
        network = TCVAE(latents, channels, side)
        network.load_state_dict(state)
    except Exception as error:
        # torch raises half a dozen types here, some for a wrong file and some for wrong content.
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"expected the state dict of a beta-TCVAE in {file}, got another content ({first}); its tensors "
            "are named encoder.conv1.weight to decoder.convT3.bias"
        ) from error
    return network.eval()
