"""Cascading parameter randomization: does the map change when the network forgets what it learned?

Adebayo et al. 2018; the protocol of Sixt et al. 2020, section 3. A map that stays the same while the layers
are replaced by random ones cannot explain what those layers computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from veridical.checks import (
    check_inputs,
    check_method,
    check_relevance,
    evaluation_mode,
    nearest_names,
)
from veridical.faithfulness._flipping import logits_of
from veridical.faithfulness._rows import Row, Sampling, flips_of, rows_of
from veridical.faithfulness._weights import (
    INITIALIZATIONS,
    Unit,
    assign,
    copy_of,
    random_states,
    replaced,
    units,
)
from veridical.faithfulness.maps import (
    Reduction,
    check_reduction,
    default_reduction,
    explained,
    reduce_channels,
    target_of,
)
from veridical.metrics import SimilarityProtocol, check_measures, compare_maps, protocol
from veridical.values import Explainer, Target, explainer_name, for_any_weights

Order = Literal["cascading", "independent", "bottom-up"]
ORDERS = ("cascading", "independent", "bottom-up")


@dataclass(frozen=True)
class RandomizationSettings:
    """How the network is randomized and the maps are compared.

    Attributes:
        order: `"cascading"` randomizes from the output down and keeps what was randomized; `"bottom-up"` does
            so from the input up; `"independent"` randomizes only the modules of one step at a time.
        steps: None: every module with own parameters or buffers is a step. A number: that many steps, evenly
            spaced, the first after one module, the last after all. Names of modules: one step for each, which
            reaches down (or up) to and including that module and its children.
        protocol: how two maps are compared, see `veridical.metrics.SimilarityProtocol`.
        reduction: channel reduction; None is `default_reduction(method)`.
        initialization: `"glorot"`, as Keras does by default: uniform Glorot kernels, zero biases, batch
            normalization with gamma 1, beta 0, mean 0, variance 1; or `"module"`: the `reset_parameters` of
            each module, and Glorot where there is none.
        batch: images in one call of the method. On a CPU 16 are as fast as more; None is all at once, which
            suits a GPU.
        seed: of the random weights.
        measures: what `CascadingRandomization.measures` holds: names out of `veridical.metrics.MEASURES`,
            all of the same maps.
        kept: how many images, the first ones, `CascadingRandomization.maps` holds; None is all. The maps of
            S steps for N images are S times as large as those of the network as it is.
    """

    order: Order = "cascading"
    steps: int | tuple[str, ...] | None = None
    protocol: str | SimilarityProtocol = "sixt2020"
    reduction: Reduction | None = None
    initialization: Literal["glorot", "module"] = "glorot"
    batch: int | None = 16
    seed: int = 0
    measures: tuple[str, ...] = ("ssim",)
    kept: int | None = None

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            TypeError: if steps is of another type, or measures is one text.
            ValueError: if a choice does not exist or a number is negative.
        """
        check_measures(self.measures)
        if self.kept is not None and self.kept < 0:
            raise ValueError(f"expected a number of images to keep, got {self.kept}; None keeps all")
        if self.order not in ORDERS:
            raise ValueError(f"expected order {', '.join(ORDERS)}, got {self.order!r}; choose one of them")
        if self.initialization not in INITIALIZATIONS:
            known = ", ".join(INITIALIZATIONS)
            raise ValueError(f"expected initialization {known}, got {self.initialization!r}; choose one")
        if isinstance(self.steps, str | bool):
            raise TypeError(f"expected steps as a number or names, got {self.steps!r}; use a tuple of names")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"expected at least one step, got {self.steps}; None means every module")
        if isinstance(self.steps, Sequence) and not self.steps:
            raise ValueError("expected at least one module name, got an empty tuple; None means every module")
        if self.reduction is not None:
            check_reduction(self.reduction)
        protocol(self.protocol)


