"""The tests themselves: one task in, its scores and maps out. Nothing here knows of files."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veridical.attacks import Manipulation, ManipulationSettings, manipulate
from veridical.attributions import saliency
from veridical.auditing.cosines import summaries
from veridical.auditing.forgery import attack_settings
from veridical.auditing.inputs import spans
from veridical.auditing.movement import predict, radius_of, softplus_for
from veridical.auditing.perturbed import infidelity_of, sensitivity_of
from veridical.auditing.pooling import Outcome
from veridical.auditing.subject import Subject, Work, array, relevance_of, rows_with_medians
from veridical.faithfulness import (
    FlippingCurves,
    cascading_randomization,
    cosine_convergence,
    pixel_flipping,
    random_logit,
)
from veridical.records import Score


def measure(subject: Subject, work: Work) -> Outcome:
    """Run one task."""
    return _MEASURES[work.task.test](subject, work)


def _random_logit(subject: Subject, work: Work) -> Outcome:
    result = random_logit(
        subject.model, subject.images, work.explainer, target=subject.targets, seed=work.seed,
        batch=work.batch, first_index=subject.first,
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
        batch=work.batch, relevance=relevance_of(subject, work),
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


def _flips(subject: Subject, work: Work, flips: Tensor, layer: str = "") -> list[Score]:
    """Where the negative map was the more similar one, and the share of it; left out where all are NaN."""
    named = zip(flips.tolist(), subject.names, strict=True)
    return [
        *(work.score("flipped", value, image=name, layer=layer) for value, name in named),
        work.summary("flipped_share", flips.tolist(), layer, "share"),
    ]


def _pixel_flipping(subject: Subject, work: Work) -> Outcome:
    relevance, known = relevance_of(subject, work), subject.known.setdefault("random orders", {})
    parts = []
    # Batch by batch: which images are predicted together does not depend on how many there are.
    for start, stop in spans(0, len(subject.images), work.batch):
        rows = slice(start, stop)
        found = pixel_flipping(
            subject.model, subject.images[rows], work.explainer, target=subject.targets[rows], seed=work.seed,
            batch=work.batch, relevance=relevance[rows], reuse=known.get((start, stop)),
            steps=tuple(work.settings["steps"]), random=work.settings["random"],
            baseline=work.settings["baseline"],
        )  # fmt: skip
        known[start, stop] = found
        parts.append(found)
        work.tick(stop / len(subject.images))
    scores = rows_with_medians(subject, work, [one.statistics() for one in parts])
    for name in ("morf", "lerf", "random"):
        curves = [found for one in parts if (found := getattr(one, name)) is not None]
        scores += _curves(name, curves, work) if curves else []
    return Outcome(scores, facts={"reduction." + work.task.method: parts[0].reduction})


def _curves(name: str, parts: Sequence[FlippingCurves], work: Work) -> list[Score]:
    """The curves over the removed shares, which stand in the place of the layer."""
    probability, kept = (
        torch.cat([_over_orders(one) for one in found])
        for found in ([one.probability for one in parts], [one.kept.double() for one in parts])
    )
    scores: list[Score] = []
    for place, fraction in enumerate(parts[0].fractions.tolist()):
        layer = f"{fraction:.2%}"
        scores.append(work.summary(f"median_{name}_probability", probability[:, place].tolist(), layer))
        scores.append(work.summary(f"{name}_class_kept", kept[:, place].tolist(), layer, "mean"))
    return scores


def _over_orders(values: Tensor) -> Tensor:
    """(N, S) of one order, or the mean over the first axis of several."""
    return values.mean(dim=0) if values.dim() == 3 else values


def _convergence(subject: Subject, work: Work) -> Outcome:
    results = []
    count = int(work.settings["images"])
    for index in range(count):
        results.append(
            cosine_convergence(
                subject.model,
                subject.images[index : index + 1],
                work.explainer,
                first_index=subject.first + index,
                vectors=work.settings["vectors"],
                seed=work.seed,
            )  # fmt: skip
        )
        work.tick((index + 1) / count)
    scores: list[Score] = []
    for place, layer in enumerate(results[0].layers):
        medians = zip((one.median[place] for one in results), subject.names, strict=False)
        scores += [work.score("cosine", value, image=name, layer=layer) for value, name in medians]
    scores += [work.summary(one.statistic, one.values, one.layer, one.kind) for one in summaries(results)]
    # The last entry is the input, whose few channels are alike even for random vectors (Sixt et al. 2020, 3).
    facts = {
        "start": results[0].start,
        "first_convolution": results[0].layers[-2],
        "channels": results[0].channels[-2],
        "precision": str(subject.images.dtype).removeprefix("torch."),
    }
    return Outcome(scores, facts=facts)


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
    """The image whose map is the target: the next one, and after the last of an audit its first."""
    return (index + 1) % len(subject.images)


def _joined(results: Sequence[Manipulation], name: str) -> NDArray[np.float32]:
    return array(torch.cat([getattr(one, name) for one in results]))


def _tangent_space(subject: Subject, work: Work) -> Outcome:
    """The fraction of the maps of the reconstructions in their tangent spaces, see `OnManifold`."""
    place = subject.manifold
    if place is None:
        raise ValueError("expected a manifold for the test tangent-space, got none; pass manifold")
    count = len(place.points)
    found = place.align(
        subject.model, work.explainer, subject.targets[:count], batch=work.batch, seed=work.seed,
        progress=lambda done, total: work.tick(done / total),
    )  # fmt: skip
    summary, random = found.summary("method"), place.random()
    values = {
        "tangent_fraction": found.fractions[0],
        "tangent_margin": found.fractions[0] - random,
        "other_image_fraction": found.others[0],
        "random_p_value": found.p_values[0],
        "above_random": (found.p_values[0] < 0.05).double().masked_fill(found.p_values[0].isnan(), torch.nan),
        "random_fraction": random,
        "reconstruction_error": place.errors,
        "class_kept": place.kept.double(),
    }
    scores = [
        work.score(name, value, image=image)
        for name, column in values.items()
        for value, image in zip(column.tolist(), subject.names[:count], strict=True)
    ]
    for name in ("tangent_fraction", "tangent_margin", "other_image_fraction", "random_p_value"):
        scores.append(work.summary(f"median_{name}", values[name].tolist()))
    for name, one in (("mean_tangent_fraction", summary.mean), ("above_random_share", summary.above)):
        scores.append(work.score(name, one.estimate, ci_low=one.low, ci_high=one.high, n=one.n))
    for name, value in (
        ("mean_other_image_fraction", summary.other),
        ("mean_random_fraction", summary.random),
        ("random_quantile_95", summary.random_high),
        ("sign_test_p_value", summary.p_value),
    ):
        scores.append(work.score(name, value, n=summary.mean.n))
    return Outcome(scores, facts=place.facts())


def _curvature(subject: Subject, work: Work) -> Outcome:
    count = min(int(work.settings["images"]), len(subject.images))
    products = int(work.settings["products"])
    sizes = {"steps": (products + 1) // 2, "probes": products - (products + 1) // 2, "seed": work.seed}
    columns: dict[str, list[float]] = {}
    scores = []
    for index in range(count):
        one = slice(index, index + 1)
        radius = radius_of(subject.images[index], subject.bounds)
        found = predict(subject.model, subject.images[one], subject.targets[one], radius, **sizes)
        values = {
            "largest_curvature": float(found.curvature.largest.abs()),
            "curvature_residual": float(found.curvature.residuals[:, 0]),
            "typical_curvature": float(found.norm.estimate) / math.sqrt(found.norm.dimension),
            "largest_movement": float(found.largest),
            "expected_movement": float(found.expected),
            "radius": radius,
        }
        norm, share = found.norm, math.sqrt(found.norm.dimension)
        ends = {
            "expected_movement": {"ci_low": float(found.low), "ci_high": float(found.high)},
            "typical_curvature": {"ci_low": float(norm.low) / share, "ci_high": float(norm.high) / share},
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
            scores.append(work.score(name, value, image=subject.names[index], **ends.get(name, {})))
        work.tick((index + 1) / count)
    # Rows of one statistic follow one another: a task's file names it once for all of them.
    scores.sort(key=lambda row: list(columns).index(row.statistic))
    scores += [work.summary(f"median_{name}", column) for name, column in columns.items() if name != "radius"]
    return Outcome(scores, facts={"softplus": softplus_for(subject.model, subject.images)})


def _roar(subject: Subject, work: Work) -> Outcome:
    """What is stored of networks that were trained before, see `Retrained`."""
    if subject.retrained is None:
        raise ValueError("expected retrained networks for the test roar, got none; pass roar")
    return Outcome(subject.retrained.scores(work.task.method, work.score))


_MEASURES: Mapping[str, Callable[[Subject, Work], Outcome]] = {
    "random-logit": _random_logit,
    "cascading-randomization": _cascading,
    "pixel-flipping": _pixel_flipping,
    "cosine-convergence": _convergence,
    "manipulation": _manipulation,
    "tangent-space": _tangent_space,
    "curvature": _curvature,
    "infidelity": infidelity_of,
    "sensitivity": sensitivity_of,
    "roar": _roar,
}
