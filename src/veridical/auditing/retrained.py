"""Remove and retrain in the audit: networks are not trained, their accuracies are read from a folder."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from veridical.faithfulness import StoredRoar, read_roar
from veridical.metrics import Interval
from veridical.records import Score
from veridical.values import Explainer
from veridical.verdicts import LEVEL

CONTROLS = ("random", "edges")
"""Curves that know no network."""

ORDER = "most"
"""The most relevant pixels are removed: a low accuracy speaks for a map, and it is that which is judged."""


@dataclass(frozen=True, eq=False)
class Retrained:
    """A stored experiment, for some methods of an audit.

    Attributes:
        stored: the experiment.
        lacking: methods without a curve, with the reason.
        settings: what the scores depend on, for `run.json`.
    """

    stored: StoredRoar
    lacking: Mapping[str, str]
    settings: Mapping[str, Any]

    def scores(self, method: str, score: Callable[..., Score]) -> list[Score]:
        """The accuracies of a method and of the controls at each share, and the margins over random pixels.

        Args:
            method: its name.
            score: makes a row of a statistic's name, its value, and `layer`, `ci_low`, `ci_high` and `n`.
        """
        return [
            score(name, found.estimate, layer=layer, ci_low=found.low, ci_high=found.high, n=found.n)
            for name, layer, found in self._summaries(method)
        ]

    def _summaries(self, method: str) -> Iterator[tuple[str, str, Interval]]:
        """Statistic, share and interval, the shares of a statistic one after another."""
        roar = self.stored.roar
        controls = {name: name for name in self.settings["controls"]}
        for curve, key in {"roar": method, **controls}.items():
            for share, found in zip(roar.shares, roar.mean(key, ORDER, LEVEL), strict=True):
                yield f"mean_{curve}_accuracy", f"{100 * share:g}%", found
        for curve, key in {"roar": method, **controls}.items():
            if key != "random":
                yield f"mean_{curve}_margin", "", roar.margin(key, ORDER, LEVEL)


def open_retrained(folder: str | Path, model: nn.Module, methods: Mapping[str, Explainer]) -> Retrained:
    """Read the folder of an experiment with the audited network.

    Args:
        folder: that `veridical.roar` stored its trainings in.
        model: the audited network.
        methods: the audited methods, by name.

    Raises:
        ValueError: the folder cannot be read (see `read_roar`), or its network is another one.
    """
    stored = read_roar(folder)
    stored.check_network(model)
    reasons = {name: stored.lacks(name, explainer, ORDER) for name, explainer in methods.items()}
    lacking = {name: reason for name, reason in reasons.items() if reason}
    return Retrained(stored, lacking, _settings(stored, [name for name in methods if name not in lacking]))


def _settings(stored: StoredRoar, methods: list[str]) -> dict[str, Any]:
    """Not the folder, which may be moved; what was measured, and a digest of all accuracies that are used."""
    roar = stored.roar
    controls = [name for name in CONTROLS if (name, ORDER) in roar.accuracy]
    used = {name: roar.accuracy[name, ORDER] for name in (*controls, *methods)}
    return {
        "shares": list(roar.shares),
        "repetitions": roar.settings.repetitions,
        "order": ORDER,
        "controls": controls,
        "reduction": roar.settings.reduction,
        "seed": roar.settings.seed,
        "train": stored.train,
        "test_images": roar.n,
        "chance": None if math.isnan(roar.chance) else roar.chance,
        "data": stored.data,
        "accuracies": hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest(),
    }
