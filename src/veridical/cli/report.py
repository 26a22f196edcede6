"""`veridical report`: the page of a stored run."""

from pathlib import Path
from typing import Annotated

import typer

from veridical.cli.errors import one_line_errors
from veridical.report import render

RunDirectory = Annotated[Path, typer.Argument(help="A run directory of `veridical audit`.")]


def command(run_dir: RunDirectory) -> None:
    """Write report.html again from the stored results."""
    with one_line_errors():
        typer.echo(str(render(run_dir).resolve()))
