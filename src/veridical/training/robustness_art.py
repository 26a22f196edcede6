"""The strong attacks of the Adversarial Robustness Toolbox (ART), which is optional."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from veridical.training.robustness import RobustnessSettings

StrongAttack = Callable[[nn.Module, Tensor, Tensor, "RobustnessSettings"], Tensor]
"""From (network, images, labels, settings) to what became of the images."""

_DLR_CLASSES = 3
_SQUARE_SIDE = 8  # ART's Square cannot place its squares in smaller images


def strong_attacks(classes: int, side: int) -> tuple[StrongAttack, ...]:
    """Auto-PGD with cross-entropy, with the difference of logits ratio, and Square.

    The ratio needs a third logit: with two classes it is left out. Square needs a shorter side of at least 8
    pixels.
    """
    losses = ("cross_entropy", "difference_logits_ratio")[: 2 if classes >= _DLR_CLASSES else 1]
    square = (_square,) if side >= _SQUARE_SIDE else ()
    return (*(partial(_auto_pgd, loss) for loss in losses), *square)


def check_strong_attack() -> None:
    """Check that the package is installed.

    Raises:
        ModuleNotFoundError: if it is not.
    """
    if find_spec("art") is None:
        raise ModuleNotFoundError(
            "expected the package adversarial-robustness-toolbox for the strong attack, got none; install it "
            'with `pip install "veridical[robustness]"`, or measure with attack="pgd"'
        )


class _InItsPrecision(nn.Module):
    """ART computes in float32; the network gets its own precision."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.to(self.dtype))
        return logits.float()


def _auto_pgd(
    loss: str, network: nn.Module, images: Tensor, labels: Tensor, settings: RobustnessSettings
) -> Tensor:
    from art.attacks.evasion import AutoProjectedGradientDescent

    def build(estimator: Any) -> Any:
        return AutoProjectedGradientDescent(
            estimator,
            norm=_norm(settings),
            eps=settings.epsilon,
            # Of the first step, as in the paper of AutoAttack.
            eps_step=2 * settings.epsilon,
            max_iter=settings.steps,
            nb_random_init=settings.restarts,
            batch_size=settings.batch,
            loss_type=loss,
            verbose=False,
        )

    return _run(build, network, images, labels, settings)


def _square(network: nn.Module, images: Tensor, labels: Tensor, settings: RobustnessSettings) -> Tensor:
    from art.attacks.evasion import SquareAttack

    def build(estimator: Any) -> Any:
        return SquareAttack(
            estimator,
            norm=_norm(settings),
            eps=settings.epsilon,
            max_iter=settings.queries,
            batch_size=settings.batch,
            verbose=False,
        )

    return _run(build, network, images, labels, settings)


def _run(
    build: Callable[[Any], Any],
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: RobustnessSettings,
) -> Tensor:
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = network(images[:1]).shape[1]
    estimator = PyTorchClassifier(
        _InItsPrecision(network, images.dtype).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=settings.bounds,
        device_type="cpu" if images.device.type == "cpu" else "gpu",
    )
    start = images.float().cpu().numpy()
    # Square divides by the norm of changes that may be 0.
    with _own_random_states(settings.seed), _own_gradients(network), np.errstate(invalid="ignore"):
        found = build(estimator).generate(start, labels.cpu().numpy())
    return torch.from_numpy(np.where(np.isfinite(found), found, start)).to(images)


def _norm(settings: RobustnessSettings) -> float:
    return 2 if settings.norm == "l2" else np.inf


@contextmanager
def _own_gradients(network: nn.Module) -> Iterator[None]:
    """ART adds up gradients of the weights; those that were there are put back."""
    before = [one.grad for one in network.parameters()]
    for one in network.parameters():
        one.grad = None
    try:
        yield
    finally:
        for one, gradient in zip(network.parameters(), before, strict=True):
            one.grad = gradient


@contextmanager
def _own_random_states(seed: int) -> Iterator[None]:
    """ART draws from the global generators."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(before)
