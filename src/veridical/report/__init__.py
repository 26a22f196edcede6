"""The report: one self-contained page from a finished run directory.

Nothing is computed here that decides a verdict; the page shows what the run stored.
"""

from veridical.report.comparison import comparison_page
from veridical.report.forgery import AttackPictures, attack_pictures
from veridical.report.page import render

__all__ = ["AttackPictures", "attack_pictures", "comparison_page", "render"]
