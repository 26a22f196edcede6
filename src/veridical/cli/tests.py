"""`veridical tests`: the tests of explanations."""

from veridical.auditing import DESCRIPTIONS
from veridical.cli.listing import show
from veridical.cli.options import Json


def command(as_json: Json = False) -> None:
    """List the tests of explanations."""
    show(DESCRIPTIONS, as_json)
