"""How good a model of a manifold is on images that it was not fitted to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.manifold.losses import normal_kl
from veridical.manifold.models import ManifoldModel
from veridical.manifold.networks import TCVAE
from veridical.metrics import Interval, bootstrap_interval
from veridical.training.accuracy import as_float, evaluating

LEAST_KL = 0.01
LEAST_SPREAD = 0.01
BATCH = 128


@dataclass(frozen=True)
class Quality:
    """Reconstruction and use of the latents, on held-out images.

    Attributes:
        errors: root mean squared error of the reconstruction of each image, for values in [0, 1].
        reference_errors: the same of the mean image of those fitted to: what no latent at all would give.
        kl: divergence from the prior of each latent, mean over images, in nats; () without a prior.
        spread: standard deviation of each latent value over images.
    """

    errors: tuple[float, ...]
    reference_errors: tuple[float, ...]
    kl: tuple[float, ...]
    spread: tuple[float, ...]

    def error(self, level: float = 0.99) -> Interval:
        """Mean error with its bootstrap interval."""
        return bootstrap_interval(self.errors, "mean", level=level)

    def reference_error(self, level: float = 0.99) -> Interval:
        """Mean error of the mean image with its bootstrap interval."""
        return bootstrap_interval(self.reference_errors, "mean", level=level)

    @property
    def collapsed(self) -> list[int]:
        """Latent values that say nothing about the image.

        With a prior: a divergence below 0.01 nats. Without: a spread below 1 % of the largest, or of 0.
        """
        if self.kl:
            return [index for index, value in enumerate(self.kl) if value < LEAST_KL]
        limit = LEAST_SPREAD * max(self.spread)
        return [index for index, value in enumerate(self.spread) if value <= limit]


def measure_quality(model: ManifoldModel, images: Tensor, reference: Tensor) -> Quality:
    """Reconstruct images from their latents without chance, and measure.

    Args:
        model: in any mode, which is put back.
        images: (N, C, H, W), uint8 or float in [0, 1], not those that the model was fitted to.
        reference: (C, H, W), the mean of those.
    """
    place = next(model.parameters()).device
    errors, references, latents = [], [], []
    divergences: list[Tensor] = []
    with torch.no_grad(), evaluating(model):
        for part in images.split(BATCH):
            own = as_float(part.to(place))
            if isinstance(model, TCVAE):
                z, log_variance = model.encoder(own)
                divergences.append(normal_kl(z, log_variance).cpu())
            else:
                z = model.encode(own)
            latents.append(z.flatten(1).cpu())
            errors.append(_errors(model.decoder(z), own))
            references.append(_errors(reference.to(own).expand_as(own), own))
    kl = torch.cat(divergences).double().mean(0).tolist() if divergences else []
    spread = torch.cat(latents).double().std(0, correction=0).tolist()
    return Quality(
        errors=tuple(torch.cat(errors).tolist()),
        reference_errors=tuple(torch.cat(references).tolist()),
        kl=tuple(kl),
        spread=tuple(spread),
    )


def _errors(found: Tensor, images: Tensor) -> Tensor:
    return (found - images).flatten(1).double().square().mean(1).sqrt().cpu()
