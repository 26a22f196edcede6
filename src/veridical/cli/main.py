"""The list of commands."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "audit": ("audit", "command"),
    "explain": ("explain", "command"),
    "attack": ("attack", "command"),
    "train": ("train", "command"),
    "roar": ("roar", "command"),
    "gate": ("gate", "command"),
    "compare": ("compare", "command"),
    "report": ("report", "command"),
    "explore": ("explore", "command"),
    "study": ("study", "app"),
    "manifold": ("manifold_measure", "app"),
    "reproduce": ("reproduce", "command"),
    "methods": ("methods", "command"),
    "tests": ("tests", "command"),
    "models": ("models", "command"),
}
"""By name: the module of a command in `veridical.cli`, and what of it is the command or the group."""


class OnDemand(TyperGroup):
    """Loads a command when it is asked for: those that only read stored results start without torch."""

    def __init__(self, **settings: Any) -> None:
        """Keep the names, in their order."""
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None for an unknown one."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        found = getattr(import_module(f"veridical.cli.{module}"), attribute)
        holder = typer.Typer(add_completion=False, rich_markup_mode=None)
        holder.callback()(_options)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=cmd_name)
        else:
            holder.command(cmd_name)(found)
        group: Any = typer.main.get_command(holder)
        return group.commands[cmd_name]


app = typer.Typer(
    cls=OnDemand,
    help="Find out which explanations of an image classifier you may believe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"veridical {version('veridical')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find out which explanations of an image classifier you may believe."""


def main() -> None:
    """Run the command line."""
    app()
