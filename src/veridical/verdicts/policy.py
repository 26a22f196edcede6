"""The policy: which tests a method must pass, with a threshold and its source for each."""

import tomllib
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from veridical.names import nearest_names
from veridical.records import Decision, explain_invalid
from veridical.verdicts.intervals import IntervalKind

Range = tuple[float, float]

UNIT: Range = (0.0, 1.0)
SIGNED: Range = (-1.0, 1.0)
ANY: Range = (float("-inf"), float("inf"))

_RANDOMIZED = {"median_ssim": SIGNED, "flipped_share": UNIT}

STATISTICS: Mapping[str, Mapping[str, Range]] = {
    "random-logit": _RANDOMIZED,
    "cascading-randomization": _RANDOMIZED,
    "pixel-flipping": {
        "median_morf_margin": SIGNED, "median_lerf_margin": SIGNED, "median_separation": SIGNED,
        "median_morf_area": UNIT, "median_lerf_area": UNIT, "median_random_area": UNIT,
        "median_morf_area_over": SIGNED, "median_lerf_area_over": SIGNED,
        "median_morf_p_value": UNIT, "median_lerf_p_value": UNIT, "median_morf_probability": UNIT,
        "median_lerf_probability": UNIT, "median_random_probability": UNIT,
    },
    "cosine-convergence": {
        "median_cosine": UNIT, "mean_cosine": UNIT, "one_minus_median_cosine": UNIT,
    },
    "manipulation": {
        "median_pcc_margin": (-2.0, 2.0), "median_pcc_to_target": SIGNED, "median_pcc_to_original": SIGNED,
        "median_ssim_to_target": SIGNED, "median_ssim_to_original": SIGNED, "median_mse_to_target": ANY,
        "median_mse_to_original": ANY, "median_linf": ANY, "median_l2": ANY, "median_psnr": ANY,
        "median_probability_change": SIGNED, "median_probability_norm": ANY, "median_class_kept": UNIT,
    },
    "tangent-space": {
        "median_tangent_margin": SIGNED, "median_tangent_fraction": UNIT, "median_other_image_fraction": UNIT,
        "median_random_p_value": UNIT, "above_random_share": UNIT,
    },
    "curvature": {
        "median_largest_movement": (0.0, 2.0), "median_expected_movement": (0.0, 2.0),
        "median_largest_curvature": (0.0, float("inf")), "median_typical_curvature": (0.0, float("inf")),
    },
    "infidelity": {
        "median_explained_margin": SIGNED, "median_explained": UNIT, "median_explained_by_chance": UNIT,
        "median_infidelity": (0.0, float("inf")), "median_scale": ANY,
    },
    "sensitivity": {
        "median_sensitivity": (0.0, float("inf")), "median_largest_distance": (0.0, float("inf")),
    },
    "roar": {"mean_roar_margin": SIGNED, "mean_roar_accuracy": UNIT},
}  # fmt: skip
"""What can be judged: the statistics with an interval of each test, with the range of a threshold."""

TEST_NAMES = tuple(STATISTICS)

COUNTED: Mapping[str, str] = {"manipulation": "pairs", "roar": "trainings"}
"""What the number behind a statistic counts, by test, where it is not images."""

TRAININGS = frozenset({"roar"})
"""Tests whose statistics are means over a few trainings, with Student's interval."""


class PolicyError(ValueError):
    """A policy file is missing, is not TOML or has a wrong field."""


class TestPolicy(BaseModel):
    """What one test asks.

    Attributes:
        required: whether a method must pass to be believed; otherwise the test is advisory.
        statistic: the aggregate statistic of `scores.parquet` that is judged, one of `STATISTICS`.
        layer: "" for none, "first" or "last" of the stored layers, "first-convolution", or a layer's name.
        fails: the side of the threshold on which a method fails; the threshold itself fails.
        threshold: compared with both ends of the statistic's confidence interval.
        minimum_images: with fewer images (pairs, trainings: see `COUNTED`) the test decides nothing.
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
    """All tests of a policy, the methods that a gate looks at, and the verdicts that it lets pass.

    Attributes:
        name: of the policy.
        methods: what `veridical gate` looks at; none for every method of the run.
        admit: the verdicts that pass the gate.
        level: the probability that all conclusions about the listed methods and required tests are right.
        interval: how intervals of medians are made, see `median_interval`.
        comparisons: "holm" widens each interval as the number of conclusions asks for (see `holm_level`),
            "none" takes `level` for each.
        tests: by name, what each asks.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1)
    methods: list[str] = Field(default_factory=list)
    admit: list[Decision] = Field(default=["believable"], min_length=1)
    level: float = Field(default=0.99, ge=0.5, lt=1.0)
    interval: IntervalKind = "bootstrap"
    comparisons: Literal["holm", "none"] = "holm"
    tests: dict[str, TestPolicy] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_statistics(self) -> "Policy":
        for name, rule in self.tests.items():
            where = f"tests.{name}"
            _known(f"test {where!r}", name, TEST_NAMES)
            _known(f"'{where}.statistic'", rule.statistic, STATISTICS[name])
            low, high = STATISTICS[name][rule.statistic]
            if not low <= rule.threshold <= high:
                raise ValueError(
                    f"field '{where}.threshold': expected {low:g} to {high:g}, where {rule.statistic} lies, "
                    f"got {rule.threshold:g}"
                )
        return self

    def listed(self, methods: Collection[str]) -> list[str]:
        """The methods of a run that a gate looks at.

        Raises:
            ValueError: the policy lists one that the run does not have.
        """
        for name in self.methods:
            if name not in methods:
                near = nearest_names(name, methods)
                raise ValueError(f"expected the methods of the policy in the run, got no {name!r}; {near}")
        return list(dict.fromkeys(self.methods or methods))


def load_policy(path: str | Path | None = None) -> Policy:
    """Read and validate a policy file.

    Args:
        path: the TOML file; None for the policy that comes with the package.

    Raises:
        PolicyError: the file is missing, is not TOML or has a wrong field; the message names file, key and
            value, and for an unknown key the nearest one.
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
        raise PolicyError(f"{_explain(shown, error)}; see docs/verdicts.md for the fields") from error


def _known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what}: {name!r}; {nearest_names(name, known)}")


def _explain(shown: str, error: ValidationError) -> str:
    """One line; for a key that does not exist the nearest one, which most often was meant."""
    found = error.errors()
    unknown: Any = next((one for one in found if one["type"] == "extra_forbidden"), None)
    if unknown is not None:
        *place, key = (str(part) for part in unknown["loc"])
        known = TestPolicy.model_fields if place else Policy.model_fields
        name = ".".join([*place, key])
        return f"{shown}: unknown key {name!r} (= {unknown['input']!r}); {nearest_names(key, known)}"
    if found[0]["type"] == "value_error" and not found[0]["loc"]:
        return f"{shown}: {found[0]['ctx']['error']}"
    return explain_invalid(shown, error)
