"""Zennit's composites and attributors as methods of this package."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

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
from veridical.checks import check_choice, evaluation_mode, nearest_names
from veridical.values import Target

Start = Literal["one", "value"]
"""The starting relevance of the explained class: 1, or the value of its logit."""

_GIVEN = ("self", "model", "composite", "attr_output", "create_graph", "retain_graph")
_NOBODY = Accepted(frozenset(), anything=False)

_SLOPES = frozenset({"DeconvNet", "GuidedBackprop", "BetaSmooth"})
"""Zennit's composites that are modified gradients, as no composite is the gradient itself."""


@dataclass(frozen=True, repr=False)
class ZennitMethod:
    """A composite of Zennit as an explanation method; see `from_zennit`.

    Args:
        composite: a composite, its class, or None for no composite.
        attributor: a class of `zennit.attribution`.
        start: the starting relevance of the explained class.
        options: sorted pairs of a name and a value; `from_zennit` makes them.
        seed: of the global generators while Zennit runs.
    """

    composite: Any
    attributor: Callable[..., Any]
    start: Start = "one"
    options: Options = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options and the start.

        Raises:
            TypeError: if nobody takes an option, or a composite lacks one that it needs.
            ValueError: if a choice does not exist or does not fit the attributor.
        """
        check_seed(self.seed)
        check_choice("start", self.start, get_args(Start))
        takers = (self._of_composite, self._of_attributor)
        check_known(self.name, (name for name, _ in self.options), takers)
        if "create_graph" not in accepted(self.attributor).names and self.start == "one":
            raise ValueError(
                f"expected start='value' with {plain_name(self.attributor)}, got 'one'; it weighs the output "
                "with the start, and the weight 1 alone would be the same for every image"
            )
        self._composite()

    @property
    def name(self) -> str:
        """The name under which the method is reported."""
        parts = [] if self.composite is None else [plain_name(self.composite)]
        attributor = plain_name(self.attributor)
        return "zennit." + "-".join(parts + ([] if parts and attributor == "Gradient" else [attributor]))

    @property
    def differentiable(self) -> bool:
        """Whether the relevance carries its derivative: where the attributor is a gradient.

        Not with canonizers: they put weights back after the call, under the graph that autograd recorded. A
        merged batch normalization, for one, still divides by sqrt(1 + eps), which the derivative then lacks.
        """
        gradients = "create_graph" in accepted(self.attributor).names
        return gradients and not _canonizers(self._composite())

    @property
    def slope(self) -> bool:
        """Whether the values are slopes: of a gradient, modified or averaged, not multiplied by the input."""
        gradient = self.composite is None or plain_name(self.composite) in _SLOPES
        return gradient and plain_name(self.attributor) in ("Gradient", "SmoothGrad")

    @property
    def _of_composite(self) -> Accepted:
        return accepted(self.composite) if isinstance(self.composite, type) else _NOBODY

    @property
    def _of_attributor(self) -> Accepted:
        return accepted(self.attributor, reserved=_GIVEN)

    def __repr__(self) -> str:
        texts = [shown(self.composite), f"attributor={shown(self.attributor)}", f"start={self.start!r}"]
        texts += [f"{name}={shown(value)}" for name, value in self.options]
        return f"from_zennit({', '.join(texts + ([f'seed={self.seed}'] if self.seed else []))})"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance (N, C, H, W), differentiable where `inputs.requires_grad` and `differentiable` is True.

        Raises:
            TypeError: if an argument is of the wrong type.
            ValueError: if an argument does not fit, or Zennit returns another shape.
        """
        graph = inputs.requires_grad and self.differentiable
        with evaluation_mode(model):
            with torch.no_grad():
                classes = explained_classes(model, inputs, target)
            image = inputs if graph else inputs.detach().clone()
            with preserved(model), seeded(self.seed), torch.enable_grad():
                relevance = self._attribute(model, image, classes, graph)
        return as_relevance(relevance if graph else relevance.detach(), inputs, self.name)

    def _attribute(self, model: nn.Module, image: Tensor, classes: Tensor, graph: bool) -> Tensor:
        composite = self._composite()
        options: dict[str, Any] = self._of_attributor.chosen(thaw(self.options), self._of_composite.names)
        if "create_graph" in accepted(self.attributor).names:
            options["create_graph"] = graph

        def start(logits: Tensor) -> Tensor:
            chosen = torch.nn.functional.one_hot(classes, logits.shape[1]).to(logits)
            if self.start == "value":
                return chosen * (logits if graph else logits.detach())
            # Zennit keeps the graph of a rule only where the relevance above it requires grad.
            return chosen.requires_grad_(graph)

        try:
            with self.attributor(model, composite, **options) as attribute:
                relevance: Tensor = attribute(image, start)[1]
        finally:
            if composite is not None:
                composite.remove()
        return relevance

    def _composite(self) -> Any:
        """A composite for one call; one of the user's own is used as it is."""
        if not isinstance(self.composite, type):
            return self.composite
        return self.composite(**self._of_composite.chosen(thaw(self.options), self._of_attributor.names))


