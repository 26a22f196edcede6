"""A remove-and-retrain experiment as `roar` stored it in a folder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from veridical.faithfulness._removal import EDGES, RANDOM
from veridical.faithfulness._roar_store import CELLS, EXPERIMENT, Cell, Outcome, digest_of, read_cell
from veridical.faithfulness.roar import described
from veridical.faithfulness.roar_values import Roar, RoarSettings
from veridical.records import RecordError, read_json
from veridical.values import Explainer

MAKE_ONE = "pass the folder of veridical roar --out FOLDER, or of vd.roar(..., folder=FOLDER)"


@dataclass(frozen=True, eq=False)
class StoredRoar:
    """What a folder holds.

    Attributes:
        folder: where it was read.
        roar: the complete curves, over all shares that random pixels were measured at, and the repetitions
            that each of these shares has.
        model: digest of the explained network.
        data: digest of the images and labels.
        train: name of the function that trained.
        methods: what each method is, by name; also of those whose curves are not complete.
        missing: (method, order) -> how many trainings its curve lacks.
    """

    folder: Path
    roar: Roar
    model: str
    data: str
    train: str
    methods: Mapping[str, str]
    missing: Mapping[tuple[str, str], int]

    def check_network(self, model: nn.Module) -> None:
        """Check that this is the network whose maps chose the pixels.

        Raises:
            ValueError: it has other weights.
        """
        digest = digest_of(model.state_dict().values())
        if digest != self.model:
            raise ValueError(
                f"expected the network of {self.folder} (digest of its weights {self.model[:12]}), got one "
                f"with {digest[:12]}; call vd.roar with this network and another folder"
            )

    def lacks(self, name: str, explainer: Explainer, order: str = "most") -> str:
        """Why there is no curve of this method; "" where there is one."""
        if name not in self.methods:
            known = ", ".join(self.methods) or "no method"
            return f"{self.folder} has {known}, not this one; train for it with {self._same()}"
        here, there = described(explainer), self.methods[name]
        if here != there:
            return (
                f"{self.folder} has it with other options: {there}, not {here}; give both commands the same "
                "--preset, and both functions the same objects"
            )
        if (name, order) in self.roar.accuracy:
            return ""
        left = self.missing.get((name, order))
        trained = (
            f"lacks {left} of its trainings" if left else f"has none without its {order} relevant pixels"
        )
        return f"{self.folder} {trained}; train these with {self._same()}"

    def _same(self) -> str:
        shares, settings = self.roar.shares[1:], self.roar.settings
        return f"vd.roar or veridical roar: this folder, {_asked(shares, settings.repetitions)}"


def read_roar(folder: str | Path) -> StoredRoar:
    """Read what `roar(..., folder=folder)` stored, as far as it is complete; nothing is trained.

    A curve is complete where it has all shares that random pixels have, each with the repetitions that they
    have at every share: shares and repetitions that were asked for in different calls may leave some out.

    Raises:
        ValueError: the folder does not exist or holds something else, a file cannot be read, or there is no
            repetition with all images and at every share of random pixels.
    """
    place = Path(folder)
    told = _experiment(place)
    cells = _cells(place)
    shares, repetitions = _extent(place, cells)
    methods: dict[str, str] = told["methods"]
    curves, missing = {}, {}
    for method in (RANDOM, EDGES, *methods):
        for order in ("most", "least"):
            wanted = _curve(method, order, shares, repetitions)
            left = sum(one not in cells for part in wanted for one in part)
            if not left:
                curves[method, order] = tuple(tuple(cells[one].accuracy for one in part) for part in wanted)
            elif any(one.method == method and one.order == order for one in cells):
                missing[method, order] = left
    used = [one for curve in curves for part in _curve(*curve, shares, repetitions) for one in part]
    roar = _roar(place, told, curves, {one: cells[one] for one in used})
    return StoredRoar(place, roar, told["model"], told["data"], told["train"], methods, missing)


def _experiment(folder: Path) -> dict[str, Any]:
    """The content of `roar.json`."""
    if not folder.is_dir():
        raise ValueError(f"expected a folder of vd.roar, got {folder}, which is none; {MAKE_ONE}")
    path = folder / EXPERIMENT
    if not path.is_file():
        raise ValueError(f"expected a folder of vd.roar, got {folder} without {EXPERIMENT}; {MAKE_ONE}")
    kinds = {"settings": dict, "train": str, "model": str, "data": str, "methods": dict}
    try:
        told = read_json(path)
    except RecordError:
        told = None
    if not isinstance(told, dict) or told.get("format") != 1:
        raise ValueError(f"expected an experiment of vd.roar in {path}, got something else; {MAKE_ONE}")
    for name, kind in kinds.items():
        if not isinstance(told.get(name), kind):
            raise ValueError(f"{path}: expected a field {name!r}, got {told.get(name)!r}; {MAKE_ONE}")
    return told


def _cells(folder: Path) -> dict[Cell, Outcome]:
    return dict(read_cell(path) for path in sorted((folder / CELLS).glob("*.json")))


def _extent(folder: Path, cells: Mapping[Cell, Outcome]) -> tuple[tuple[float, ...], range]:
    """The shares of random pixels, 0 first, and the first repetitions that each of them has."""
    random = [one for one in cells if one.method == RANDOM]
    if not random:
        raise ValueError(
            f"expected trainings without random pixels in {folder}, got none; call vd.roar or run veridical "
            "roar with it again"
        )
    shares = (0.0, *sorted({one.share for one in random}))
    known = range(1 + max(one.repetition for one in random))
    rows = zip(*_curve(RANDOM, "most", shares, known), strict=True)
    whole = [all(one in cells for one in row) for row in rows]
    count = whole.index(False) if False in whole else len(whole)
    if not count:
        raise ValueError(
            f"expected trainings of all images and without random pixels in {folder}, got no repetition of "
            f"both at every share; call vd.roar or run veridical roar with it and {_asked(shares[1:], 1)}"
        )
    return shares, range(count)


def _asked(shares: Sequence[float], repetitions: int) -> str:
    """Which trainings to ask for, as an option and as an argument."""
    return f"shares {','.join(f'{one:g}' for one in shares)} and repetitions {repetitions}"


def _curve(method: str, order: str, shares: tuple[float, ...], repetitions: range) -> list[list[Cell]]:
    """The cells of a curve: a list for each share."""
    return [
        [Cell(method, order, share, one) if share else Cell("", "most", 0.0, one) for one in repetitions]
        for share in shares
    ]


def _roar(
    folder: Path,
    told: Mapping[str, Any],
    curves: Mapping[tuple[str, str], tuple[tuple[float, ...], ...]],
    cells: Mapping[Cell, Outcome],
) -> Roar:
    """The curves with the settings that they were measured with; the batch is not told."""
    tests = {one.n for one in cells.values()}
    if len(tests) > 1:
        numbers = ", ".join(str(one) for one in sorted(tests))
        raise ValueError(f"expected one number of test images in {folder}, got {numbers}; measure anew")
    shares = tuple(sorted({one.share for one in cells}))
    orders = {order for method, order in curves if method != RANDOM}
    settings = RoarSettings(
        shares=shares[1:],
        order="both" if len(orders) == 2 else "least" if orders == {"least"} else "most",
        repetitions=1 + max(one.repetition for one in cells),
        edges=any(method == EDGES for method, _ in curves),
        reduction=told["settings"].get("reduction"),
        seed=told["settings"].get("seed", 0),
    )
    failures = tuple((cell.name, one.failure) for cell, one in cells.items() if one.failure)
    chance = told.get("chance")
    known = float(chance) if isinstance(chance, int | float) else math.nan
    return Roar(curves, shares, known, tests.pop(), settings, failures)
