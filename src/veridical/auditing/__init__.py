"""The audit: runs every test on every method, and says which methods may be believed."""

from veridical.attacks import array_target, image_target, region_target, text_target, uniform_target
from veridical.attributions import Patterns, fit_patterns
from veridical.attributions import methods as method_names
from veridical.attributions.entry import method_entry, method_summary
from veridical.auditing.comparison import Change, Comparison, StoredRun, compare_runs, read_stored
from veridical.auditing.forgery import Forgery, Moment, attack_settings, defended, forge
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
from veridical.auditing.policy import TEST_NAMES, Policy, PolicyError, TestPolicy, load_policy
from veridical.auditing.result import AuditReport
from veridical.auditing.run import AuditOptions, Progress, audit
from veridical.auditing.store import check_directory
from veridical.auditing.verdict import judge

__all__ = [
    "DEFAULT_METHODS",
    "DESCRIPTIONS",
    "PRESETS",
    "TEST_NAMES",
    "AuditOptions",
    "AuditReport",
    "Change",
    "Comparison",
    "Forgery",
    "Moment",
    "Patterns",
    "Policy",
    "PolicyError",
    "Preset",
    "Progress",
    "StoredRun",
    "Task",
    "TestPolicy",
    "array_target",
    "attack_settings",
    "audit",
    "check_directory",
    "compare_runs",
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
    "read_stored",
    "region_target",
    "text_target",
    "uniform_target",
]
