"""The relevance engine: record an unmodified module's forward pass, propagate relevance over it."""

from veridical.rules.bilinear import Gates, proportional_bilinear, signed_bilinear
from veridical.rules.catalog import (
    Bias,
    affine_alpha_beta,
    affine_contrast,
    affine_epsilon,
    affine_flat,
    affine_gradient,
    affine_products,
    affine_w_square,
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
from veridical.rules.patterns import affine_pattern
from veridical.rules.propagate import (
    Coverage,
    Propagation,
    UnsupportedOperation,
    applications,
    check_rules,
    class_start,
    coverage,
    propagate,
)
from veridical.rules.rectified import rectified
from veridical.rules.ruleset import AffineRule, Application, Rule, RuleSet, Seed, frees_trace
from veridical.rules.trace import Trace, record

__all__ = [
    "AffineRule",
    "Application",
    "Bias",
    "Coverage",
    "Gates",
    "Operation",
    "Propagation",
    "Rule",
    "RuleSet",
    "Seed",
    "Trace",
    "UnsupportedOperation",
    "affine_alpha_beta",
    "affine_contrast",
    "affine_epsilon",
    "affine_flat",
    "affine_gradient",
    "affine_pattern",
    "affine_products",
    "affine_w_square",
    "affine_z",
    "affine_z_box",
    "applications",
    "check_rules",
    "class_start",
    "coverage",
    "deconvolved",
    "frees_trace",
    "gradient",
    "guided",
    "pass_through",
    "propagate",
    "proportional",
    "proportional_bilinear",
    "record",
    "rectified",
    "signed_bilinear",
    "signed_sum",
]