@dataclass(frozen=True, eq=False)
class CascadingRandomization:
    """Likeness of the maps of N images to those of the network randomized in S steps.

    Attributes:
        layers: the module that each step reaches, in the order of the steps.
        similarity: float64 (S, N), SSIM under the protocol; NaN where a map was constant.
        measures: float64 (S, N) for each of the settings' measures; NaN where a map was constant.
        flipped: bool (S, N), True where the negative of the randomized map was more like the original.
        maps: (S, N, H, W) of the randomized networks, after the channel reduction; of the first `kept` images
            where the settings say so.
        original: (N, H, W) of the network as it is.
        target: LongTensor (N,), the explained class, fixed to that of the network as it is.
        reduction: the channel reduction that was used.
        settings: how it was measured.
    """

    layers: tuple[str, ...]
    similarity: Tensor
    measures: dict[str, Tensor]
    flipped: Tensor
    maps: Tensor
    original: Tensor
    target: Tensor
    reduction: str
    settings: RandomizationSettings

    @property
    def flips(self) -> Tensor:
        """Float64 (S, N): `flipped` as 0 or 1; NaN where not measured, or the protocol does not look."""
        looked_for = protocol(self.settings.protocol).flip
        return flips_of(self.similarity, self.flipped, looked_for=looked_for)

    def table(self, *, level: float = 0.99, resamples: int = 10_000) -> list[Row]:
        """For each step the median of each measure with its bootstrap interval, and the share of sign flips.

        Args:
            level: probability that an interval covers.
            resamples: of the bootstrap.

        Returns:
            Rows with layer, measure, statistic, estimate, low, high, n, missing and level.
        """
        how = Sampling(level, resamples, self.settings.seed)
        rows: list[Row] = []
        for step, layer in enumerate(self.layers):
            measures = {name: values[step] for name, values in self.measures.items()}
            rows += [{"layer": layer, **row} for row in rows_of(measures, self.flips[step], how)]
        return rows


def _evenly(count: int, points: int) -> list[int]:
    """At most `points` increasing numbers from 1 to `count`, evenly spaced; `count` alone for one point."""
    if points == 1:
        return [count]
    return sorted({1 + round(point * (count - 1) / (points - 1)) for point in range(points)})


def _ends(ordered: list[Unit], steps: int | Sequence[str] | None) -> list[tuple[str, int]]:
    """For each step its name and the number of units, counted in `ordered`, up to and including it.

    Raises:
        ValueError: if a name is no module with parameters, or the names are not in the order of the steps.
    """
    if steps is None:
        steps = len(ordered)
    if isinstance(steps, int):
        return [(ordered[end - 1].name, end) for end in _evenly(len(ordered), steps)]
    names = [unit.name for unit in ordered]
    ends = []
    for wanted in steps:
        reached = [
            end for end, name in enumerate(names, 1) if name == wanted or name.startswith(f"{wanted}.")
        ]
        if not reached:
            raise ValueError(
                f"expected the name of a module with parameters, got {wanted!r}; "
                f"{nearest_names(wanted, names)}"
            )
        ends.append((wanted, reached[-1]))
    numbers = [end for _, end in ends]
    if any(later <= earlier for earlier, later in zip(numbers, numbers[1:], strict=False)):
        raise ValueError(
            f"expected module names in the order of randomization, got {list(steps)}; "
            f"the order of the modules is {', '.join(names)}"
        )
    return ends