def from_zennit(
    composite: Any = None, attributor: Any = None, *, start: Start = "one", seed: int = 0, **options: Any
) -> ZennitMethod:
    """A method of this package that runs a composite of Zennit.

    The model is left exactly as it was, also where Zennit fails half-way, and so are the global random
    states. Where the images require grad, the relevance is differentiable (checked against central
    differences): the starting relevance is made to require grad, without which Zennit drops the graph of the
    last layer's rule. Composites with canonizers and `Occlusion` are not
    differentiable, and `differentiable` says so.

    Args:
        composite: a composite, its class, its name in `zennit.composites.COMPOSITES` ("epsilon_plus", ...) or
            None for none. Two composites of the same class are recorded under the same text; give the class
            and its options for a record that tells them apart.
        attributor: a class of `zennit.attribution` or its name; None is `Gradient`.
        start: "one", or "value" for the logit (as LRP has it).
        seed: of the generators that Zennit draws from, which are the global ones.
        options: of the composite's class and of the attributor, each goes where a parameter has its name.

    Returns:
        A frozen, hashable callable `(model, inputs, target) -> relevance`.

    Raises:
        TypeError: if something is neither of these, nobody takes an option (the message lists the known
            ones), or a value cannot be hashed.
        ValueError: if there is no composite or attributor of that name, or a choice does not exist.
        ImportError: if Zennit is not installed.
    """
    install = "zennit torchvision"
    composites = find_package("Zennit", "zennit.composites", install)
    attribution = find_package("Zennit", "zennit.attribution", install)
    base = find_package("Zennit", "zennit.core", install).Composite
    if isinstance(composite, str):
        composite = _entry("composite", composite, composites.COMPOSITES, composites.COMPOSITES)
    if not (composite is None or isinstance(composite, base) or _is_subclass(composite, base)):
        raise TypeError(
            f"expected a composite of Zennit, its class or its name, got {shown(composite)}; "
            f"named ones are {', '.join(sorted(composites.COMPOSITES))}"
        )
    known = [one for one in vars(attribution) if _is_subclass(vars(attribution)[one], attribution.Attributor)]
    if attributor is None or isinstance(attributor, str):
        attributor = _entry("attributor", attributor or "Gradient", vars(attribution), known)
    if not _is_subclass(attributor, attribution.Attributor):
        raise TypeError(
            f"expected a class of zennit.attribution, got {shown(attributor)}; give the class itself, it is "
            "applied to the model of each call"
        )
    return ZennitMethod(composite, attributor, start, freeze(options), seed)


def _entry(what: str, name: str, table: Any, known: Collection[str]) -> Any:
    if name not in known:
        near = nearest_names(name, known)
        raise ValueError(f"expected the name of a {what} of Zennit, got {name!r}; {near}")
    return table[name]


def _is_subclass(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


def _canonizers(composite: Any) -> bool:
    """Whether a composite, or one that it is mixed from, changes the weights for the time of the call."""
    if getattr(composite, "canonizers", None):
        return True
    return any(_canonizers(one) for one in getattr(composite, "composites", ()))
