"""Infidelity and sensitivity as tests of the audit: what changed images say about a map."""

from torch import Tensor

from veridical.auditing.inputs import spans
from veridical.auditing.pooling import Outcome
from veridical.auditing.subject import Subject, Work, relevance_of, rows_with_medians
from veridical.faithfulness import default_reading, infidelity, sensitivity


def infidelity_of(subject: Subject, work: Work) -> Outcome:
    """Whether the map predicts what removed squares cost the class, better than its pixels in random order.

    The images without squares are predicted once for all methods. Each map has the scale that fits it best.
    """
    relevance, known = relevance_of(subject, work), subject.known.setdefault("removed squares", {})
    reading, parts = default_reading(work.explainer), []
    # Batch by batch: which images are predicted together does not depend on how many there are.
    for start, stop in spans(0, len(subject.images), work.batch):
        rows = slice(start, stop)
        found = infidelity(
            subject.model, subject.images[rows], work.explainer, target=subject.targets[rows], seed=work.seed,
            batch=work.batch, relevance=relevance[rows], reuse=known.get((start, stop)), scaled=True,
            perturbation=work.settings["perturbation"], side=work.settings["side"], reading=reading,
            baseline=work.settings["baseline"], samples=work.settings["samples"],
            shuffles=work.settings["shuffles"],
        )  # fmt: skip
        known[start, stop] = found
        parts.append(found)
        work.tick(stop / len(subject.images))
    columns = [
        {
            "explained_margin": one.explained - one.chance,
            "explained": one.explained,
            "explained_by_chance": one.chance,
            "infidelity": one.values,
            "scale": one.scale,
        }
        for one in parts
    ]
    return Outcome(rows_with_medians(subject, work, columns), facts={"reading." + work.task.method: reading})


def sensitivity_of(subject: Subject, work: Work) -> Outcome:
    """How far the map moves when every value of the image changes by at most a share of black to white."""
    relevance, columns = relevance_of(subject, work), []
    for index, image in enumerate(subject.images):
        one = slice(index, index + 1)
        found = sensitivity(
            subject.model, image[None], work.explainer, target=subject.targets[one], seed=work.seed,
            batch=work.batch, relevance=relevance[one], samples=work.settings["samples"],
            radius=radii(image, work.settings["radius"], subject.bounds),
        )  # fmt: skip
        columns.append({"sensitivity": found.values, "largest_distance": found.largest})
        work.tick((index + 1) / len(subject.images))
    return Outcome(rows_with_medians(subject, work, columns))


def radii(
    image: Tensor, share: float, bounds: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> float | tuple[float, ...]:
    """The largest change of a value in the network's units, for each channel where there are bounds.

    Args:
        image: (C, H, W).
        share: of black to white.
        bounds: black and white, one number a channel; None for the lowest and highest value of the image.
    """
    if bounds is None:
        # An image of one color has no range of its own.
        return share * (float(image.max() - image.min()) or 1.0)
    return tuple(share * (high - low) for low, high in zip(*bounds, strict=True))
