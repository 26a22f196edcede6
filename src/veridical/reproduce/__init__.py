"""Figures and tables of the papers, computed again, with the papers' claims checked against the numbers."""

from veridical.reproduce.catalog import CATALOG, Entry, find_entry
from veridical.reproduce.claims import Claim, Expected, Stated
from veridical.reproduce.given import Given, Subject, Surface
from veridical.reproduce.running import Moment, Reproduced, check_place, reproduce

__all__ = [
    "CATALOG",
    "Claim",
    "Entry",
    "Expected",
    "Given",
    "Moment",
    "Reproduced",
    "Stated",
    "Subject",
    "Surface",
    "check_place",
    "find_entry",
    "reproduce",
]
