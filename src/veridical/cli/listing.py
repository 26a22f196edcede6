"""What there is, one a line or as JSON."""

import json
from collections.abc import Mapping

import typer


def show(entries: Mapping[str, str], as_json: bool) -> None:
    """Write names and descriptions to stdout."""
    if as_json:
        rows = [{"name": name, "description": text} for name, text in entries.items()]
        typer.echo(json.dumps(rows, indent=1))
        return
    width = max(map(len, entries), default=0)
    for name, text in entries.items():
        typer.echo(f"{name:<{width}}  {text}".rstrip())
