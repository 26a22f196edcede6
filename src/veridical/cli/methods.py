"""`veridical methods`: the built-in explanation methods."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from veridical.auditing import method_entry, method_names, method_summary
from veridical.cli.errors import one_line_errors
from veridical.cli.listing import show
from veridical.cli.options import Json

Name = Annotated[str | None, typer.Argument(help="Show one method: its rules, options, source and peers.")]


def command(name: Name = None, as_json: Json = False) -> None:
    """List the built-in explanation methods, or show one."""
    with one_line_errors():
        if name is None or as_json:
            names = method_names() if name is None else [name]
            show({one: method_summary(one).replace("`", "") for one in names}, as_json)
            return
        entry, console = method_entry(name), Console()
        if console.is_terminal:
            console.print(Markdown(entry))
        else:
            typer.echo(entry, nl=False)
