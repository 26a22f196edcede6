"""The beta-TCVAE from whose decoder MNIST32 is drawn, and decoders of resized images."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TCVAEEncoder(nn.Module):
    """Three strided convolutions and three linear layers: images (N, 1, 32, 32) to a normal distribution.

    The names of the layers are those of the published weights.
    """

    def __init__(self, latents: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 4, stride=2, padding=1)
        self.lin1 = nn.Linear(512, 256)
        self.lin2 = nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 2 * latents)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each latent value, both (N, k).

        The last layer gives them interleaved: mean and logarithm of the first value, then of the second.

        Raises:
            ValueError: if the images are not 32 x 32.
        """
        if images.shape[-2:] != (32, 32):
            raise ValueError(f"expected images of 32 x 32 pixels, got {tuple(images.shape)}; resize them")
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(images))))))
        x = F.relu(self.lin2(F.relu(self.lin1(x.flatten(1)))))
        mean, log_variance = self.mu_logvar_gen(x).unflatten(1, (-1, 2)).unbind(2)
        return mean, log_variance


class TCVAEDecoder(nn.Module):
    """Three linear layers, three transposed convolutions and a sigmoid: latents (N, k) to (N, 1, 32, 32).

    Its latents have a standard normal prior, which `tangent_space` checks them against.
    """

    prior = "normal"

    def __init__(self, latents: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.lin1 = nn.Linear(latents, 256)
        self.lin2 = nn.Linear(256, 256)
        self.lin3 = nn.Linear(256, 512)
        self.convT1 = nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1)
        self.convT2 = nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1)
        self.convT3 = nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Images (N, channels, 32, 32) in (0, 1)."""
        x = F.relu(self.lin3(F.relu(self.lin2(F.relu(self.lin1(latents))))))
        x = F.relu(self.convT2(F.relu(self.convT1(x.unflatten(1, (32, 4, 4))))))
        return torch.sigmoid(self.convT3(x))


class TCVAE(nn.Module):
    """Encoder and decoder of the beta-TCVAE for 32 x 32 images.

    Source: the architecture of Burgess et al. 2018 ("Understanding disentangling in beta-VAE"), trained with
    the loss of Chen et al. 2018; Bordt et al. 2023 draw MNIST32 from its decoder.

    Args:
        latents: k.
        channels: of the images.
    """

    def __init__(self, latents: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.encoder = TCVAEEncoder(latents, channels)
        self.decoder = TCVAEDecoder(latents, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions from the means of the latents, without sampling."""
        found: Tensor = self.decoder(self.encoder(images)[0])
        return found


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
        network = TCVAE(latents, channels)
        network.load_state_dict(state)
    except Exception as error:
        # torch raises half a dozen types here, some for a wrong file and some for wrong content.
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"expected the state dict of a beta-TCVAE in {file}, got another content ({first}); its tensors "
            "are named encoder.conv1.weight to decoder.convT3.bias"
        ) from error
    return network.eval()
