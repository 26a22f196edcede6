"""A finished run as it was stored: its photographs, its maps and its verdicts, without the network."""

import re
from functools import cached_property
from pathlib import Path
from threading import Event

from veridical.explore.asked import Look
from veridical.explore.seen import MOST_IMAGES, Array, Facts, check_method, check_place, drawn, left_out
from veridical.records import RecordError
from veridical.report.pictures import photo
from veridical.report.reader import read_data

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._,()=+-]{0,99}")


class StoredRun:
    """A run directory to look at.

    Args:
        directory: that an audit wrote.
        most: images that are shown at most, the first ones.

    Raises:
        RecordError: it holds no run that can be read, or one without photographs.
    """

    live = False

    def __init__(self, directory: str | Path, most: int = MOST_IMAGES) -> None:
        """Read the description and the photographs; maps are read when they are asked for."""
        self._data = read_data(Path(directory))
        self.run = self._data.run
        found = self._data.maps("images").get("images")
        if found is None or found.ndim != 4 or not len(found):
            raise RecordError(f"expected photographs in {directory}, got a run without; audit again")
        count = min(most, len(found), len(self.run.images))
        self.images: Array = found[:count]
        self._maps: dict[str, Array | None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photographs."""
        return tuple(image.name for image in self.run.images[: len(self.images)])

    @cached_property
    def methods(self) -> dict[str, str]:
        """What each method of the run does, by its name; no name is a path."""
        known = self.run.methods.items()
        return {name: record.description for name, record in known if _NAME.fullmatch(name)}

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdicts, by method."""
        return {name: found.verdict for name, found in self.run.verdicts.items()}

    def state(self) -> Facts:
        """See `Explored`."""
        notes = [
            "These are the maps that the audit stored, each for the class that was explained. For other "
            "classes, smoothing and manipulation start the page with --model as well."
        ]
        return {
            "live": False,
            "name": self.run.model.name,
            "notes": notes + left_out(len(self.images), len(self.run.images)),
            "labels": [],
            "images": [self._image(place) for place in range(len(self.images))],
            "methods": [
                {"name": name, "description": text, "verdict": self.verdicts.get(name, "")}
                for name, text in self.methods.items()
            ],
        }

    def _image(self, place: int) -> Facts:
        return {
            "name": self.run.images[place].name,
            "picture": photo(self.images[place]),
            "classes": [self._explained(place)],
        }

    def _explained(self, place: int) -> Facts:
        image = self.run.images[place]
        label = image.label or f"class {image.target}"
        return {"target": image.target, "label": label, "probability": image.probability}

    def draw(self, look: Look, stop: Event) -> Facts:
        """See `Explored`; the map is the stored one, whatever the smoothing."""
        check_place(look.image, len(self.images), "an image")
        check_method(look.method, self.methods)
        explained = self._explained(look.image)
        if look.beta is not None or look.noise > 0 or look.target not in (None, explained["target"]):
            raise ValueError(
                f"expected the stored class {explained['target']} without smoothing, got another map, which "
                "needs the network; start the page with --model as well"
            )
        maps = self._read(look.method)
        if maps is None or look.image >= len(maps):
            raise ValueError(f"expected a stored map of {look.method} for this image, got none; audit again")
        return {**drawn(maps[look.image]), **explained}

    def _read(self, method: str) -> Array | None:
        """The maps (N, H, W) of a method, read once."""
        if method not in self._maps:
            found = self._data.maps(method).get("original")
            fits = found is not None and found.ndim == 3
            self._maps[method] = found if fits else None
        return self._maps[method]
