"""`veridical methods`: the built-in explanation methods."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from veridical.auditing import PRESETS, describe, find_methods, method_entry, method_names
from veridical.cli.errors import one_line_errors
from veridical.cli.listing import show
from veridical.cli.options import Json

Name = Annotated[str | None, typer.Argument(help="Show one method: its rules, options, source and peers.")]


def command(name: Name = None, as_json: Json = False) -> None:
    """List the built-in explanation methods, or show one."""
    with one_line_errors():
        names = method_names() if name is None else [name]
        found = find_methods(names, PRESETS["standard"])
        if name is None or as_json:
            show({key: describe(explainer)[1] for key, explainer in found.items()}, as_json)
            return
        entry, console = method_entry(name), Console()
        if console.is_terminal:
            console.print(Markdown(entry))
        else:
            typer.echo(entry, nl=False)
