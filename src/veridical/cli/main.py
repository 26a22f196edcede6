"""The list of commands."""

from typing import Annotated

import typer

from veridical.cli import (
    attack,
    audit,
    compare,
    explain,
    gate,
    manifold,
    manifold_generate,
    methods,
    models,
    report,
    study,
    tests,
    train,
)

app = typer.Typer(
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


app.command("audit")(audit.command)
app.command("explain")(explain.command)
app.command("attack")(attack.command)
app.command("train")(train.command)
app.command("gate")(gate.command)
app.command("compare")(compare.command)
app.command("report")(report.command)
app.add_typer(study.app, name="study")
app.add_typer(manifold.app, name="manifold")
manifold.app.command("generate")(manifold_generate.generate)
manifold.app.command("reconstruct")(manifold_generate.reconstruct)
app.command("methods")(methods.command)
app.command("tests")(tests.command)
app.command("models")(models.command)


def main() -> None:
    """Run the command line."""
    app()
