"""Numbers and tests in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass

NOT_MEASURED = "not measured"

# What a value must be in order to pass, by the direction that is stored.
DIRECTIONS = {
    "fails above": "below",
    "fails below": "above",
    "above": "above",
    "below": "below",
    "at most": "at most",
    "at least": "at least",
    "<": "below",
    "<=": "at most",
    ">": "above",
    ">=": "at least",
}

STATISTICS = {
    "median_ssim": "median similarity (SSIM)",
    "ssim": "similarity (SSIM)",
    "flipped": "sign flip (1: the negative map is the more similar one)",
    "flipped_share": "share of sign flips",
    "median_cosine": "median |cosine|",
    "mean_cosine": "mean |cosine|",
    "one_minus_median_cosine": "1 − median |cosine|",
    "random_baseline": "|cosine| of random vectors",
    "morf_margin": "gain over random removal, most relevant first",
    "lerf_margin": "gain over random removal, least relevant first",
    "morf_area": "mean probability, most relevant removed first",
    "lerf_area": "mean probability, least relevant removed first",
    "random_area": "mean probability, random removal",
    "pcc_to_target": "correlation with the target map",
    "pcc_to_original": "correlation with the original map",
    "ssim_to_target": "SSIM to the target map",
    "ssim_to_original": "SSIM to the original map",
    "pcc_margin": "correlation with the target map minus that with the original map",
    "linf": "largest pixel change (of 1)",
    "l2": "Euclidean size of the change",
    "psnr": "PSNR of the image (dB)",
    "probability_change": "change of the class probability",
    "class_kept": "predicted class kept",
    "tangent_fraction": "fraction in the tangent space",
    "tangent_margin": "fraction in the tangent space minus that of random directions",
    "other_image_fraction": "fraction in another image's tangent space",
    "random_p_value": "p value against random directions",
    "above_random_share": "share of images above 95 % of random directions",
    "reconstruction_error": "error of the reconstruction",
    "largest_curvature": "largest curvature",
    "typical_curvature": "root mean square curvature",
    "largest_movement": "predicted change of the map, most curved direction",
    "expected_movement": "predicted change of the map, random direction",
    "explained": "share of the class's change that the map predicts",
    "explained_by_chance": "the same with the map's pixels in random order",
    "explained_margin": "predicted share of the class's change minus that by chance",
    "infidelity": "infidelity (squared logits)",
    "scale": "best scale of the map",
    "sensitivity": "change of the map in units of its size",
    "largest_distance": "change of the map",
    "mean_roar_accuracy": "mean accuracy after retraining without the most relevant pixels",
    "mean_random_accuracy": "mean accuracy after retraining without random pixels",
    "mean_edges_accuracy": "mean accuracy after retraining without the pixels at edges",
    "mean_roar_margin": "mean gain over random removal after retraining",
    "mean_edges_margin": "mean gain of edges over random removal after retraining",
}

PASSED: dict[bool | None, tuple[str, str, str]] = {
    True: ("yes", "✓", "passed"),
    False: ("no", "✗", "failed"),
    None: ("open", "○", "open"),
}

VERDICTS = {
    "believable": ("yes", "✓", "believable"),
    "not believable": ("no", "✗", "not believable"),
    "not decided": ("open", "○", "not decided"),
}


@dataclass(frozen=True)
class TestText:
    """What one test asks, does and means, for a reader who does not know it.

    `docs` is the page of the documentation with its section, `link` the address of the paper.
    """

    __test__ = False  # not a test case for pytest

    title: str
    question: str
    what: str
    reading: str
    paper: str
    docs: str = ""
    link: str = ""


TESTS = {
    "random-logit": TestText(
        title="Other class",
        question="Does the map depend on the class that it is said to explain?",
        what=(
            "Each photograph is explained twice: once for its own class, and once for a class drawn at "
            "random from all the others. The two maps are compared by structural similarity (SSIM)."
        ),
        reading=(
            "SSIM is 1 where two maps are the same picture and near 0 where they share no structure. A map "
            "that stays the same for an unrelated class cannot be telling why this class was chosen."
        ),
        paper="Sixt, Granz and Landgraf, When Explanations Lie, ICML 2020",
        docs="faithfulness.md#random-logit",
        link="https://arxiv.org/abs/1912.09818",
    ),
    "cascading-randomization": TestText(
        title="Randomized network",
        question="Does the map depend on what the network has learned?",
        what=(
            "The learned weights are replaced by random ones, step by step from the last layer down to the "
            "first, and the map is made anew after every step. Each map is compared with the original by "
            "SSIM."
        ),
        reading=(
            "A network with random upper layers no longer knows any class. If the map survives that, it "
            "shows something about the picture or about the lower layers, such as edges, and not the "
            "decision."
        ),
        paper=(
            "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018; protocol of Sixt et al., ICML "
            "2020"
        ),
        docs="faithfulness.md#cascading-randomization",
        link="https://arxiv.org/abs/1810.03292",
    ),
    "pixel-flipping": TestText(
        title="Pixel flipping",
        question="Does the network need the pixels that the map calls relevant?",
        what=(
            "Pixels are set to the zero of the network's input (the mean color where the input is "
            "normalized), the most relevant first, and the probability of the class is read after every "
            "step. The same is done with the least relevant first, and in random orders."
        ),
        reading=(
            "If the map is right, the class goes faster than in random order when the most relevant pixels "
            "go first. A picture with holes is unlike what the network has learned from, so this is advice, "
            "not proof."
        ),
        paper=(
            "Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned, 2017; "
            "Dombrowski et al., NeurIPS 2019, figure 7"
        ),
        docs="faithfulness.md#pixel-flipping",
        link="https://arxiv.org/abs/1509.06321",
    ),
    "cosine-convergence": TestText(
        title="Converging directions",
        question="Does the method forget where it started on its way down the network?",
        what=(
            "The method is started from several random vectors at an upper layer and carried down to the "
            "input. At every layer the absolute cosine of the angle between the results is measured, for "
            "all pairs."
        ),
        reading=(
            "A cosine of 1 means that the results point the same way whatever they started from, so that "
            "the information of the upper layers is lost. Random vectors of the same length give the "
            "baseline."
        ),
        paper="Sixt, Granz and Landgraf, When Explanations Lie, ICML 2020",
        docs="faithfulness.md#cosine-convergence",
        link="https://arxiv.org/abs/1912.09818",
    ),
    "manipulation": TestText(
        title="Manipulation",
        question="Can the map be changed at will without a visible change of the picture?",
        what=(
            "A small change of the photograph is searched for that makes its map look like the map of "
            "another photograph, while the output of the network is held where it was. The result is "
            "measured on the unmodified network."
        ),
        reading=(
            "If the new map correlates more with the foreign target than with the original, somebody who "
            "supplies the picture can dictate the explanation."
        ),
        paper="Dombrowski et al., Explanations Can Be Manipulated and Geometry Is to Blame, NeurIPS 2019",
        docs="manipulation.md",
        link="https://arxiv.org/abs/1906.07983",
    ),
    "tangent-space": TestText(
        title="Along the manifold",
        question="Does the map lie along the surface that photographs of this kind fill?",
        what=(
            "A decoder gives the surface of all photographs of this kind, and its derivative the directions "
            "along it. Every photograph is moved onto the surface (encoded and decoded), the reconstruction "
            "is explained, and the fraction of the map along the surface is measured."
        ),
        reading=(
            "The fraction is 1 for a map along the surface. That of a random direction is known exactly and "
            "subtracted. What is not along the surface points to pictures that are no photographs of this "
            "kind. A map that is merely smooth passes too."
        ),
        paper="Bordt et al., The Manifold Hypothesis for Gradient-Based Explanations, CVPR Workshops 2023",
        docs="manifold.md",
        link="https://arxiv.org/abs/2206.07387",
    ),
    "curvature": TestText(
        title="Room to move",
        question="How far could the gradient map be moved without a change of the output?",
        what=(
            "The set of pictures with the same output is curved. Its curvature is measured at the "
            "photograph, without an attack; times the length of a step as small as the rounding of an 8-bit "
            "file, it is the change of the normalized gradient map, to first order. A network with ReLU is "
            "taken with a softplus in its place."
        ),
        reading=(
            "At the root of 2 the map has turned by a right angle: then the rounding of the file decides "
            "what it shows. This belongs to the network and the photograph, not to a method, and is "
            "measured once, with the gradient."
        ),
        paper="Dombrowski et al., Explanations Can Be Manipulated and Geometry Is to Blame, NeurIPS 2019",
        docs="geometry.md",
        link="https://arxiv.org/abs/1906.07983",
    ),
    "infidelity": TestText(
        title="Infidelity",
        question="Does the map predict what happens when parts of the photograph are removed?",
        what=(
            "Squares of random size and place are set to the zero of the network's input, and the output for "
            "the class is read. What the map says of each square, at the scale that suits the map best, is "
            "compared with what really happened."
        ),
        reading=(
            "The share of the change that the map predicts is 1 for a perfect map. The same map with its "
            "pixels in random order gives the share of chance, which is subtracted. A picture with holes is "
            "unlike what the network has learned from, so this is advice, not proof."
        ),
        paper="Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019",
        docs="faithfulness.md#infidelity-and-sensitivity",
        link="https://arxiv.org/abs/1901.09392",
    ),
    "sensitivity": TestText(
        title="Sensitivity",
        question="Does the map stay when the photograph hardly changes?",
        what=(
            "Every value of the photograph is changed at random by at most 2 % of the way from black to "
            "white, several times. The largest change of the map is divided by the size of the map."
        ),
        reading=(
            "At 1 the map of a photograph that looks the same differs by as much as there is of the map. "
            "A small value is no proof: a map that is always the same does not move at all."
        ),
        paper="Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019",
        docs="faithfulness.md#infidelity-and-sensitivity",
        link="https://arxiv.org/abs/1901.09392",
    ),
    "roar": TestText(
        title="Remove and retrain",
        question="Can a network learn the classes without the pixels that the map calls relevant?",
        what=(
            "The most relevant pixels of all training and test images are replaced by their mean color, and "
            "new networks are trained on what is left, several for each share of removed pixels. The same is "
            "done with random pixels and with the edges of the image. These trainings were done before, on "
            "the user's images; the audit reads their accuracies."
        ),
        reading=(
            "The lower the accuracy beneath that of random pixels, the better the map has found what tells "
            "the classes apart. Which pixels are gone may itself tell the class, so that a low accuracy is "
            "evidence and a high one is not. Intervals speak of other trainings, not of other images."
        ),
        paper="Hooker et al., A Benchmark for Interpretability Methods in Deep Neural Networks, NeurIPS 2019",
        docs="roar.md",
        link="https://arxiv.org/abs/1806.10758",
    ),
}


def number(value: float | None) -> str:
    """Write a number with about three digits; NaN and None are "not measured".

    Values just below 1 keep the digits that tell them from 1.

    >>> number(0.12345), number(float("nan")), number(0.99951), number(-0.00002)
    ('0.123', 'not measured', '0.99951', '−2.0 × 10⁻⁵')
    >>> number(0.014712), number(224), number(12.3456)
    ('0.015', '224', '12.3')
    """
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    sign = "−" if value < 0 else ""
    if size == 0 or size == int(size) < 1e6:
        return f"{sign}{int(size):,}"
    if size < 1e-3 or size >= 1e6:
        return sign + _scientific(size)
    if 0.99 < size < 1:
        digits = min(9, 1 + math.ceil(-math.log10(1 - size)))
        return sign + f"{size:.{digits}f}".rstrip("0")
    if size < 1:
        return sign + f"{size:.{3 if size >= 0.01 else 4}f}".rstrip("0")
    return sign + (f"{size:.3g}" if size < 1000 else f"{size:,.0f}")


def interval(low: float, high: float) -> str:
    """Write an interval, or nothing where it was not measured."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{number(low)} to {number(high)}"


def limit(direction: str, threshold: float) -> str:
    """Write what a value must be in order to pass."""
    if math.isnan(threshold):
        return ""
    return f"{DIRECTIONS.get(direction.strip().lower(), direction)} {number(threshold)}"


def statistic(name: str) -> str:
    """Write the name of a statistic in words."""
    if name in STATISTICS:
        return STATISTICS[name]
    bare = name.removeprefix("median_")
    if bare in STATISTICS:
        return f"median {STATISTICS[bare]}"
    return name.replace("_", " ")


def explain_test(name: str, description: str = "") -> TestText:
    """Return the explanation of a test; for a test that is not known here, its own description."""
    if name in TESTS:
        return TESTS[name]
    title = name.replace("-", " ").capitalize()
    return TestText(title, question="", what=description, reading="", paper="")


def counted(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun.

    >>> counted(1, "photograph"), counted(3, "photograph")
    ('1 photograph', '3 photographs')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def joined(parts: list[str]) -> str:
    """Join words as in a sentence.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(([", ".join(parts[:-1])] if parts[:-1] else []) + parts[-1:])


def _scientific(size: float) -> str:
    mantissa, exponent = f"{size:.1e}".split("e")
    superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{superscript}"
