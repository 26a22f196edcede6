"""The tests themselves: one task in, its scores and maps out. Nothing here knows of files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attacks import Manipulation, ManipulationSettings, manipulate
from veridical.attributions import saliency
from veridical.auditing.forgery import attack_settings
from veridical.auditing.plan import Task
from veridical.faithfulness import (
    FlippingCurves,
    PixelFlipping,
    cascading_randomization,
    cosine_convergence,
    pixel_flipping,
    random_logit,
)
from veridical.faithfulness.maps import explained_each
from veridical.metrics import bootstrap_interval, share_interval
from veridical.records import Arrays, Score
from veridical.values import Explainer

LEVEL = 0.99
"""Confidence level of the bootstrap intervals: that of Sixt et al. 2020."""


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
        model: maps images to logits (N, K); in evaluation mode.
        images: (N, C, H, W), as the model takes them.
        targets: LongTensor (N,), the explained class of each.
        names: of the images.
        display: from images to values in [0, 1] that can be shown.
        label: the label of a class.
        bounds: lowest and highest valid value of an image, one number a channel; None for no bounds.
        known: what one task has found and another can use: the last relevance, the random orders.
    """

    model: nn.Module
    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    display: Callable[[Tensor], Tensor]
    label: Callable[[int], str]
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Outcome:
    """The result of one task; `facts` is added to the settings of the test in `run.json`."""

    scores: list[Score]
    arrays: Arrays = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


Tick = Callable[[float], None]
"""Told the finished share of a task, 0 to 1."""


@dataclass(frozen=True)
class Work:
    """One task with all that it needs."""

    task: Task
    explainer: Explainer
    settings: Mapping[str, Any]
    seed: int
    batch: int
    tick: Tick

    def score(self, statistic: str, value: float, **where: Any) -> Score:
        """A row of the table for one image."""
        return Score(self.task.method, self.task.test, statistic, float(value), **where)

    def summary(self, statistic: str, values: Sequence[float] | NDArray[Any], layer: str = "") -> Score:
        """A row of the table for the median over images, with its bootstrap interval."""
        found = bootstrap_interval(np.asarray(values, dtype=np.float64), level=LEVEL, seed=self.seed)
        return Score(
            self.task.method, self.task.test, statistic, found.estimate, layer=layer, ci_low=found.low,
            ci_high=found.high, n=found.n,
        )  # fmt: skip


def measure(subject: Subject, work: Work) -> Outcome:
    """Run one task."""
    return _MEASURES[work.task.test](subject, work)


def _random_logit(subject: Subject, work: Work) -> Outcome:
    result = random_logit(
        subject.model, subject.images, work.explainer, target=subject.targets, seed=work.seed,
        batch=work.batch,
        protocol=work.settings["protocol"],
    )  # fmt: skip
    subject.known["relevance"] = (work.task.method, result.relevance)
    values = result.similarity.tolist()
    scores = [
        work.score("ssim", value, image=name) for value, name in zip(values, subject.names, strict=True)
    ]
    scores.append(work.summary("median_ssim", values))
    scores += _flips(subject, work, result.flips)
    arrays = {"original": array(result.maps), "other_logit": array(result.other_maps)}
    others = [int(other) for other in result.other_target]
    metadata = {"other_targets": others, "other_labels": [subject.label(other) for other in others]}
    return Outcome(scores, arrays, metadata, {"reduction." + work.task.method: result.reduction})


def _cascading(subject: Subject, work: Work) -> Outcome:
    result = cascading_randomization(
        subject.model, subject.images, work.explainer, target=subject.targets, seed=work.seed,
        batch=work.batch, relevance=_relevance(subject, work),
        steps=work.settings["steps"], protocol=work.settings["protocol"],
    )  # fmt: skip
    scores = []
    for step, (layer, values) in enumerate(zip(result.layers, result.similarity.tolist(), strict=True)):
        named = zip(values, subject.names, strict=True)
        scores += [work.score("ssim", value, image=name, layer=layer) for value, name in named]
        scores.append(work.summary("median_ssim", values, layer))
        scores += _flips(subject, work, result.flips[step], layer)
    arrays = {"original": array(result.original), "randomized": array(result.maps)}
    return Outcome(scores, arrays, {"layers": list(result.layers)})


def _relevance(subject: Subject, work: Work) -> Tensor:
    """The method's relevance of all images, computed once; the same bits whichever test asks first."""
    method, relevance = subject.known.get("relevance", ("", None))
    if method != work.task.method:
        relevance = explained_each(
            subject.model, subject.images, work.explainer, lambda _, rows: [subject.targets[rows]], work.batch
        )[0][0]
        subject.known["relevance"] = (work.task.method, relevance)
    found: Tensor = relevance
    return found


def _flips(subject: Subject, work: Work, flips: Tensor, layer: str = "") -> list[Score]:
    """Where the negative map was the more similar one, and the share of it; nothing for other protocols."""
    if bool(flips.isnan().all()):
        return []
    named = zip(flips.tolist(), subject.names, strict=True)
    share = share_interval(flips, level=LEVEL)
    return [
        *(work.score("flipped", value, image=name, layer=layer) for value, name in named),
        work.score(
            "flipped_share", share.estimate, layer=layer, ci_low=share.low, ci_high=share.high, n=share.n
        ),
    ]


