"""The training of a classifier: reproducible, resumable, and honest about a loss that is no number."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from veridical.checks import check_logits
from veridical.training.accuracy import as_input, check_classes, check_labeled, evaluating
from veridical.training.adversarial import check_bounds, craft
from veridical.training.augmentation import augment
from veridical.training.checkpoints import Checkpoint, EpochRecord
from veridical.training.settings import TrainingSettings


class DivergedError(FloatingPointError):
    """The loss or a weight became NaN or infinite."""


@dataclass(frozen=True)
class TrainingMoment:
    """Where a training run stands, for a progress bar.

    Attributes:
        epoch: the running epoch, from 0.
        epochs: of the whole run.
        step: steps done of this epoch.
        steps: of an epoch.
        loss: mean cross-entropy of this epoch so far.
        accuracy: share classified correctly of this epoch so far, with dropout and on changed images.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float


TrainingProgress = Callable[[TrainingMoment], None]


@dataclass(frozen=True)
class Training:
    """A training run that is done.

    Attributes:
        history: loss and accuracy on the training images, one entry an epoch.
        settings: of the run.
        resumed: how many of the epochs came from a checkpoint.
        data: SHA-256 of images and labels.
    """

    history: tuple[EpochRecord, ...]
    settings: TrainingSettings
    resumed: int
    data: str


def train_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    checkpoint: str | Path | None = None,
    progress: TrainingProgress | None = None,
) -> Training:
    """Train a network on labeled images, in place, and leave it in evaluation mode.

    The same network, images and settings give the same weights, bit by bit on one machine with one number of
    threads, also where the run was interrupted and continued from its checkpoint. The global random state is
    as before. An epoch that does not end (Ctrl-C, a loss of NaN) leaves the network, and the checkpoint, as
    they were after the epoch before.

    Args:
        network: maps images to logits (N, K); on the device where it shall be trained.
        images: (N, C, H, W), uint8 (scaled to [0, 1]) or float (taken as they are; half precision is
            brought to that of the weights, a batch at a time).
        labels: LongTensor (N,), from 0 to K - 1.
        settings: how.
        checkpoint: file that is written after every epoch; where it exists, the run goes on from there.
        progress: called after every step.

    Raises:
        TypeError: if images or labels are of another type.
        ValueError: if they do not fit each other, the network or the adversary's bounds, the network has
            nothing to train, or the checkpoint belongs to another run.
        DivergedError: if the loss or a weight is no finite number; the message says when.
    """
    check_labeled(images, labels)
    _check_network(network, images, labels)
    if settings.adversary is not None:
        check_bounds(images, settings.adversary)
    data = digest(images, labels)
    run = _Run(network, images, labels, settings, _optimizer(network, settings), progress)
    stored = None if checkpoint is None else Checkpoint(Path(checkpoint), settings, data)
    history = () if stored is None else stored.load(network, run.optimizer)
    resumed = len(history)
    with _own_random_state(network):
        for epoch in range(resumed, settings.epochs):
            history += (run.epoch(epoch),)
            if stored is not None:
                stored.save(network, run.optimizer, history)
    network.eval()
    return Training(history, settings, resumed, data)


@dataclass(frozen=True)
class FromScratch:
    """A function that makes a new network and trains it, as `veridical.roar` takes it.

    Attributes:
        build: from a seed to a network with initial weights.
        settings: of its training; the seed is replaced.
    """

    build: Callable[[int], nn.Module]
    settings: TrainingSettings

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
        """The network of that seed, trained on images (N, C, H, W) with labels (N,)."""
        network = self.build(seed)
        train_classifier(network, images, labels, replace(self.settings, seed=seed))
        return network


@dataclass(frozen=True)
class _Run:
    """What every step of a run needs."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    settings: TrainingSettings
    optimizer: Optimizer
    progress: TrainingProgress | None

    def epoch(self, epoch: int) -> EpochRecord:
        """One pass over all images; the network is as before where it does not end."""
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.train()
        try:
            found = self._pass(epoch)
            self._check_weights(epoch)
        except BaseException:
            self.network.load_state_dict(before)
            self.network.eval()
            raise
        return found

    def _pass(self, epoch: int) -> EpochRecord:
        source = epoch_generator(self.settings.seed, epoch)
        # Dropout knows no other generator than the global one, which `_own_random_state` keeps.
        torch.manual_seed(int(torch.randint(2**62, (), generator=source)))
        order = torch.randperm(len(self.images), generator=source)
        parts = order.split(self.settings.batch)
        loss, correct, seen = 0.0, 0, 0
        for step, part in enumerate(parts):
            rate = self.settings.lr * self.settings.factor(epoch, step, len(parts))
            own, right = self._step(part, rate, source)
            if not own < float("inf"):
                raise DivergedError(self._diverged(epoch, f"a loss of {own} in step {step + 1}"))
            seen += len(part)
            loss += own * len(part)
            correct += right
            if self.progress is not None:
                where = (epoch, self.settings.epochs, step + 1, len(parts))
                self.progress(TrainingMoment(*where, loss / seen, correct / seen))
        return EpochRecord(loss / seen, correct / seen)

    def _step(self, part: Tensor, rate: float, source: torch.Generator) -> tuple[float, int]:
        """One step of the optimizer; the loss, and how many images were classified correctly."""
        images = as_input(self.network, self.images[part])
        images = augment(images, self.settings.shift, self.settings.flip, source)
        labels = self.labels[part].to(images.device)
        if self.settings.adversary is not None:
            images = craft(self.network, images, labels, self.settings.adversary, source)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach()), int((logits.detach().argmax(dim=1) == labels).sum())

    def _check_weights(self, epoch: int) -> None:
        for name, value in self.network.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise DivergedError(self._diverged(epoch, f"NaN or infinity in {name} after its last step"))

    def _diverged(self, epoch: int, what: str) -> str:
        return (
            f"expected a finite loss, got {what} of epoch {epoch + 1}; the network is as after epoch "
            f"{epoch}. Lower lr ({self.settings.lr:g}) and look at the images"
        )


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator of one epoch, which needs none of those before."""
    source = torch.Generator().manual_seed(seed)
    own = 0
    for _ in range(epoch + 1):
        own = int(torch.randint(2**62, (), generator=source))
    return torch.Generator().manual_seed(own)


def digest(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of images and labels, their types and shapes, in hexadecimal."""
    found = hashlib.sha256()
    for one in (images, labels):
        found.update(f"{one.dtype} {tuple(one.shape)} ".encode())
        found.update(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _optimizer(network: nn.Module, settings: TrainingSettings) -> Optimizer:
    weights = [one for one in network.parameters() if one.requires_grad]
    if settings.optimizer == "adam":
        # Without `fused` the optimizer takes a third of a step's time for dense layers and small batches.
        return Adam(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    return SGD(weights, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def _check_network(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    weights = [one for one in network.parameters() if one.requires_grad]
    if not weights:
        raise ValueError("expected a network with weights to train, got none; set requires_grad")
    with torch.no_grad(), evaluating(network):
        logits = check_logits(network(as_input(network, images[:1])), 1)
    check_classes(labels, logits.shape[1])


@contextmanager
def _own_random_state(network: nn.Module) -> Iterator[None]:
    devices = {one.device for one in network.parameters() if one.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        yield
