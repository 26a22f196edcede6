"""A flat manifold with a known tangent space, for images (3, 12, 12)."""

import torch
from torch import nn

SHAPE = (3, 12, 12)


class Linear(nn.Module):
    """z -> 0.5 + z Q with orthonormal rows Q: every tangent space is the span of Q."""

    def __init__(self, latents=3, shape=SHAPE, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = torch.Size(shape).numel()
        drawn = torch.randn(size, latents, generator=generator, dtype=torch.float64)
        self.register_buffer("rows", torch.linalg.qr(drawn)[0].T.contiguous())
        self.shape = shape

    def forward(self, z):
        return 0.5 + (z @ self.rows).view(-1, *self.shape)

    def encode(self, images):
        return (images - 0.5).flatten(1) @ self.rows.T


class Whole:
    """A decoder with its encoder, as a fitted manifold has them."""

    def __init__(self, decoder):
        self.decoder = decoder

    def encode(self, images):
        return self.decoder.encode(images)


def decode(z):
    """A plain function, importable by its name: two latent values, a picture of 3 x 12 x 12."""
    return LINEAR(z)


def encode(images):
    """Its encoder."""
    return LINEAR.encode(images)


LINEAR = Linear(2)
