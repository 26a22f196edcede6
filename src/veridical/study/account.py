"""The analysis as files: JSON for programs, Markdown and a figure for people."""

import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from veridical.records import write_bytes, write_json
from veridical.study.analysis import Analysis, Tally
from veridical.study.words import PUBLISHED

JSON_FILE, MARKDOWN_FILE, FIGURE_FILE = "analysis.json", "analysis.md", "choices.png"
NAMES = {
    "parts": "1 orthogonal (A), tangent (B)",
    "fractions": "2 lower (A), higher (B) fraction",
    "object": "3 object: first (A), second (B)",
}


def write_analysis(analysis: Analysis, folder: str | Path) -> list[Path]:
    """Write `analysis.json`, `analysis.md` and `choices.png` into a folder and return their paths.

    Raises:
        OSError: a file cannot be written.
    """
    place = Path(folder)
    paths = [place / name for name in (JSON_FILE, MARKDOWN_FILE, FIGURE_FILE)]
    write_json(paths[0], _or_null(asdict(analysis)))
    write_bytes(paths[1], markdown(analysis).encode())
    write_bytes(paths[2], figure(analysis))
    return paths


def markdown(analysis: Analysis) -> str:
    """The analysis in words and tables."""
    started = [one for one in analysis.progress if any(one.answered.values())]
    finished = [one for one in analysis.progress if one.complete]
    lines = [
        f"# {analysis.title}",
        "",
        f"{len(analysis.progress)} invited, {len(started)} gave answers, {len(finished)} finished.",
        "",
        *_table("All answers, those of unfinished participants included", analysis.every, analysis.level),
        *_table("Finished participants only", analysis.complete, analysis.level),
        "## Unfinished participants",
        "",
        *_unfinished(analysis),
        "",
        "![Share of answers for B in each task](choices.png)",
        "",
    ]
    return "\n".join(lines)


def figure(analysis: Analysis) -> bytes:
    """The share of B in each task with its interval, a dot a participant, and the published share, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 1.4 + 0.9 * len(analysis.every)), dpi=90, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    axes.axvline(0.5, color="#777777", linestyle="--", linewidth=1)
    for row, one in enumerate(analysis.every):
        axes.plot(one.participant_shares, [row] * one.participants, "o", color="#9db8d8", markersize=5)
        if not math.isnan(one.share):
            axes.plot([one.low, one.high], [row, row], color="#124f96", linewidth=2)
            axes.plot(one.share, row, "s", color="#124f96")
        published = PUBLISHED[one.task]
        axes.plot(published[1] / sum(published), row, "|", color="#9c1c1c", markersize=18)
        axes.annotate(f"A {one.a}   B {one.b}", (0.02, row - 0.28), fontsize=9)
    axes.set_yticks(range(len(analysis.every)), [NAMES[one.task] for one in analysis.every])
    axes.set_ylim(len(analysis.every) - 0.5, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(f"share of B, {analysis.level:.0%} Wilson interval; dots: participants; red: published")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _table(title: str, tallies: tuple[Tally, ...], level: float) -> list[str]:
    head = (
        f"| task | participants | A | B | share of B ({level:.0%} Wilson) | binomial p | t-test p (answers) "
        f"| mean of participants ({level:.0%}) | t-test p (participants) | left chosen (p) | published A, B |"
    )
    rows = [
        f"| {NAMES[one.task]} | {one.participants} | {one.a} | {one.b} "
        f"| {_number(one.share)} ({_number(one.low)} to {_number(one.high)}) | {_p(one.binomial_p)} "
        f"| {_p(one.t_p)} | {_mean(one)} | {_p(one.participants_p)} "
        f"| {one.left} of {one.a + one.b} ({_p(one.left_p)}) "
        f"| {PUBLISHED[one.task][0]}, {PUBLISHED[one.task][1]} |"
        for one in tallies
    ]
    return [f"## {title}", "", head, "|" + " --- |" * 11, *rows, ""]


def _mean(one: Tally) -> str:
    if not one.participants:
        return "not measured"
    mean = sum(one.participant_shares) / one.participants
    return f"{_number(mean)} ({_number(one.participants_low)} to {_number(one.participants_high)})"


def _unfinished(analysis: Analysis) -> list[str]:
    rows = [one for one in analysis.progress if not one.complete]
    if not rows:
        return ["None."]
    lines = ["| participant | consented | answered |", "| --- | --- | --- |"]
    for one in rows:
        done = ", ".join(f"{name} {count} of {one.asked[name]}" for name, count in one.answered.items())
        lines.append(f"| {one.number} | {'yes' if one.consented else 'no'} | {done} |")
    return lines


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.3f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _or_null(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_or_null(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
