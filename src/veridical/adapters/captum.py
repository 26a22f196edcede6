"""Captum's attributions as methods of this package."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from veridical.adapters.options import (
    Accepted,
    Options,
    accepted,
    check_known,
    find_package,
    freeze,
    plain_name,
    shown,
    thaw,
)
from veridical.adapters.preserve import check_seed, preserved, seeded
from veridical.adapters.results import as_relevance, explained_classes
from veridical.checks import evaluation_mode, nearest_names
from veridical.values import Target

_GIVEN = ("inputs", "target", "return_convergence_delta")

_SLOPES = frozenset({
    "Saliency", "Deconvolution", "GuidedBackprop",
    "NeuronGradient", "NeuronDeconvolution", "NeuronGuidedBackprop",
})  # fmt: skip
"""Captum's classes whose values are those of a gradient, without a factor of the input."""


@dataclass(frozen=True, repr=False)
class CaptumMethod:
    """An attribution of Captum as an explanation method; see `from_captum`.

    Args:
        kind: a class of `captum.attr`, or a function from a model to an attribution object.
        options: sorted pairs of a name and a value; `from_captum` makes them.
        seed: of the global generators while Captum runs.
    """

    kind: Callable[..., Any]
    options: Options = ()
    seed: int = 0

    differentiable: ClassVar[bool] = False
    """Captum's results carry no derivative, or a wrong one: they are detached."""

    def __post_init__(self) -> None:
        """Check the options of a class; those of a function are known when it is called."""
        check_seed(self.seed)
        names = [name for name, _ in self.options]
        given = sorted({*names} & {*_GIVEN})
        if given:
            raise TypeError(f"expected options of Captum, got {given[0]}, which each call sets; leave it out")
        layer = dict(self.options).get("layer")
        if "layer" in names and not isinstance(layer, str):
            raise TypeError(
                f"expected layer as the dotted name of a module, got {type(layer).__name__}; the method is "
                "used on copies of the model too, so name it, for example 'layer4'"
            )
        if isinstance(self.kind, type):
            check_known(self._title, names, (self._constructor, self._taker(self.kind)))

    @property
    def name(self) -> str:
        """The name under which the method is reported."""
        return f"captum.{self._title}"

    @property
    def slope(self) -> bool:
        """Whether the values are slopes and not contributions.

        So for Captum's gradients, their subclasses, and where the option `multiply_by_inputs` is False. What
        a function makes is known only when it is called: it counts as contributions.
        """
        kinds = self.kind.__mro__ if isinstance(self.kind, type) else ()
        bare = dict(self.options).get("multiply_by_inputs", True) is False
        return bare or any(one.__name__ in _SLOPES for one in kinds)

    @property
    def _title(self) -> str:
        return plain_name(self.kind)

    @property
    def _constructor(self) -> Accepted:
        return accepted(self.kind, skip=1)

    @staticmethod
    def _taker(owner: Any) -> Accepted:
        """What `attribute` takes besides the images and the class."""
        return accepted(owner.attribute, reserved=("self", *_GIVEN))

    def __repr__(self) -> str:
        texts = [shown(self.kind), *(f"{name}={shown(value)}" for name, value in self.options)]
        return f"from_captum({', '.join(texts + ([f'seed={self.seed}'] if self.seed else []))})"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance (N, C, H, W), detached: Captum's own derivative would be wrong.

        Raises:
            TypeError: if an argument is of the wrong type, nobody takes an option, or Captum returns a tuple.
            ValueError: if an argument does not fit, there is no such layer, or Captum returns another shape.
        """
        with evaluation_mode(model):
            with torch.no_grad():
                classes = explained_classes(model, inputs, target)
            image = inputs.detach().clone().requires_grad_()
            with preserved(model), seeded(self.seed), _quiet(), torch.enable_grad():
                result = self._attribute(model, image, classes)
        return as_relevance(_detached(result), inputs, self.name)

    def _attribute(self, model: nn.Module, image: Tensor, classes: Tensor) -> Any:
        options = thaw(self.options)
        if "layer" in options:
            options["layer"] = find_layer(model, options["layer"])
        constructor = self._constructor
        attribution = self.kind(model, **constructor.chosen(options))
        if not callable(getattr(attribution, "attribute", None)):
            raise TypeError(
                f"expected {self._title}(model) to return an attribution of Captum, got "
                f"{type(attribution).__name__}; return an object with a method `attribute`"
            )
        taker = self._taker(attribution)
        check_known(self._title, options, (constructor, taker))
        if "target" in accepted(attribution.attribute).names or taker.anything:
            return attribution.attribute(image, target=classes, **taker.chosen(options, constructor.names))
        return attribution.attribute(image, **taker.chosen(options, constructor.names))


def from_captum(kind: str | Callable[..., Any], *, seed: int = 0, **options: Any) -> CaptumMethod:
    """A method of this package that runs an attribution of Captum.

    Captum's defaults are kept: `Saliency` takes absolute values, and `abs=False` is the signed gradient. The
    model is left exactly as it was, also where Captum fails half-way, and so are the global random
    states. The relevance is not differentiable: Captum's own derivatives are absent or wrong, so it is
    detached and `differentiable` is False. An attribution without a class (`LayerActivation`, the neuron
    attributions) ignores the target.

    Args:
        kind: a class of `captum.attr` (or its name), or a function from a model to an attribution object, for
            example `lambda model: NoiseTunnel(Saliency(model))`.
        seed: of the generators that Captum draws from, which are the global ones.
        options: of the constructor and of `attribute`; each goes where a parameter has its name, to both if
            both have it. `layer` is the dotted name of a module and is looked up in the model of each call.
            The map of a layer (N, K, h, w) is summed over K, interpolated to the size of the images and
            spread evenly over their channels.

    Returns:
        A frozen, hashable callable `(model, inputs, target) -> relevance`.

    Raises:
        TypeError: if `kind` is neither, an option has no taker (the message lists the known ones), or a value
            cannot be hashed.
        ValueError: if there is no attribution of that name, or the seed is out of range.
        ImportError: if a name is given and Captum is not installed.
    """
    found = _named(kind) if isinstance(kind, str) else kind
    if isinstance(found, type) and not callable(getattr(found, "attribute", None)):
        raise TypeError(
            f"expected a class with a method `attribute`, got {found.__name__}; give a class of captum.attr"
        )
    if not callable(found) or (not isinstance(found, type) and hasattr(found, "attribute")):
        raise TypeError(
            f"expected a class of Captum or a function of the model, got {type(found).__name__}; give the "
            "class itself, it is applied to the model of each call"
        )
    if isinstance(found, type) and "inputs" not in accepted(getattr(found, "attribute")).names:  # noqa: B009
        raise TypeError(f"expected an attribution of images, got {found.__name__}, which takes none")
    return CaptumMethod(found, freeze(options), seed)


def _named(name: str) -> Any:
    package = find_package("Captum", "captum.attr", "captum")
    known = [one for one in dir(package) if hasattr(getattr(package, one), "attribute")]
    if name not in known:
        raise ValueError(f"expected an attribution of Captum, got {name!r}; {nearest_names(name, known)}")
    return getattr(package, name)


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of that dotted name; in a wrapped model, the only one whose name ends with it.

    Raises:
        ValueError: if there is none, or the end fits several.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name in modules:
        return modules[name]
    ends = [one for one in modules if one.endswith(f".{name}")]
    if len(ends) != 1:
        near = f"it fits {', '.join(ends)}" if ends else nearest_names(name, [one for one in modules if one])
        raise ValueError(f"expected the name of a module as layer, got {name!r}; {near}")
    return modules[ends[0]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Captum's notes on hooks that it sets and removes: the model is put back in any case."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Setting .*hooks", UserWarning)
        warnings.filterwarnings("ignore", r"Input Tensor \d+ did not already require", UserWarning)
        yield


def _detached(result: Any) -> Any:
    return result.detach() if isinstance(result, Tensor) else result
