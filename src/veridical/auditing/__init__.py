"""The audit: runs every test on every method, and says which methods may be believed."""

from veridical.attacks import array_target, image_target, region_target, text_target, uniform_target
from veridical.attributions import Patterns, fit_patterns
from veridical.attributions import methods as method_names
from veridical.attributions.entry import method_entry, method_summary
from veridical.auditing.applicability import Applicability, Recorded, check_model
from veridical.auditing.chunks import check_memory
from veridical.auditing.cost import Estimate, Plan
from veridical.auditing.executor import Executor, LocalExecutor
from veridical.auditing.forgery import Forgery, Moment, attack_settings, defended, forge, published
from veridical.auditing.inputs import Inputs
from veridical.auditing.plan import (
    DEFAULT_METHODS,
    DESCRIPTIONS,
    PRESETS,
    Preset,
    Task,
    describe,
    find_methods,
    find_tests,
)
from veridical.auditing.ray_executor import RayExecutor
from veridical.auditing.result import AuditReport
from veridical.auditing.run import AuditOptions, Progress, audit, plan_audit
from veridical.auditing.store import check_directory
from veridical.auditing.tangent import ManifoldLike, open_manifold
from veridical.faithfulness import Roar, RoarData, RoarSettings, read_roar, roar
from veridical.verdicts import TEST_NAMES, Policy, PolicyError, TestPolicy, judge, load_policy

__all__ = [
    "DEFAULT_METHODS",
    "DESCRIPTIONS",
    "PRESETS",
    "TEST_NAMES",
    "Applicability",
    "AuditOptions",
    "AuditReport",
    "Estimate",
    "Executor",
    "Forgery",
    "Inputs",
    "LocalExecutor",
    "ManifoldLike",
    "Moment",
    "Patterns",
    "Plan",
    "Policy",
    "PolicyError",
    "Preset",
    "Progress",
    "RayExecutor",
    "Recorded",
    "Roar",
    "RoarData",
    "RoarSettings",
    "Task",
    "TestPolicy",
    "array_target",
    "attack_settings",
    "audit",
    "check_directory",
    "check_memory",
    "check_model",
    "defended",
    "describe",
    "find_methods",
    "find_tests",
    "fit_patterns",
    "forge",
    "image_target",
    "judge",
    "load_policy",
    "method_entry",
    "method_names",
    "method_summary",
    "open_manifold",
    "plan_audit",
    "published",
    "read_roar",
    "region_target",
    "roar",
    "text_target",
    "uniform_target",
]
