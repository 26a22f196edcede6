"""How an audit's work is divided and done, and what it will cost."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from veridical.auditing import Executor, LocalExecutor, Plan, RayExecutor
from veridical.checks import nearest_names

EXECUTORS = ("local", "ray")

ExecutorName = Annotated[str, typer.Option("--executor", help="local, or ray for many machines and GPUs.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="Of a running cluster; default: one on this machine.")
]
Workers = Annotated[int | None, typer.Option("--workers", help="Of ray; default: as many as have room.")]
MemoryGib = Annotated[
    float | None, typer.Option("--memory-gib", help="What a task may use; default: 4, or as the stored run.")
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what would be done and its cost, and stop.")]


def find_executor(name: str, address: str | None, workers: int | None) -> Executor:
    """The executor of that name.

    Raises:
        ValueError: there is none, or an option belongs to another one or is out of range.
    """
    if name not in EXECUTORS:
        raise ValueError(f"expected an executor, got {name!r}; {nearest_names(name, EXECUTORS)}")
    if name == "ray":
        return RayExecutor(address, workers)
    for option, value in (("--ray-address", address), ("--workers", workers)):
        if value is not None:
            raise ValueError(f"expected {option} only with --executor ray, got {value!r}; leave it out")
    return LocalExecutor()


def print_plan(plan: Plan, as_json: bool) -> None:
    """A table of the tests with their cost, or JSON."""
    totals = {"tasks": plan.tasks, "done": plan.done, "seconds": round(plan.seconds, 1), "bytes": plan.bytes}
    if as_json:
        content = {**totals, **asdict(plan), "images_in_a_task": plan.chunk}
        content.pop("chunk")
        typer.echo(json.dumps(content, indent=1))
        return
    heads = ("method", "test", "images", "tasks", "done", "passes", "time", "storage")
    # Whatever the width of the terminal: a name that is cut off cannot be told from another.
    table = Table(*(Column(head, overflow="fold") for head in heads))
    for line in plan.lines:
        table.add_row(
            line.method, line.test, f"{line.images:,}", f"{line.tasks:,}", f"{line.done:,}",
            f"{line.passes:,.0f}", duration(line.seconds), storage(line.bytes),
        )  # fmt: skip
    console = Console()
    console.print(table)
    left = f"about {duration(plan.seconds)} of one worker for what is not done"
    console.print(
        f"{plan.tasks:,} tasks of at most {plan.chunk} images, {plan.done:,} done; {left}, {plan.error}; "
        f"{storage(plan.bytes)} on the disk besides the report; {1000 * plan.probe.forward:.3g} ms a forward "
        "pass of an image",
        markup=False,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in words of the size that people use."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def storage(count: int) -> str:
    """Bytes in words of the size that people use."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
