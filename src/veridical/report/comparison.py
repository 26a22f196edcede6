"""The page of a comparison of runs: one small file without pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from veridical.report import words

SIGNS = {"better": "▲", "worse": "▼", "unchanged": "=", "not decided": "○"}


def comparison_page(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The HTML of a comparison; self-contained, without JavaScript, the same for the same content.

    Args:
        comparisons: each as `Comparison.as_dict` gives it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html.j2").render(
        comparisons=comparisons,
        number=words.number,
        interval=words.interval,
        statistic=words.statistic,
        title=lambda test: words.explain_test(test).title,
        signs=SIGNS,
        counted=lambda one, direction: sum(row["direction"] == direction for row in one["changes"]),
    )