def randomizable(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the modules with parameters or buffers of their own, the last executed first.

    Args:
        model: any module; a copy of it is run on the first image.
        inputs: float (N, C, H, W).

    Returns:
        The names that `steps` of `cascading_randomization` understands, top of the network first.

    Raises:
        ValueError: if the model cannot be copied or the inputs are unusable.
    """
    check_inputs(inputs)
    return [unit.name for unit in units(copy_of(model), inputs[:1].detach())]


def _groups(ordered: list[Unit], chosen: RandomizationSettings) -> tuple[list[str], list[list[Unit]]]:
    """Names of the steps, and for each the units that it newly randomizes."""
    if not ordered:
        raise ValueError("expected a model with parameters, got one without; there is nothing to randomize")
    inturn = ordered[::-1] if chosen.order == "bottom-up" else ordered
    ends = _ends(inturn, chosen.steps)
    begins = [0, *(end for _, end in ends)]
    groups = [inturn[begin:end] for begin, (_, end) in zip(begins, ends, strict=False)]
    return [name for name, _ in ends], groups


def _classes(model: nn.Module, images: Tensor, target: Target, batch: int | None) -> Tensor:
    """The explained classes (N,); where they are given, one image tells how many there are."""
    asked = images if target is None else images[:1]
    with torch.no_grad(), evaluation_mode(model):
        logits = logits_of(model, asked, batch or len(asked))
    if target is not None:
        logits = logits.expand(len(images), -1)
    return target_of(logits, target, slice(None), len(images))


def cascading_randomization(
    model: nn.Module,
    inputs: Tensor,
    method: Explainer,
    *,
    target: Target = None,
    relevance: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> CascadingRandomization:
    """Compare each map with the maps of the same network, randomized step by step.

    The work is done on a deep copy: the model, its mode and the global random state stay as they are. Every
    module draws from a generator of its own, so that layers of the same shape get different weights and the
    weights do not depend on the choice of the steps. All parameters and floating point buffers are covered,
    also those that belong to no layer. Patterns stay those of the network as it is, as Sixt et al. had them.

    Source: Adebayo et al. 2018; Sixt et al. 2020, section 3.

    Args:
        model: any module that maps images to logits (N, K).
        inputs: float (N, C, H, W).
        method: an explanation method.
        target: explained class; None is the class that the network predicts before randomization.
        relevance: what the method has already said about these images and classes, for example
            `RandomLogit.relevance`; None asks it.
        progress: called with steps done and steps in all.
        settings: fields of `RandomizationSettings`: order, steps, protocol, reduction, initialization,
            batch, seed, measures, kept.

    Returns:
        Similarities and maps for every step.

    Raises:
        TypeError: if the method is no callable or a setting does not exist.
        ValueError: if a setting is out of range, a step names no module, or the model cannot be copied.
    """
    for name in ("steps", "measures"):
        if isinstance(settings.get(name), list):
            settings[name] = tuple(settings[name])
    chosen = RandomizationSettings(**settings)
    check_method(method)
    check_inputs(inputs)
    images = inputs.detach()
    classes = _classes(model, images, target, chosen.batch)
    network = copy_of(model)
    ordered = units(network, images[:1])
    names, groups = _groups(ordered, chosen)
    draw = random_states(ordered, chosen.initialization, chosen.seed)
    reduction = chosen.reduction or default_reduction(method)
    if relevance is None:
        relevance = explained(network, images, method, classes, chosen.batch)
    original = reduce_channels(check_relevance(relevance, images, explainer_name(method)).detach(), reduction)
    kept = original.new_empty((len(groups), *original[: chosen.kept].shape))  # at once: no gaps in memory
    explain = for_any_weights(method)
    compared = []
    for step, state in enumerate([entry for unit in group for entry in draw(unit)] for group in groups):
        before = replaced(state) if chosen.order == "independent" else []
        assign(state)
        # A rule may overflow on random weights: that step is not measured, the others are.
        found = explained(network, images, explain, classes, chosen.batch, finite=False)
        maps = reduce_channels(found, reduction)
        kept[step] = maps[: chosen.kept]
        compared.append(compare_maps(original, maps, chosen.protocol, chosen.measures))
        assign(before)
        if progress is not None:
            progress(len(compared), len(groups))
    return CascadingRandomization(
        layers=tuple(names),
        similarity=torch.stack([scores.values for scores, _ in compared]),
        measures={name: torch.stack([one[name] for _, one in compared]) for name in chosen.measures},
        flipped=torch.stack([scores.flipped for scores, _ in compared]),
        maps=kept,
        original=original,
        target=classes,
        reduction=reduction,
        settings=chosen,
    )
