"""The relevance engine: record an unmodified module's forward pass, propagate relevance over it."""

from veridical.rules.catalog import (
    Bias,
    affine_alpha_beta,
    affine_epsilon,
    affine_gradient,
    affine_z,
    affine_z_box,
    deconvolved,
    gradient,
    guided,
    pass_through,
    proportional,
    signed_sum,
)
from veridical.rules.operations import Operation
from veridical.rules.propagate import (
    Coverage,
    Propagation,
    UnsupportedOperation,
    check_rules,
    class_start,
    coverage,
    propagate,
)
from veridical.rules.ruleset import AffineRule, Application, Rule, RuleSet, Seed
from veridical.rules.trace import Trace, record

__all__ = [
    "AffineRule",
    "Application",
    "Bias",
    "Coverage",
    "Operation",
    "Propagation",
    "Rule",
    "RuleSet",
    "Seed",
    "Trace",
    "UnsupportedOperation",
    "affine_alpha_beta",
    "affine_epsilon",
    "affine_gradient",
    "affine_z",
    "affine_z_box",
    "check_rules",
    "class_start",
    "coverage",
    "deconvolved",
    "gradient",
    "guided",
    "pass_through",
    "propagate",
    "proportional",
    "record",
    "signed_sum",
]
