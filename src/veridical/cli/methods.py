"""`veridical methods`: the built-in explanation methods."""

from veridical.auditing import PRESETS, describe, find_methods, method_names
from veridical.cli.listing import show
from veridical.cli.options import Json


def command(as_json: Json = False) -> None:
    """List the built-in explanation methods."""
    found = find_methods(method_names(), PRESETS["standard"])
    show({name: describe(explainer)[1] for name, explainer in found.items()}, as_json)
