"""What both kinds of page show: the photographs, and maps as small pictures."""

from collections.abc import Mapping
from threading import Event
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from veridical.explore.asked import Look
from veridical.report.pictures import is_signed, map_tile, scale

MOST_IMAGES = 50

Array = NDArray[np.float32]
Facts = dict[str, Any]


class Explored(Protocol):
    """What a page looks at."""

    live: bool

    def state(self) -> Facts:
        """Everything that the page needs at its start, for JSON."""
        ...

    def draw(self, look: Look, stop: Event) -> Facts:
        """One map.

        Raises:
            ValueError: the image, the class or the method is unknown, or there is no such map; the message
                is shown in the map's place.
        """
        ...


def check_place(place: int, count: int, what: str) -> int:
    """A place that exists.

    Raises:
        ValueError: it does not.
    """
    if not 0 <= place < count:
        raise ValueError(f"expected {what} of 0 to {count - 1}, got {place}; choose one of the page's")
    return place


def check_method(name: str, known: Mapping[str, Any]) -> str:
    """A method that the page has.

    Raises:
        ValueError: it has not.
    """
    if name not in known:
        raise ValueError(f"expected a method of this page, got {name!r}; choose one of {', '.join(known)}")
    return name


def drawn(values: Array) -> Facts:
    """A map (H, W) as a picture with its range; blue to red where it has a sign, else dark to light."""
    limit, signed = scale(values), is_signed(values)
    return {"picture": map_tile(values, limit=limit, signed=signed), "signed": signed, "limit": limit}


def left_out(shown: int, available: int) -> list[str]:
    """A note where not all images are shown."""
    return [f"{shown} of {available} images are shown; --limit sets how many."] if shown < available else []
