"""`veridical models`: what `--model` takes."""

from veridical.cli.listing import show
from veridical.cli.options import Json
from veridical.models import model_specs


def command(as_json: Json = False) -> None:
    """List the forms of a model specification."""
    show(model_specs(), as_json)
