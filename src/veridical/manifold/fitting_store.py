"""A fit on disk: the checkpoint after a whole epoch, and the manifold when it is done."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from veridical.manifold.fitting_quality import BATCH, Quality
from veridical.manifold.fitting_settings import FitSettings
from veridical.manifold.models import ManifoldModel, ModelSettings
from veridical.records import RecordError, read_arrays, read_json, write_arrays, write_json
from veridical.training.accuracy import as_float
from veridical.training.checkpoints import load_optimizer, optimizer_arrays

FORMAT = 1
MANIFOLD, WEIGHTS = "manifold.json", "weights.safetensors"
OWN, BEST = "network.", "best."
DAMAGED = (RecordError, KeyError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class FitEpoch:
    """What an epoch gave.

    Attributes:
        loss: mean over its steps, with annealing.
        held_out: loss of the held-out images after it, without.
    """

    loss: float
    held_out: float


@dataclass(frozen=True, eq=False)
class FittedManifold:
    """A model of a manifold that was fitted to images.

    Attributes:
        model: in evaluation mode, with the weights of the best epoch.
        settings: of the fit.
        shape: of the model, with the size of the images.
        history: one entry an epoch.
        quality: on the held-out images.
        outcome: "all epochs", "no smaller loss for ... epochs", or why the loss was no number.
        resumed: how many of the epochs came from a checkpoint.
        data: SHA-256 of the images.
    """

    model: ManifoldModel
    settings: FitSettings
    shape: ModelSettings
    history: tuple[FitEpoch, ...]
    quality: Quality
    outcome: str
    resumed: int
    data: str

    @property
    def decoder(self) -> nn.Module:
        """Latents (N, ...) to images (N, C, H, W): what `tangent_space` and `measure_alignment` take."""
        return self.model.decoder

    @property
    def best(self) -> int:
        """The epoch of the weights, from 1."""
        return best_epoch(self.history)

    @property
    def diverged(self) -> bool:
        """Whether the fit ended because a number was not finite."""
        return self.outcome.startswith("expected")

    def encode(self, images: Tensor) -> Tensor:
        """Latents (N, ...) of images (N, C, H, W), uint8 or float in [0, 1], on the model's device."""
        return encode(self.model, images)


def best_epoch(history: tuple[FitEpoch, ...]) -> int:
    """The first epoch with the smallest loss on held-out images, from 1; 0 where there is none."""
    losses = [one.held_out for one in history]
    return losses.index(min(losses)) + 1 if losses else 0


def encode(model: ManifoldModel, images: Tensor) -> Tensor:
    """Latents of images without chance, a batch at a time."""
    place = next(model.decoder.parameters()).device
    with torch.no_grad():
        return torch.cat([model.encode(as_float(part.to(place))) for part in images.split(BATCH)])


@dataclass(frozen=True)
class FitCheckpoint:
    """Where a fit stands.

    Attributes:
        path: the file.
        settings: of the fit.
        data: digest of the images.
    """

    path: Path
    settings: FitSettings
    data: str

    def save(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        best: Mapping[str, Tensor],
        history: tuple[FitEpoch, ...],
    ) -> None:
        """Write the state after as many epochs as the history has; the file is always whole."""
        arrays = {f"{OWN}{name}": value.cpu().numpy() for name, value in network.state_dict().items()}
        arrays |= {f"{BEST}{name}": value.cpu().numpy() for name, value in best.items()}
        told = {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "data": self.data,
            "history": [asdict(one) for one in history],
        }
        write_arrays(self.path, arrays | optimizer_arrays(optimizer), told)

    def load(
        self, network: nn.Module, optimizer: Optimizer
    ) -> tuple[dict[str, Tensor], tuple[FitEpoch, ...]]:
        """Put network and optimizer into the state of the file.

        Returns:
            The best weights so far and the history; empty, and nothing is changed, where there is no file.

        Raises:
            ValueError: the file is damaged, or belongs to other images or settings.
        """
        if not self.path.exists():
            return {}, ()
        try:
            arrays, told = read_arrays(self.path)
            history = tuple(FitEpoch(**one) for one in told["history"])
            earlier, data = FitSettings(**told["settings"]), told["data"]
        except DAMAGED as error:
            raise ValueError(
                f"expected the checkpoint of a manifold in {self.path}, got another or a damaged file; "
                "delete it to start again"
            ) from error
        self._check(earlier, data, len(history))
        network.load_state_dict(_part(arrays, OWN))
        load_optimizer(optimizer, arrays)
        return _part(arrays, BEST), history

    def _check(self, earlier: FitSettings, data: str, done: int) -> None:
        different = earlier.difference(self.settings) or ("other images" if data != self.data else "")
        if not different and done > self.settings.epochs:
            different = f"epochs {self.settings.epochs}, of which {done} are done"
        if different:
            raise ValueError(
                f"expected to continue the fit of {self.path}, got {different}; choose another place or "
                "delete it to start again"
            )


def save_manifold(folder: str | Path, fitted: FittedManifold, about: Mapping[str, Any] | None = None) -> None:
    """Write `weights.safetensors` and `manifold.json`, which `load_manifold` reads.

    Args:
        folder: made where there is none.
        fitted: the result of `fit_manifold`.
        about: more fields for `manifold.json`, such as where the images came from.
    """
    place = Path(folder)
    weights = {name: value.cpu().numpy() for name, value in fitted.model.state_dict().items()}
    write_arrays(place / WEIGHTS, weights)
    told = {
        "format": FORMAT,
        "settings": asdict(fitted.settings),
        "shape": asdict(fitted.shape),
        "history": [asdict(one) for one in fitted.history],
        "quality": asdict(fitted.quality),
        "outcome": fitted.outcome,
        "resumed": fitted.resumed,
        "data": fitted.data,
    }
    write_json(place / MANIFOLD, {**told, "about": dict(about or {})})


def load_manifold(folder: str | Path) -> FittedManifold:
    """The manifold that `veridical manifold fit` or `save_manifold` wrote, on the CPU, in evaluation mode.

    Raises:
        RecordError: if a file is missing or damaged; the message names it.
    """
    place = Path(folder)
    if not (place / MANIFOLD).is_file():
        raise RecordError(
            f"expected a fitted manifold in {place}, got no {MANIFOLD}; let `veridical manifold fit` finish"
        )
    told = read_json(place / MANIFOLD)
    arrays, _ = read_arrays(place / WEIGHTS)
    try:
        shape = ModelSettings(**told["shape"])
        model = shape.build()
        model.load_state_dict(_part(arrays, ""))
        return FittedManifold(
            model=model.eval(),
            settings=FitSettings(**told["settings"]),
            shape=shape,
            history=tuple(FitEpoch(**one) for one in told["history"]),
            quality=Quality(**{name: tuple(values) for name, values in told["quality"].items()}),
            outcome=told["outcome"],
            resumed=told["resumed"],
            data=told["data"],
        )
    except DAMAGED as error:
        first = str(error).strip().splitlines()[0]
        raise RecordError(
            f"expected a fitted manifold in {place}, got damaged files ({first}); fit it again"
        ) from error


def manifold_facts(folder: str | Path) -> dict[str, Any]:
    """The fields of `manifold.json` that say where the images came from, see `save_manifold`."""
    about: dict[str, Any] = read_json(Path(folder) / MANIFOLD).get("about", {})
    return about


def on_cpu(fitted: FittedManifold) -> FittedManifold:
    """The same with its model on the CPU."""
    return replace(fitted, model=fitted.model.cpu())


def _part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
