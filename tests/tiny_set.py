"""A tiny data set of 1 x 16 x 16 images whose manifold is known."""

import torch
from torch import nn

from veridical.manifold import DataSetSettings, generate_data_set, store_data_tangents


class Decoder(nn.Module):
    """Latents (N, 2) to 1 x 16 x 16 images by a fixed smooth map."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.register_buffer("rows", torch.randn(2, 256, generator=source))

    def forward(self, z):
        return (z @ self.rows.to(z)).sigmoid().view(-1, 1, 16, 16)


class Sign(nn.Module):
    """Two classes, by the first latent's direction."""

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ Decoder().rows[0]
        return torch.stack([score, -score], dim=1)


def tiny_set(folder, labeller=None):
    """40 images to train on, 8 to test on, with the tangent spaces of the latter."""
    settings = DataSetSettings(parts=(("train", 40), ("test", 8)))
    found = generate_data_set(folder, Decoder(), labeller or Sign(), 2, settings)
    store_data_tangents(found, Decoder(), "test")
    return found
