"""The user study: people choose one of two pictures of an explanation, in three A/B tasks."""

from veridical.study.account import write_analysis
from veridical.study.analysis import Analysis, Tally, analyze
from veridical.study.answers import Answers
from veridical.study.prepare import StudyPlan, prepare
from veridical.study.record import Study, read_study
from veridical.study.server import StudyServer

__all__ = [
    "Analysis",
    "Answers",
    "Study",
    "StudyPlan",
    "StudyServer",
    "Tally",
    "analyze",
    "prepare",
    "read_study",
    "write_analysis",
]
