"""How a paper measured alignment, read from a TOML file: sets, methods, tolerances, and what was reported."""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veridical.records import RecordError, explain_invalid

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_PUBLISHED = "recipes/bordt2023.toml"

Option = bool | int | float | str
Fraction = Annotated[float, Field(ge=0, le=1)]


class Reported(BaseModel):
    """A published mean fraction and the range that repetitions of it fall into.

    Attributes:
        mean: over images.
        low: lower end of the range.
        high: upper end.
        source: where it is printed.
    """

    model_config = _STRICT

    mean: Fraction
    low: Fraction
    high: Fraction
    source: str = Field(min_length=1)


class ImageSet(BaseModel):
    """One set of images on a manifold, and how methods were run on it.

    Attributes:
        source: where this is said.
        approach: "generative" (drawn from the prior) or "reconstructive" (reconstructions of real images).
        latents: k.
        dimension: d = C x H x W.
        tolerance: relative, for `TangentSettings`.
        target: the explained class.
        images: which ones count, in words.
        methods: options by the name of the built-in method.
        reported: published mean fractions by method.
    """

    model_config = _STRICT

    source: str = Field(min_length=1)
    approach: Literal["generative", "reconstructive"]
    latents: int = Field(ge=1)
    dimension: int = Field(ge=2)
    tolerance: float = Field(gt=0, lt=1)
    target: Literal["predicted", "label"]
    images: str
    methods: dict[str, dict[str, Option]] = Field(min_length=1)
    reported: dict[str, Reported] = Field(default_factory=dict)


class AlignmentRecipe(BaseModel):
    """A paper's sets by name."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    sets: dict[str, ImageSet] = Field(min_length=1)


def load_recipe(path: str | Path | None = None) -> AlignmentRecipe:
    """Read and validate a recipe.

    The methods of a set become explainers by `veridical.method(name, **options)`.

    Args:
        path: the TOML file; None for Bordt et al. 2023, which comes with the package.

    Raises:
        RecordError: if the file is missing, is not TOML, or has a wrong field; the message names it.
    """
    shown = _PUBLISHED if path is None else str(path)
    try:
        file = resources.files("veridical") / shown if path is None else Path(path)
        return AlignmentRecipe.model_validate_json(
            json.dumps(tomllib.loads(file.read_text(encoding="utf-8")))
        )
    except OSError as error:
        raise RecordError(f"expected a recipe at {shown}, got {error.strerror}; check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise RecordError(f"expected TOML in {shown}, got {error}; mend that line") from error
    except ValidationError as error:
        raise RecordError(f"{explain_invalid(shown, error)}; mend that field") from error
