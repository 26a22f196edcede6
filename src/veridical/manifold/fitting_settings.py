"""How a model of a manifold is fitted, as one value; and the ways that come with the package, by name."""

import json
import math
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from veridical.checks import check_choice, check_count, nearest_names
from veridical.manifold.models import Architecture, ModelSettings

Loss = Literal["beta-tcvae", "beta-vae", "absolute", "squared"]
"""`"beta-tcvae"`: cross-entropy + mutual information + beta * total correlation + annealed dimension-wise
divergence (Chen et al. 2018, eq. 4). `"beta-vae"`: cross-entropy + annealed beta * divergence (Higgins et al.
2017). `"absolute"`, `"squared"`: mean error of a value of the reconstruction, for plain autoencoders."""

FILE = "recipes/bordt2023_manifolds.toml"
COUNTS = {"epochs": 1, "batch": 2, "anneal_steps": 0, "seed": 0}


@dataclass(frozen=True)
class FitSettings:
    """How a model of a manifold is fitted, by Adam.

    Attributes:
        architecture: see `Architecture`.
        loss: see `Loss`; a VAE has one of the first two, other models one of the others.
        latents: k; None for the residual architecture, where it follows from the images.
        beta: weight of the total correlation, or of the divergence of the beta-VAE; other losses have none.
        anneal_steps: steps in which the (dimension-wise) divergence gains its full weight; 0 for at once.
        epochs: passes over the images, at most.
        batch: images a step; an epoch's last step takes what is left, and a single image is left out.
        lr: of Adam.
        held_out: share of the images that are not trained on; the kept weights are those of the epoch whose
            loss on these images is smallest.
        patience: epochs without a smaller loss on the held-out images after which the fit stops; None for
            all epochs.
        seed: of the initial weights, the held-out images, the order and the samples.
    """

    architecture: Architecture = "vae"
    loss: Loss = "beta-tcvae"
    latents: int | None = None
    beta: float = 6.0
    anneal_steps: int = 0
    epochs: int = 100
    batch: int = 64
    lr: float = 5e-4
    held_out: float = 0.1
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every choice.

        Raises:
            TypeError: if a count is no whole number.
            ValueError: if a choice does not exist or a number is out of range.
        """
        check_choice("architecture", self.architecture, get_args(Architecture))
        check_choice("loss", self.loss, get_args(Loss))
        for name, least in COUNTS.items():
            check_count(name, getattr(self, name), least)
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        if (self.architecture == "vae") != self.variational:
            mend = "beta-tcvae or beta-vae" if self.architecture == "vae" else "absolute or squared"
            raise ValueError(
                f"expected a loss of the {self.architecture} model, got {self.loss!r}; choose {mend}"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"expected lr above 0, got {self.lr}; 0.0005 is usual")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"expected beta of 0 or more, got {self.beta}; 6 is usual for the beta-tcvae")
        if not 0 < self.held_out < 1:
            raise ValueError(f"expected held_out as a share in (0, 1), got {self.held_out}; try 0.1")

    @property
    def variational(self) -> bool:
        """Whether the latents have a prior."""
        return self.loss in ("beta-tcvae", "beta-vae")

    def model(self, channels: int, height: int, width: int) -> ModelSettings:
        """The model for images of that size.

        Raises:
            ValueError: if there is none, see `ModelSettings`.
        """
        return ModelSettings(self.architecture, self.latents, channels, height, width)

    def anneal(self, step: int) -> float:
        """The weight of the annealed part in the step after `step` steps."""
        return min(1.0, step / self.anneal_steps) if self.anneal_steps else 1.0

    def difference(self, other: "FitSettings") -> str:
        """The first setting in which a fit that is continued would differ, "" where there is none.

        More epochs, or another patience, are no difference: no step depends on them.
        """
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in ("epochs", "patience") and mine != theirs:
                return f"{field.name} {theirs} instead of {mine}"
        return ""


class FitRecipe(BaseModel):
    """One way to fit a manifold.

    Attributes:
        source: where its numbers are printed, or who chose them.
        side: images are brought to this height and width; None keeps their size.
        channels: 3 for RGB, 1 for gray.
        settings: of the fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1)
    side: int | None = Field(default=None, ge=1)
    channels: Literal[1, 3]
    settings: FitSettings


def fit_recipes() -> dict[str, FitRecipe]:
    """All recipes that come with the package, by name."""
    text = (resources.files("veridical") / FILE).read_text(encoding="utf-8")
    return TypeAdapter(dict[str, FitRecipe]).validate_json(json.dumps(tomllib.loads(text)["fit"]))


def fit_recipe(name: str) -> FitRecipe:
    """The recipe of that name.

    Raises:
        ValueError: if there is none; the message has the nearest names.
    """
    found = fit_recipes()
    if name not in found:
        raise ValueError(
            f"expected the name of a manifold recipe, got {name!r}; {nearest_names(name, list(found))}"
        )
    return found[name]
