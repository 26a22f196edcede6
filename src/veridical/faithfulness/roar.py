"""Remove and retrain: does a network still learn the classes without the pixels that a map calls relevant?

Hooker et al. 2019, "A Benchmark for Interpretability Methods in Deep Neural Networks" (ROAR, and KAR, which
removes the least relevant pixels instead).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veridical.checks import check_logits, check_method, evaluation_mode, resolve_target
from veridical.faithfulness._removal import (
    EDGES,
    RANDOM,
    edge_maps,
    map_ranks,
    predicted,
    random_ranks,
    relevance_maps,
    without,
)
from veridical.faithfulness._roar_store import Cell, Outcome, Store, digest_of
from veridical.faithfulness.roar_values import Roar, RoarData, RoarSettings
from veridical.values import Explainer

Retrain = Callable[[Tensor, Tensor, int], nn.Module]
RoarProgress = Callable[[int, int], None]


def roar(
    model: nn.Module,
    data: RoarData,
    methods: Mapping[str, Explainer],
    train: Retrain,
    *,
    folder: str | Path | None = None,
    progress: RoarProgress | None = None,
    **settings: Any,
) -> Roar:
    """Remove pixels from all images, train a network from scratch on what is left, and measure its accuracy.

    Removed pixels become the mean of their channel over the training images, in training and test images.
    Maps are those of the given model for the class that it predicts, computed once a method; so the choice of
    pixels may itself tell the class, and a low accuracy is evidence where a high one is not.

    Source: Hooker et al. 2019, section 3.

    Args:
        model: explained, not retrained; left as it was.
        data: images and labels.
        methods: explanation methods by name.
        train: from images (N, C, H, W), labels (N,) and a seed to a new network that was trained on them. It
            may raise FloatingPointError where the loss is no number: that cell is NaN.
        folder: each accuracy is stored there as soon as it is known, and not measured again by a later call.
        progress: called with cells done and cells in all.
        settings: fields of `RoarSettings`: shares, order, repetitions, edges, reduction, batch, seed.

    Raises:
        TypeError: if an argument is of another type or a setting does not exist.
        ValueError: if a setting is out of range, a method's name is taken, or the folder holds the cells of
            another experiment.
    """
    if isinstance(settings.get("shares"), list):
        settings["shares"] = tuple(settings["shares"])
    chosen = RoarSettings(**settings)
    _check_methods(methods, train)
    work = _Work(model, data, methods, train, chosen, data.mean)
    _check_labels(model, data)
    store = None if folder is None else Store(Path(folder))
    if store is not None:
        store.open(work.identity(), {"chance": data.chance})
    found: dict[Cell, Outcome] = {}
    cells = list(work.cells())
    for cell in cells:
        stored = None if store is None else store.read(cell)
        if stored is None:
            stored = work.measure(cell)
            if store is not None:
                store.write(cell, stored)
        found[cell] = stored
        if progress is not None:
            progress(len(found), len(cells))
    return work.result(found)


@dataclass
class _Work:
    """Trains one cell after another; the maps of one method at a time are in memory."""

    model: nn.Module
    data: RoarData
    methods: Mapping[str, Explainer]
    train: Retrain
    settings: RoarSettings
    fill: Tensor
    kept: tuple[object, tuple[Tensor, Tensor]] | None = None

    def cells(self) -> Iterator[Cell]:
        """Every cell once: nothing removed, then chance, then each method."""
        repetitions = range(self.settings.repetitions)
        yield from (Cell("", "most", 0.0, one) for one in repetitions)
        for method, order in self._curves():
            # Chance is another order in each repetition: those of one of them follow one another.
            for one in repetitions:
                yield from (Cell(method, order, share, one) for share in self.settings.shares)

    def _curves(self) -> Iterator[tuple[str, str]]:
        yield RANDOM, "most"
        controls = (EDGES,) if self.settings.edges else ()
        for method in (*controls, *self.methods):
            yield from ((method, order) for order in self.settings.orders)

    def measure(self, cell: Cell) -> Outcome:
        """Train one network and test it."""
        data, least = self.data, cell.order == "least"
        images, tests = data.images, data.test_images
        if cell.share:
            ranks, test_ranks = self._ranks(cell)
            images = without(images, ranks, cell.share, least, self.fill)
            tests = without(tests, test_ranks, cell.share, least, self.fill)
        try:
            network = self.train(images, data.labels, self.settings.seed + cell.repetition)
        except FloatingPointError as error:
            return Outcome(0, len(tests), str(error))
        return Outcome(self._correct(network, tests), len(tests))

    def _correct(self, network: nn.Module, tests: Tensor) -> int:
        place = next((one.device for one in network.parameters()), tests.device)
        network.eval()
        found = 0
        for images, labels in zip(
            tests.split(self.settings.batch), self.data.test_labels.split(self.settings.batch), strict=True
        ):
            found += int((predicted(network, images.to(place)).cpu() == labels.cpu()).sum())
        return found

    def _ranks(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The order of the pixels of the training and of the test images."""
        key = (cell.method, cell.repetition if cell.method == RANDOM else 0)
        if self.kept is None or self.kept[0] != key:
            self.kept = None
            images, tests = (
                self._ranks_of(cell, images, index)
                for index, images in enumerate((self.data.images, self.data.test_images))
            )
            self.kept = (key, (images, tests))
        return self.kept[1]

    def _ranks_of(self, cell: Cell, images: Tensor, index: int) -> Tensor:
        seed = self.settings.seed
        if cell.method == RANDOM:
            pixels = images.shape[2] * images.shape[3]
            return random_ranks(len(images), pixels, seed, 2 * cell.repetition + index + 1)
        if cell.method == EDGES:
            return map_ranks(edge_maps(images), seed)
        explainer = self.methods[cell.method]
        chosen = self.settings
        return map_ranks(relevance_maps(self.model, images, explainer, chosen.reduction, chosen.batch), seed)

    def identity(self) -> dict[str, Any]:
        """What stored cells depend on, apart from their names; more shares or methods may be added later."""
        settings = asdict(self.settings)
        free = ("shares", "order", "repetitions", "edges", "batch")
        return {
            "format": 1,
            "settings": {name: value for name, value in settings.items() if name not in free},
            "train": described(self.train),
            "model": digest_of(self.model.state_dict().values()),
            "data": digest_of(vars(self.data).values()),
            "methods": {name: described(method) for name, method in self.methods.items()},
        }

    def result(self, found: Mapping[Cell, Outcome]) -> Roar:
        """The curves of all cells."""
        shares = (0.0, *self.settings.shares)
        repetitions = range(self.settings.repetitions)

        def at(method: str, order: str, share: float, one: int) -> float:
            cell = Cell(method, order, share, one) if share else Cell("", "most", 0.0, one)
            return found[cell].accuracy

        curves = {
            (method, order): tuple(
                tuple(at(method, order, share, one) for one in repetitions) for share in shares
            )
            for method, order in self._curves()
        }
        failures = tuple((cell.name, one.failure) for cell, one in found.items() if one.failure)
        tests = len(self.data.test_labels)
        return Roar(curves, shares, self.data.chance, tests, self.settings, failures)


def _check_methods(methods: Mapping[str, Explainer], train: object) -> None:
    if not isinstance(methods, Mapping):
        raise TypeError(f"expected methods by name, got {type(methods).__name__}; pass a dictionary")
    for name, method in methods.items():
        check_method(method, name)
        if name in ("", RANDOM, EDGES):
            raise ValueError(f"expected other names than {RANDOM} and {EDGES}, got {name!r}; rename it")
    if not callable(train):
        raise TypeError(f"expected a function (images, labels, seed) -> network, got {train!r}")


def _check_labels(model: nn.Module, data: RoarData) -> None:
    place = next((one.device for one in model.parameters()), data.images.device)
    with torch.no_grad(), evaluation_mode(model):
        logits = check_logits(model(data.images[:1].to(place)), 1)
    for labels in (data.labels, data.test_labels):
        resolve_target(logits, int(labels.min()))
        resolve_target(logits, int(labels.max()))


def described(value: object) -> str:
    """A name that is the same in every process: the value of a dataclass, else the place of a function."""
    if is_dataclass(value):
        # A function in a field is shown with its address, which differs.
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
