"""What an audit does: its tests, the sizes that a preset stands for, and the list of independent tasks."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.attacks import preset as attack_preset
from veridical.attributions import method as find_method
from veridical.attributions.gradient import Gradient
from veridical.auditing.movement import BETA, NOT_THE_GRADIENT, RADIUS
from veridical.checks import NO_DERIVATIVE, check_method, nearest_names
from veridical.records import SkippedRecord
from veridical.values import Explainer, explainer_name, is_differentiable
from veridical.verdicts import TEST_NAMES

DEFAULT_METHODS = (
    "gradient", "gradient-x-input", "integrated-gradients", "smoothgrad", "guided-backprop", "deconvnet",
    "lrp-z", "lrp-epsilon", "lrp-zplus", "lrp-alpha1-beta0", "lrp-alpha2-beta1", "deep-taylor",
)  # fmt: skip

DESCRIPTIONS: Mapping[str, str] = {
    "random-logit": "the map of the class against the map of another class, drawn at random",
    "cascading-randomization": "the map of the network against those of the network randomized from the top",
    "pixel-flipping": "whether the class goes with the pixels that the map calls relevant (advisory)",
    "cosine-convergence": "whether random starting vectors become alike on the way down to the input",
    "manipulation": "whether an invisible change of the image makes its map that of another image (advisory)",
    "tangent-space": "whether the map lies along the manifold of the images; needs a manifold (advisory)",
    "curvature": "how far the gradient map can be moved, predicted from the network's curvature (advisory)",
    "infidelity": "whether the map predicts what removed squares of the image cost the class (advisory)",
    "sensitivity": "how far the map moves when the image hardly does (advisory)",
    "roar": "whether networks retrained without the map's pixels get worse; needs these networks (advisory)",
}


MANIPULATION = "default"
"""The attack of the audit, one of `veridical.attacks.PRESETS`: the one that needs no tuning."""

MOST_ALIGNED = 200
"""Images that are moved onto a manifold at most: their tangent spaces are kept in memory."""

FLIPPED = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
"""Shares of removed pixels where time allows: dense at first, where the curves differ most."""


LARGEST_SQUARE = 0.5
"""Of the squares that infidelity removes, as a share of the shorter side."""

NEAR = 0.02
"""Largest change of a value for the sensitivity, as a share of black to white: about 5 of 255 gray levels."""


@dataclass(frozen=True)
class Preset:
    """The sizes of an audit.

    Attributes:
        images: images used at most; the first ones.
        steps: steps of the randomization, spread evenly over the network.
        convergence_images: images of the cosine convergence at most.
        vectors: starting vectors for each of them.
        pairs: image pairs of the manipulation at most.
        manipulation_steps: steps of its optimization, otherwise the attack `MANIPULATION`.
        manipulated: methods that are manipulated where the test is not named; the others are recorded as
            skipped.
        samples: nodes of integrated gradients and samples of SmoothGrad.
        batch: images in one call of a method; bounds the memory.
        flipped: shares of the pixels that pixel flipping removes.
        orders: random orders that it compares with.
        curved: images whose curvature is measured at most.
        curvature_products: of the Hessian with a vector for each of them, half for Lanczos, half as probes.
        squares: removed from each image for its infidelity.
        shuffles: of each map's pixels, which its infidelity is compared with.
        neighbors: of each image, for its sensitivity.
    """

    images: int
    steps: int
    convergence_images: int
    vectors: int
    pairs: int
    manipulation_steps: int
    manipulated: tuple[str, ...]
    samples: int
    batch: int = 4
    flipped: tuple[float, ...] = (0.05, 0.15, 0.4)
    orders: int = 3
    curved: int = 2
    curvature_products: int = 12
    squares: int = 30
    shuffles: int = 3
    neighbors: int = 3


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(5, 6, 3, 5, 1, 120, ("gradient",), 10),
    "standard": Preset(
        24, 12, 8, 5, 4, 300, ("gradient", "lrp-zplus"), 30, flipped=FLIPPED, orders=5, curved=8,
        curvature_products=40, squares=50, shuffles=5, neighbors=5,
    ),
    "thorough": Preset(
        200, 24, 200, 5, 20, 300, ("gradient", "gradient-x-input", "lrp-zplus"), 50, flipped=FLIPPED,
        orders=10, curved=50, curvature_products=60, squares=100, shuffles=10, neighbors=10,
    ),
}  # fmt: skip
"""The presets by name. Sixt et al. 2020 used 200 images."""


@dataclass(frozen=True)
class Task:
    """One test of one method on some images: the unit of work that is stored, resumed and reported.

    Attributes:
        method: its name in the audit.
        test: its name.
        span: the first image and the one after the last; None for all images of the test.
    """

    method: str
    test: str
    span: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """The name of the task's files; the same in every run."""
        part = "" if self.span is None else f"--{self.span[0]}-{self.span[1]}"
        return f"{self.test}--{self.method}{part}"


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"expected a preset, got {name!r}; {nearest_names(name, PRESETS)}")
    return PRESETS[name]


