"""What an audit does: its tests, the sizes that a preset stands for, and the list of independent tasks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.attacks import preset as attack_preset
from veridical.attributions import method as find_method
from veridical.auditing.policy import TEST_NAMES
from veridical.checks import NO_DERIVATIVE, check_method, nearest_names
from veridical.records import SkippedRecord
from veridical.values import Explainer, explainer_name, is_differentiable

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
}


MANIPULATION = "default"
"""The attack of the audit, one of `veridical.attacks.PRESETS`: the one that needs no tuning."""

FLIPPED = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
"""Shares of removed pixels where time allows: dense at first, where the curves differ most."""


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


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(5, 6, 3, 5, 1, 120, ("gradient",), 10),
    "standard": Preset(24, 12, 8, 5, 4, 300, ("gradient", "lrp-zplus"), 30, flipped=FLIPPED, orders=5),
    "thorough": Preset(
        200, 24, 200, 5, 20, 300, ("gradient", "gradient-x-input", "lrp-zplus"), 50, flipped=FLIPPED,
        orders=10,
    ),
}  # fmt: skip
"""The presets by name. Sixt et al. 2020 used 200 images."""


@dataclass(frozen=True)
class Task:
    """One test of one method: the unit of work that is stored, resumed and reported."""

    method: str
    test: str

    @property
    def key(self) -> str:
        """The name of the task's files; the same in every run."""
        return f"{self.test}--{self.method}"


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
    }  # fmt: skip


def _manipulation(preset: Preset) -> dict[str, Any]:
    found = attack_preset(MANIPULATION)
    return {
        "preset": MANIPULATION, "steps": preset.manipulation_steps, "lr": found.lr, "lr_unit": found.lr_unit,
        "factors": list(found.factors), "output": found.output,
    }  # fmt: skip


def make_plan(
    methods: Mapping[str, Explainer], tests: Sequence[str], preset: Preset, images: int
) -> tuple[list[Task], list[SkippedRecord]]:
    """The tasks, method by method, and the tests that are left out with the reason."""
    tasks, skipped = [], []
    for name, explainer in methods.items():
        for test in tests:
            reason, applies = _left_out(name, explainer, test, preset, images)
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
    if test == "manipulation" and images < 2:
        return "it needs a second image, whose map is the target", False
    return "", True
