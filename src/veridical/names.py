"""Which known name somebody may have meant: the end of every message about a wrong one. Without torch."""

import difflib
from collections.abc import Collection


def nearest_names(name: str, known: Collection[str]) -> str:
    """The text that names the nearest known names: "did you mean a, b?"; or all of them when none is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(sorted(known))}"
