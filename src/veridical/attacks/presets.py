"""The published settings, and the default for a network that nobody has attacked before.

They are read, when the first one is asked for, from `recipes/dombrowski2019.toml`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veridical.attacks.settings import Bound, ManipulationSettings
from veridical.checks import nearest_names

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RecipeError(ValueError):
    """A recipe is missing, is not TOML or has a wrong field."""


class Range(BaseModel):
    """Lowest and highest valid value of each channel, in units of the network's input."""

    model_config = _STRICT

    lower: tuple[float, ...] = Field(min_length=1)
    upper: tuple[float, ...] = Field(min_length=1)


class Preset(BaseModel):
    """One attack as somebody ran it.

    Attributes:
        source: where its numbers are printed, or how they were found.
        network: on which network and data.
        method: the name of the built-in method; "" for any.
        smooth_beta: of the softplus activations that the method ran on; None for the network's own.
        samples: noisy copies that SmoothGrad averaged the method over; None for the image alone.
        steps: see `ManipulationSettings`, as for all that follow.
        lr: learning rate, in `units`.
        factors: weights of the two terms.
        output: "probability" or "logit".
        beta: first and last beta of the growth.
        rescale: whether the first factor follows the number of pixels.
        units: a name in the recipe's `units`, or "range": `lr` is a fraction of the input's range.
    """

    model_config = _STRICT

    source: str = Field(min_length=1)
    network: str = Field(min_length=1)
    method: str = ""
    smooth_beta: Positive | None = None
    samples: int | None = Field(default=None, ge=1)
    steps: int = Field(ge=1)
    lr: Positive
    factors: tuple[Factor, Factor]
    output: Literal["probability", "logit"] = "probability"
    beta: tuple[Positive, Positive] = (10.0, 100.0)
    rescale: bool = True
    units: str

    def settings(self, units: Mapping[str, Range]) -> ManipulationSettings:
        """The choices, with the bounds that the units stand for.

        Raises:
            ValueError: where the units have no entry.
        """
        relative = self.units == "range"
        if not relative and self.units not in units:
            raise ValueError(f"expected units of the recipe, got {self.units!r}; add [units.{self.units}]")
        return ManipulationSettings(
            steps=self.steps,
            lr=self.lr,
            factors=self.factors,
            output=self.output,
            beta=self.beta,
            rescale=self.rescale,
            bounds=None if relative else (units[self.units].lower, units[self.units].upper),
            lr_unit="range" if relative else "input",
        )


class Recipe(BaseModel):
    """A paper's settings, each with its source.

    Attributes:
        name: of the recipe.
        source: the paper.
        convention: of `veridical.method`, in which the paper's methods are built; "" for none.
        units: ranges of inputs by name.
        presets: the attacks by name.
    """

    model_config = _STRICT

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    convention: str = ""
    units: dict[str, Range] = Field(default_factory=dict)
    presets: dict[str, Preset] = Field(min_length=1)


def load_recipe(path: str | Path | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the TOML file; None for Dombrowski et al. 2019, which comes with the package.

    Raises:
        RecipeError: where the file is missing, is not TOML, or has a wrong field; the message names it.
    """
    shown = "recipes/dombrowski2019.toml" if path is None else str(path)
    try:
        file = resources.files("veridical") / shown if path is None else Path(path)
        recipe = Recipe.model_validate_json(json.dumps(tomllib.loads(file.read_text(encoding="utf-8"))))
        for preset in recipe.presets.values():
            preset.settings(recipe.units)
    except OSError as error:
        raise RecipeError(f"expected a recipe at {shown}, got {error.strerror}; check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"expected TOML in {shown}, got {error}; mend that line") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"expected a recipe in {shown}, got a wrong {where}: {first['msg']}") from error
    except ValueError as error:
        raise RecipeError(f"{error} ({shown})") from error
    return recipe


@cache
def _published() -> Recipe:
    return load_recipe()


class _Presets(Mapping[str, ManipulationSettings]):
    """Settings by name, read when one is asked for."""

    def __getitem__(self, name: str) -> ManipulationSettings:
        recipe = _published()
        return recipe.presets[name].settings(recipe.units)

    def __iter__(self) -> Iterator[str]:
        return iter(_published().presets)

    def __len__(self) -> int:
        return len(_published().presets)

    def __contains__(self, name: object) -> bool:
        return name in _published().presets

    def __repr__(self) -> str:
        return f"PRESETS({', '.join(self)})"


PRESETS: Mapping[str, ManipulationSettings] = _Presets()
"""The settings of tables 1 to 5 of the supplement of Dombrowski et al. 2019, and "default".

Table 1: VGG-16. Table 2: other architectures, gradient method, logits held constant. Table 3: CIFAR-10. Table
4: the attack on SmoothGrad with 10 samples. Table 5: the attack on methods smoothed with beta = 0.8. They are
settings of the optimization alone: which method was attacked, and in what form, is in `load_recipe()`.
"default": fractions of the input's range, for a network and a method that nobody has tuned anything for.
`load_recipe()` has the source of each, too.
"""


def preset(name: str = "default", bounds: tuple[Bound, Bound] | None = None) -> ManipulationSettings:
    """The settings of that name, converted to inputs of another range where bounds are given.

    "default" works on an unknown network without tuning; without bounds its rates are fractions of each
    image's own range, and nothing is clamped.

    Args:
        name: one of `PRESETS`.
        bounds: lowest and highest valid input, each one number or one a channel.

    Raises:
        ValueError: where there is no such preset, or the bounds are reversed.
    """
    if name not in PRESETS:
        raise ValueError(f"expected the name of a preset, got {name!r}; {nearest_names(name, list(PRESETS))}")
    return PRESETS[name] if bounds is None else PRESETS[name].for_bounds(bounds)


def default_settings(bounds: tuple[Bound, Bound] | None = None) -> ManipulationSettings:
    """The documented default, `preset("default", bounds)`: for a network that nobody has attacked before."""
    return preset("default", bounds)
