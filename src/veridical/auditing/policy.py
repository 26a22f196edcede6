"""The policy: which tests a method must pass, with a threshold and its source for each."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from veridical.checks import nearest_names
from veridical.records import Decision, explain_invalid

TEST_NAMES = (
    "random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence", "manipulation",
)  # fmt: skip


class PolicyError(ValueError):
    """A policy file is missing, is not TOML or has a wrong field."""


class TestPolicy(BaseModel):
    """What one test asks.

    Attributes:
        required: whether a method must pass to be believed; otherwise the test is advisory.
        statistic: the aggregate statistic of `scores.parquet` that is judged.
        layer: "" for none, "first" or "last" of the stored layers, "first-convolution", or a layer's name.
        fails: the side of the threshold on which a method fails; the threshold itself fails.
        threshold: compared with both ends of the statistic's confidence interval.
        minimum_images: with fewer images the test decides nothing.
        source: where the threshold comes from; it is printed beside every verdict.
    """

    __test__ = False  # not a test case for pytest
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    required: bool = True
    statistic: str = Field(min_length=1)
    layer: str = ""
    fails: Literal["above", "below"] = "above"
    threshold: float = Field(allow_inf_nan=False)
    minimum_images: int = Field(default=5, ge=1)
    source: str = Field(min_length=1)

    @field_validator("threshold", mode="before")
    @classmethod
    def _whole_numbers_too(cls, value: object) -> object:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Policy(BaseModel):
    """All tests of a policy, the methods that a gate looks at, and the verdicts that it lets pass."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1)
    methods: list[str] = Field(default_factory=list)
    admit: list[Decision] = Field(default=["believable"], min_length=1)
    tests: dict[str, TestPolicy] = Field(min_length=1)

    @field_validator("tests")
    @classmethod
    def _known_tests(cls, tests: dict[str, TestPolicy]) -> dict[str, TestPolicy]:
        for name in tests:
            if name not in TEST_NAMES:
                raise ValueError(f"unknown test {name!r}; {nearest_names(name, TEST_NAMES)}")
        return tests


def load_policy(path: str | Path | None = None) -> Policy:
    """Read and validate a policy file.

    Args:
        path: the TOML file; None for the policy that comes with the package.

    Raises:
        PolicyError: the file is missing, is not TOML or has a wrong field; the message names the field.
    """
    shown = "policies/default.toml" if path is None else str(path)
    try:
        if path is None:
            text = resources.files("veridical").joinpath("policies/default.toml").read_text(encoding="utf-8")
        else:
            text = Path(path).read_text(encoding="utf-8")
        return Policy.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise PolicyError(f"expected a policy file, got {shown} ({reason}); give a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"expected TOML in {shown}, got a syntax error: {error}; mend that line") from error
    except ValidationError as error:
        raise PolicyError(f"{explain_invalid(shown, error)}; see docs/verdicts.md for the fields") from error
