"""The fit of a model to images: reproducible, resumable, and honest about a loss that is no number."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from veridical.manifold.fitting_quality import measure_quality
from veridical.manifold.fitting_settings import FitSettings
from veridical.manifold.fitting_store import FitCheckpoint, FitEpoch, FittedManifold, best_epoch
from veridical.manifold.losses import bernoulli_loss, decompose, normal_kl
from veridical.training.accuracy import as_float, evaluating
from veridical.training.classifier import DivergedError, epoch_generator

LEAST = 4
ALL_EPOCHS = "all epochs"
_EVALUATION_SEED = 20230623


@dataclass(frozen=True)
class FitMoment:
    """Where a fit stands, for a progress bar.

    Attributes:
        epoch: the running epoch, from 0.
        epochs: of the whole fit, at most.
        step: steps done of this epoch.
        steps: of an epoch.
        loss: mean of this epoch so far.
        held_out: the smallest loss of the held-out images so far; NaN in the first epoch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    held_out: float


FitProgress = Callable[[FitMoment], None]


def fit_manifold(
    images: Tensor,
    settings: FitSettings,
    progress: FitProgress | None = None,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> FittedManifold:
    """Fit a model of the manifold on which images lie.

    The same images and settings give the same weights, bit by bit on one machine with one number of threads,
    also where the fit was interrupted and continued from its checkpoint. The global random state is not
    touched. The weights are those of the epoch with the smallest loss on the held-out images. Where a loss or
    weight is no finite number the fit ends with the best weights until then, and `outcome` says why.

    Args:
        images: (N, C, H, W), uint8 (scaled to [0, 1]) or float in [0, 1]; at least 4.
        settings: how.
        progress: called after every step.
        checkpoint: file that is written after every epoch; where it exists, the fit goes on from there.
        device: where the model is fitted and stays.

    Returns:
        The fitted manifold, its quality measured on the held-out images.

    Raises:
        TypeError: if the images are no uint8 or floating point tensor.
        ValueError: if images do not fit the model, k >= d, or the checkpoint belongs to another fit.
        DivergedError: if already the first epoch meets a number that is not finite.
    """
    check_pictures(images)
    shape = settings.model(int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    train, held = _split(images, settings)
    data = digest_images(images)
    network = shape.build(settings.seed).to(device)
    optimizer = Adam(network.parameters(), lr=settings.lr, fused=True)
    run = _Run(network, optimizer, train, held, settings, progress)
    stored = None if checkpoint is None else FitCheckpoint(Path(checkpoint), settings, data)
    best, history = ({}, ()) if stored is None else stored.load(network, optimizer)
    resumed, outcome = len(history), ALL_EPOCHS
    while len(history) < settings.epochs:
        outcome = _stale(history, settings)
        if outcome:
            break
        try:
            history = (*history, run.epoch(len(history), history))
        except DivergedError as error:
            if not history:
                raise
            outcome = f"{error}; the weights are those of epoch {best_epoch(history)}"
            break
        if best_epoch(history) == len(history):
            best = _copied(network)
        if stored is not None:
            stored.save(network, optimizer, best, history)
    outcome = outcome or ALL_EPOCHS
    network.load_state_dict(best)
    quality = measure_quality(network.eval(), held, _mean(train))
    return FittedManifold(network, settings, shape, history, quality, outcome, resumed, data)


@dataclass(frozen=True)
class _Run:
    """What every step of a fit needs."""

    network: Any
    optimizer: Adam
    train: Tensor
    held: Tensor
    settings: FitSettings
    progress: FitProgress | None

    def epoch(self, epoch: int, history: tuple[FitEpoch, ...]) -> FitEpoch:
        """One pass over all images."""
        self.network.train()
        source = epoch_generator(self.settings.seed, epoch)
        order = torch.randperm(len(self.train), generator=source)
        parts = _usable(order, self.settings.batch)
        smallest = min((one.held_out for one in history), default=float("nan"))
        total, seen = 0.0, 0
        for step, part in enumerate(parts):
            own = self._step(self.train[part], self.settings.anneal(epoch * len(parts) + step), source)
            if not abs(own) < float("inf"):
                raise DivergedError(self._diverged(epoch, f"a loss of {own} in step {step + 1}"))
            seen += len(part)
            total += own * len(part)
            if self.progress is not None:
                where = (epoch, self.settings.epochs, step + 1, len(parts))
                self.progress(FitMoment(*where, total / seen, smallest))
        held = self._held_out()
        if not abs(held) < float("inf"):
            raise DivergedError(self._diverged(epoch, f"a loss of {held} on the held-out images"))
        for name, value in self.network.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise DivergedError(self._diverged(epoch, f"NaN or infinity in {name}"))
        return FitEpoch(total / seen, held)

    def _step(self, images: Tensor, anneal: float, source: torch.Generator) -> float:
        loss = self._loss(images, anneal, source)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, images: Tensor, anneal: float, source: torch.Generator) -> Tensor:
        own = as_float(images.to(next(self.network.parameters()).device))
        if not self.settings.variational:
            found = self.network(own)
            return F.l1_loss(found, own) if self.settings.loss == "absolute" else F.mse_loss(found, own)
        mean, log_variance = self.network.encoder(own)
        noise = torch.randn(mean.shape, generator=source).to(mean)
        z = mean + (log_variance / 2).exp() * noise
        loss = bernoulli_loss(self.network.decoder.logits(z), own)
        if self.settings.loss == "beta-vae":
            return loss + anneal * self.settings.beta * normal_kl(mean, log_variance).sum(1).mean()
        parts = decompose(z, mean, log_variance, len(self.train))
        correlation = self.settings.beta * parts.total_correlation
        return loss + parts.mutual_information + correlation + anneal * parts.dimension_wise

    def _held_out(self) -> float:
        """The loss of the held-out images, fully annealed, always with the same samples."""
        source = torch.Generator().manual_seed(_EVALUATION_SEED)
        places = torch.arange(len(self.held))
        total, seen = 0.0, 0
        with torch.no_grad(), evaluating(self.network):
            for part in _usable(places, min(self.settings.batch, len(self.train))):
                total += float(self._loss(self.held[part], 1.0, source)) * len(part)
                seen += len(part)
        return total / seen

    def _diverged(self, epoch: int, what: str) -> str:
        return (
            f"expected a finite loss, got {what} of epoch {epoch + 1}; lower lr ({self.settings.lr:g}) and "
            "look at the images"
        )


def check_pictures(images: object) -> None:
    """Check images that a manifold is fitted to.

    Raises:
        TypeError: if they are no tensor, or neither uint8 nor floating point.
        ValueError: if they are not (N, C, H, W) with N >= 4, or values are not in [0, 1].
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected images as one tensor (N, C, H, W), got {type(images).__name__}; bring images of "
            "different sizes to one size and stack them"
        )
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"expected uint8 or floating point images, got {images.dtype}; convert them")
    if images.dim() != 4 or images[:1].numel() == 0 or len(images) < LEAST:
        raise ValueError(
            f"expected at least {LEAST} images (N, C, H, W), got shape {tuple(images.shape)}; some are "
            "fitted to and some held out"
        )
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("expected image values in [0, 1], got others, or NaN; scale them")


def digest_images(images: Tensor) -> str:
    """SHA-256 of images, their type and shape, in hexadecimal."""
    found = hashlib.sha256(f"{images.dtype} {tuple(images.shape)} ".encode())
    found.update(images.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _split(images: Tensor, settings: FitSettings) -> tuple[Tensor, Tensor]:
    """Images to fit to and images to hold out, at least two of each."""
    count = max(2, min(len(images) - 2, round(settings.held_out * len(images))))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(settings.seed))
    return images[order[count:].sort().values], images[order[:count].sort().values]


def _usable(order: Tensor, batch: int) -> list[Tensor]:
    """Batches without one of a single image, which has no other image to be held against."""
    return [part for part in order.split(batch) if len(part) > 1]


def _stale(history: tuple[FitEpoch, ...], settings: FitSettings) -> str:
    """Why the fit stops here; "" where it goes on."""
    if settings.patience is None or len(history) - best_epoch(history) < settings.patience:
        return ""
    return f"no smaller loss on held-out images for {settings.patience} epochs"


def _copied(network: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _mean(images: Tensor) -> Tensor:
    """The mean image, without a copy of all in floating point."""
    total = sum(as_float(part).double().sum(0) for part in images.split(1024))
    return torch.as_tensor(total) / len(images)
