"""The report: one self-contained page from a finished run directory.

Nothing is computed here that decides a verdict; the page shows what the run stored.
"""

from veridical.report.page import render

__all__ = ["render"]