def _pixel_flipping(subject: Subject, work: Work) -> Outcome:
    result = pixel_flipping(
        subject.model, subject.images, work.explainer, target=subject.targets, seed=work.seed,
        batch=work.batch, relevance=_relevance(subject, work),
        reuse=subject.known.get("random orders"), steps=tuple(work.settings["steps"]),
        random=work.settings["random"], baseline=work.settings["baseline"],
    )  # fmt: skip
    subject.known["random orders"] = result
    scores = []
    for statistic, values in result.statistics().items():
        named = zip(values.tolist(), subject.names, strict=True)
        scores += [work.score(statistic, value, image=name) for value, name in named]
        scores.append(work.summary(f"median_{statistic}", values.tolist()))
    return Outcome(
        scores + _flipping_curves(result, work), facts={"reduction." + work.task.method: result.reduction}
    )


def _flipping_curves(result: PixelFlipping, work: Work) -> list[Score]:
    """The curves over the removed shares, which stand in the place of the layer."""
    scores = []
    curves = {"morf": result.morf, "lerf": result.lerf, "random": result.random}
    for name, found in curves.items():
        if found is not None:
            scores += _one_curve(name, found, work)
    return scores


def _one_curve(name: str, curves: FlippingCurves, work: Work) -> list[Score]:
    probability, kept = curves.probability, curves.kept.double()
    if probability.dim() == 3:
        probability, kept = probability.mean(dim=0), kept.mean(dim=0)
    scores = []
    for place, fraction in enumerate(curves.fractions.tolist()):
        layer = f"{fraction:.2%}"
        scores.append(work.summary(f"median_{name}_probability", probability[:, place].tolist(), layer))
        share = kept[:, place].mean().item()
        scores.append(work.score(f"{name}_class_kept", share, layer=layer, n=len(kept)))
    return scores


def _convergence(subject: Subject, work: Work) -> Outcome:
    results = []
    count = int(work.settings["images"])
    for index in range(count):
        results.append(
            cosine_convergence(
                subject.model,
                subject.images[index : index + 1],
                work.explainer,
                first_index=index,
                vectors=work.settings["vectors"],
                seed=work.seed,
            )  # fmt: skip
        )
        work.tick((index + 1) / count)
    scores = []
    for place, layer in enumerate(results[0].layers):
        medians = zip((one.median[place] for one in results), subject.names, strict=False)
        scores += [work.score("cosine", value, image=name, layer=layer) for value, name in medians]
        for statistic, name in (
            ("median_cosine", "median"),
            ("mean_cosine", "mean"),
            ("one_minus_median_cosine", "one_minus_median"),
        ):
            scores.append(work.summary(statistic, [getattr(one, name)[place] for one in results], layer))
        for statistic, value in (
            ("random_baseline", results[0].random_baseline[place]),
            ("nan_fraction", np.mean([one.nan_fraction[place] for one in results])),
        ):
            scores.append(work.score(statistic, value, layer=layer, n=count))
    # The last entry is the input, whose few channels are alike even for random vectors (Sixt et al. 2020, 3).
    return Outcome(scores, facts={"start": results[0].start, "first_convolution": results[0].layers[-2]})


def _manipulation(subject: Subject, work: Work) -> Outcome:
    pairs, results = int(work.settings["pairs"]), []
    settings = attack_settings(
        work.settings["preset"], subject.bounds, steps=work.settings["steps"], seed=work.seed
    )
    for index in range(pairs):
        results.append(_manipulate_one(subject, work, settings, (index, pairs)))
    parts = [one.statistics() for one in results]
    statistics = {name: np.concatenate([one[name].numpy() for one in parts]) for name in parts[0]}
    statistics["pcc_margin"] = statistics["pcc_to_target"] - statistics["pcc_to_original"]
    scores = []
    for name, values in statistics.items():
        scores += [work.score(name, value, image=subject.names[index]) for index, value in enumerate(values)]
    scores += [work.summary(f"median_{name}", values) for name, values in statistics.items()]
    arrays = {
        "original_map": _joined(results, "original_saliency"),
        "target_map": _joined(results, "target_map"),
        "manipulated_map": _joined(results, "saliency"),
        "original_image": array(subject.display(subject.images[:pairs])),
        "target_image": array(subject.display(subject.images[[_partner(subject, i) for i in range(pairs)]])),
        "manipulated_image": array(subject.display(torch.cat([one.inputs for one in results]))),
    }
    names = [subject.names[_partner(subject, index)] for index in range(pairs)]
    return Outcome(scores, arrays, {"images": list(subject.names[:pairs]), "target_images": names})


def _manipulate_one(
    subject: Subject, work: Work, settings: ManipulationSettings, where: tuple[int, int]
) -> Manipulation:
    index, pairs = where
    partner = _partner(subject, index)
    one, other = slice(index, index + 1), slice(partner, partner + 1)
    goal = saliency(work.explainer(subject.model, subject.images[other], subject.targets[other]).detach())
    result = manipulate(
        subject.model, subject.images[one], goal, explainer=work.explainer, target=subject.targets[one],
        settings=settings, callback=lambda step, _: work.tick((index + step / settings.steps) / pairs),
    )  # fmt: skip
    if result.interrupted:
        # An unfinished optimization must not be stored as if it were the result.
        raise KeyboardInterrupt
    return result


def _partner(subject: Subject, index: int) -> int:
    """The image whose map is the target: the next one."""
    return (index + 1) % len(subject.images)


def _joined(results: Sequence[Manipulation], name: str) -> NDArray[np.float32]:
    return array(torch.cat([getattr(one, name) for one in results]))


def array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a float32 array."""
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


_MEASURES: Mapping[str, Callable[[Subject, Work], Outcome]] = {
    "random-logit": _random_logit,
    "cascading-randomization": _cascading,
    "pixel-flipping": _pixel_flipping,
    "cosine-convergence": _convergence,
    "manipulation": _manipulation,
}
