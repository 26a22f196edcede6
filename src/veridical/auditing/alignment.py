"""Alignment with a tangent space for methods that are given by name."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from veridical.attributions import method as find_method
from veridical.checks import check_choice
from veridical.manifold import Alignment, load_recipe
from veridical.manifold import measure_alignment as measure
from veridical.manifold.measure import Bases
from veridical.values import Explainer, Target, explainer_name


def measure_alignment(
    model: nn.Module,
    inputs: Tensor,
    basis: Bases,
    methods: Iterable[str | Explainer] | Mapping[str, str | Explainer] | None = None,
    *,
    target: Target = None,
    convention: str | None = None,
    **settings: Any,
) -> Alignment:
    """How much of each method's map lies in the tangent space (Bordt 2023, eq. 1), against random directions.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: images on the manifold (N, C, H, W).
        basis: their tangent spaces (N, k, C, H, W), see `veridical.tangent_space`.
        methods: built-in names and methods of one's own; a mapping gives them names. None for the four of
            Bordt 2023 with that paper's settings, see `convention`.
        target: the explained class; None for the predicted one.
        convention: whose settings the four have, a set of `veridical.manifold.load_recipe()`: "mnist32",
            "mnist256", "cifar10", "pneumonia" or "retinopathy". None for those of MNIST32.
        settings: batch, level, seed and progress; see `veridical.manifold.measure_alignment`.

    Raises:
        TypeError: if something is of the wrong type.
        ValueError: if a name is unknown or used twice, shapes do not match, or there are both methods and a
            convention.
    """
    if methods is None:
        chosen = published_methods(convention or "mnist32")
    elif convention is None:
        chosen = _named(methods)
    else:
        raise ValueError(
            f"expected a convention only for the methods of the paper, got {convention!r} and methods; leave "
            "one of them out"
        )
    return measure(model, inputs, basis, chosen, target=target, **settings)


def published_methods(convention: str) -> dict[str, Explainer]:
    """The methods of Bordt 2023 as they were run on one of the paper's sets.

    Raises:
        ValueError: if there is no such set.
    """
    sets = load_recipe().sets
    check_choice("convention", convention, list(sets))
    found: dict[str, Explainer] = {}
    for name, given in sets[convention].methods.items():
        options: dict[str, Any] = dict(given)
        found[name] = find_method(name, **options)
    return found


def _named(methods: Iterable[str | Explainer] | Mapping[str, str | Explainer]) -> dict[str, Explainer]:
    if isinstance(methods, Mapping):
        pairs = list(methods.items())
    else:
        pairs = [(one if isinstance(one, str) else explainer_name(one), one) for one in methods]
    if len(dict(pairs)) < len(pairs):
        names = ", ".join(name for name, _ in pairs)
        raise ValueError(f"expected different names of methods, got {names}; pass a dictionary")
    return {name: find_method(one) if isinstance(one, str) else one for name, one in pairs}