def find_tests(names: Sequence[str] | None) -> tuple[str, ...]:
    """The tests of those names in the order in which they run; all for None.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    if names is None:
        return TEST_NAMES
    for name in names:
        if name not in TEST_NAMES:
            raise ValueError(f"expected the name of a test, got {name!r}; {nearest_names(name, TEST_NAMES)}")
    if not names:
        raise ValueError(f"expected at least one test, got none; known: {', '.join(TEST_NAMES)}")
    return tuple(name for name in TEST_NAMES if name in names)


NEEDS: Mapping[str, tuple[str, str]] = {
    "tangent-space": (
        "a manifold",
        "no manifold was given; fit one to images of this kind with `veridical manifold fit` and pass its "
        "directory as --manifold (in Python: manifold=), or a decoder of your own with --decoder and "
        "--latents",
    ),
    "roar": (
        "a folder of retrained networks",
        "no folder of retrained networks was given; train them on your training images with `veridical "
        "roar` and pass its folder as --roar (in Python: vd.roar(..., folder=FOLDER), then roar=)",
    ),
}
"""Tests that need what an audit does not have: what it is, and how to get it."""


def runnable(tests: tuple[str, ...], given: Collection[str]) -> tuple[tuple[str, ...], list[SkippedRecord]]:
    """The tests that can be run, and what is left out of all methods.

    Args:
        tests: that were asked for.
        given: those of `NEEDS` for which what they need was given.

    Raises:
        ValueError: no test is left, or something was given and no test asks for it.
    """
    for name in given:
        what = NEEDS[name][0]
        if name not in tests:
            raise ValueError(
                f"expected the test {name} where {what} is given, got {', '.join(tests)}; name it among the "
                f"tests, or leave {what.removeprefix('a ')} out"
            )
    rest = tuple(name for name in tests if name in given or name not in NEEDS)
    if not rest:
        what, reason = NEEDS[tests[0]]
        raise ValueError(f"expected {what} for the test {tests[0]}: {reason}")
    missing = [name for name in tests if name not in rest]
    return rest, [
        SkippedRecord(method="", test=name, reason=NEEDS[name][1], applies=False) for name in missing
    ]


def find_methods(
    chosen: Iterable[str | Explainer] | Mapping[str, Explainer] | None, preset: Preset
) -> dict[str, Explainer]:
    """The explanation methods by the names under which they are reported.

    Args:
        chosen: names and methods of one's own, or a mapping from names to methods; None for the default ones.
        preset: its `samples` are the steps of "integrated-gradients" and the samples of "smoothgrad".

    Raises:
        TypeError: something is no method.
        ValueError: a name is unknown, used twice, or no file name; or there is no method.
    """
    if isinstance(chosen, str):
        raise TypeError(f"expected a list of methods, got the text {chosen!r}; put it into a list")
    pairs = chosen.items() if isinstance(chosen, Mapping) else [_named(one, preset) for one in _given(chosen)]
    methods: dict[str, Explainer] = {}
    for name, explainer in pairs:
        check_method(explainer, name)
        if name in methods:
            raise ValueError(f"expected different names of methods, got {name!r} twice; pass a dictionary")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._,()=+-]{0,99}", name):
            known = "letters, digits and ._-+=(),"
            raise ValueError(f"expected a method's name of {known}, got {name!r}; rename it")
        methods[name] = explainer
    if not methods:
        raise ValueError("expected at least one method, got none; see `veridical methods`")
    return methods


def _given(chosen: Iterable[str | Explainer] | None) -> Iterable[str | Explainer]:
    return DEFAULT_METHODS if chosen is None else chosen


def _named(one: str | Explainer, preset: Preset) -> tuple[str, Explainer]:
    if isinstance(one, str):
        if one == "integrated-gradients":
            return one, find_method(one, steps=preset.samples)
        if one == "smoothgrad":
            return one, find_method(one, samples=preset.samples)
        return one, find_method(one)
    return re.sub(r"[<>]", "", explainer_name(one)), one


def describe(explainer: Explainer) -> tuple[str, str]:
    """The options of a method as text, the same in every process, and one line that says what it does."""
    options = repr(explainer)
    if re.search(r" at 0x[0-9a-f]+", options):
        # A function is its place, an object of the user's is its class; a wrapper's text loses the addresses.
        named: Any = explainer if hasattr(explainer, "__qualname__") else type(explainer)
        place = f"{named.__module__}.{named.__qualname__}"
        wraps = named is type(explainer) and named.__repr__ is not object.__repr__
        options = re.sub(r" at 0x[0-9a-f]+", "", options) if wraps else place
    text = (getattr(explainer, "__doc__", None) or "").strip()
    return options, text.splitlines()[0] if text else ""


def settings_of(preset: Preset, seed: int, images: int) -> dict[str, dict[str, Any]]:
    """What every test is run with, by its name."""
    pairs = min(preset.pairs, images) if images > 1 else 0
    return {
        "random-logit": {"images": images, "protocol": "sixt2020", "seed": seed},
        "cascading-randomization": {
            "images": images, "steps": preset.steps, "protocol": "sixt2020", "seed": seed,
        },
        "pixel-flipping": {
            "images": images, "steps": list(preset.flipped), "random": preset.orders, "baseline": "zero",
            "seed": seed,
        },
        "cosine-convergence": {
            "images": min(preset.convergence_images, images), "vectors": preset.vectors, "seed": seed,
        },
        "manipulation": {"pairs": pairs, **_manipulation(preset), "seed": seed},
        "tangent-space": {"images": min(MOST_ALIGNED, images), "seed": seed},
        "curvature": {
            "images": min(preset.curved, images), "products": preset.curvature_products, "beta": BETA,
            "radius": RADIUS, "seed": seed,
        },
        "infidelity": {
            "images": images, "perturbation": "square", "side": LARGEST_SQUARE, "baseline": "zero",
            "samples": preset.squares, "shuffles": preset.shuffles, "seed": seed,
        },
        "sensitivity": {"images": images, "radius": NEAR, "samples": preset.neighbors, "seed": seed},
    }  # fmt: skip


def _manipulation(preset: Preset) -> dict[str, Any]:
    found = attack_preset(MANIPULATION)
    return {
        "preset": MANIPULATION, "steps": preset.manipulation_steps, "lr": found.lr, "lr_unit": found.lr_unit,
        "factors": list(found.factors), "output": found.output,
    }  # fmt: skip


def make_plan(
    methods: Mapping[str, Explainer],
    tests: Sequence[str],
    preset: Preset,
    images: int,
    unretrained: Mapping[str, str],
) -> tuple[list[Task], list[SkippedRecord]]:
    """The tasks, method by method, and the tests that are left out with the reason.

    Args:
        methods: by name.
        tests: that can be run.
        preset: of the audit.
        images: that it uses.
        unretrained: methods for which the test roar has no networks, with the reason.
    """
    tasks, skipped = [], []
    for name, explainer in methods.items():
        for test in tests:
            reason, applies = _left_out(name, explainer, test, preset, images)
            if test == "roar" and name in unretrained:
                reason, applies = unretrained[name], False
            if reason:
                skipped.append(SkippedRecord(method=name, test=test, reason=reason, applies=applies))
            else:
                tasks.append(Task(name, test))
    return tasks, skipped


def _left_out(name: str, explainer: Explainer, test: str, preset: Preset, images: int) -> tuple[str, bool]:
    if test == "cosine-convergence" and getattr(explainer, "rules", None) is None:
        return (
            "it needs a method with layer-by-layer rules, through which random vectors can be sent in the "
            "place of the class; this one hands out only the relevance of the image"
        ), False
    if test == "manipulation" and not is_differentiable(explainer):
        return NO_DERIVATIVE, False
    if test == "manipulation" and name not in preset.manipulated:
        named = ", ".join(preset.manipulated)
        return f"this preset manipulates only {named}; name the test to manipulate every method", False
    if test == "curvature" and not isinstance(explainer, Gradient):
        return NOT_THE_GRADIENT, False
    if test == "manipulation" and images < 2:
        return "it needs a second image, whose map is the target", False
    return "", True
