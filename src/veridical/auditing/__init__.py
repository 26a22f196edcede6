"""The audit: runs every test on every method, and says which methods may be believed."""

from veridical.attributions import methods as method_names
from veridical.attributions.entry import method_entry
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
    "Policy",
    "PolicyError",
    "Preset",
    "Progress",
    "Task",
    "TestPolicy",
    "audit",
    "check_directory",
    "describe",
    "find_methods",
    "find_tests",
    "judge",
    "load_policy",
    "method_entry",
    "method_names",
]
