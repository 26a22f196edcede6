"""The published ways to train a network, read from the recipe files that come with the package."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field

from veridical.checks import nearest_names
from veridical.training.settings import TrainingSettings

FILES = ("sixt2020.toml", "bordt2023_training.toml")

_STRICT = ConfigDict(extra="forbid", frozen=True)


class TrainingRecipe(BaseModel):
    """One network with its training.

    Attributes:
        source: where the numbers are printed, or who chose them.
        network: "package.module:callable"; the callable takes the seed of the initial weights.
        side: images are brought to this height and width.
        channels: 3 for RGB, 1 for gray.
        published_accuracy: on the test images, where the source has it.
        settings: of the training.
    """

    model_config = _STRICT

    source: str = Field(min_length=1)
    network: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    side: int = Field(ge=1)
    channels: int = Field(ge=1)
    published_accuracy: float | None = Field(default=None, ge=0, le=1)
    settings: TrainingSettings

    def with_settings(self, *, epochs: int | None = None, seed: int = 0) -> TrainingSettings:
        """The recipe's settings with another number of epochs (None: its own) and this seed.

        Raises:
            ValueError: if a number is out of range.
        """
        chosen = self.settings.epochs if epochs is None else epochs
        return replace(self.settings, epochs=chosen, seed=seed)


@cache
def _published() -> dict[str, TrainingRecipe]:
    found: dict[str, TrainingRecipe] = {}
    for name in FILES:
        text = (resources.files("veridical") / "recipes" / name).read_text(encoding="utf-8")
        for key, entry in tomllib.loads(text)["training"].items():
            found[key] = TrainingRecipe.model_validate_json(json.dumps(entry))
    return found


class _Recipes(Mapping[str, TrainingRecipe]):
    """Recipes by name, read when one is asked for."""

    def __getitem__(self, name: str) -> TrainingRecipe:
        return _published()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_published())

    def __len__(self) -> int:
        return len(_published())

    def __repr__(self) -> str:
        return f"TRAINING_RECIPES({', '.join(self)})"


TRAINING_RECIPES: Mapping[str, TrainingRecipe] = _Recipes()
"""The training recipes that come with the package, by name."""


def training_recipe(name: str) -> TrainingRecipe:
    """The recipe of that name.

    Raises:
        ValueError: if there is none; the message has the nearest names.
    """
    if name not in TRAINING_RECIPES:
        known = nearest_names(name, list(TRAINING_RECIPES))
        raise ValueError(f"expected the name of a training recipe, got {name!r}; {known}")
    return TRAINING_RECIPES[name]
