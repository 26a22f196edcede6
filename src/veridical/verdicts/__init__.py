"""May a method be believed? Policies, verdicts and comparisons from stored scores, without torch."""

from veridical.verdicts.comparison import Change, Comparison, StoredRun, compare_runs, read_stored
from veridical.verdicts.evidence import Measured, ScoreTable
from veridical.verdicts.intervals import LEVEL
from veridical.verdicts.policy import COUNTED, TEST_NAMES, Policy, PolicyError, TestPolicy, load_policy
from veridical.verdicts.verdict import judge

__all__ = [
    "COUNTED",
    "LEVEL",
    "TEST_NAMES",
    "Change",
    "Comparison",
    "Measured",
    "Policy",
    "PolicyError",
    "ScoreTable",
    "StoredRun",
    "TestPolicy",
    "compare_runs",
    "judge",
    "load_policy",
    "read_stored",
]
