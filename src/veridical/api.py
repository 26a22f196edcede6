"""The functions that bring several parts together; `import veridical as vd` offers them all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn

from veridical import adapters, attacks, faithfulness, smoothing
from veridical.adapters import Channels, QuantusFunction
from veridical.attacks import AttackedPairs, Manipulation, ManipulationSettings, Recovery, Robustness
from veridical.attributions import explain_several as explain_all
from veridical.attributions import method as find_method
from veridical.attributions import rule_coverage
from veridical.auditing import AuditOptions, AuditReport, Forgery
from veridical.auditing import audit as run_audit
from veridical.auditing import forge as run_forge
from veridical.auditing.forgery import EVERY
from veridical.checks import check_method
from veridical.faithfulness import (
    CascadingRandomization,
    ClassDifference,
    CosineConvergence,
    Infidelity,
    PixelFlipping,
    RandomLogit,
    Retrain,
    Roar,
    RoarData,
    Sensitivity,
)
from veridical.report import render
from veridical.rules import Coverage
from veridical.smoothing import BetaChoice
from veridical.values import Explainer, Target, explainer_name


def as_explainer(method: str | Explainer) -> Explainer:
    """A built-in method's name, or any callable `(model, inputs, target) -> relevance`, as an explainer.

    Raises:
        ValueError: if no method has that name.
        TypeError: if it is neither a name nor a callable, or a class (Captum's, say).
    """
    if isinstance(method, str):
        return find_method(method)
    if not callable(method):
        raise TypeError(f"expected a method's name or a callable, got {type(method).__name__}")
    check_method(method)
    return method


def as_quantus(method: str | Explainer, channels: Channels = "sum") -> QuantusFunction:
    """The function that Quantus's metrics take as `explain_func`; see `veridical.adapters.as_quantus`.

    Args:
        method: a built-in method's name or any explainer.
        channels: "sum" gives one value a pixel (N, 1, H, W), "keep" one for each input value (N, C, H, W).

    Raises:
        TypeError: if it is neither a name nor a callable.
        ValueError: if no method has that name, or there is no such choice of channels.
    """
    return adapters.as_quantus(as_explainer(method), channels)


def explain_several(
    model: nn.Module,
    inputs: Tensor,
    methods: Iterable[str | Explainer] | Mapping[str, str | Explainer],
    targets: Sequence[Target] = (None,),
) -> dict[str, Tensor]:
    """Relevance (T, N, C, H, W) by several methods for T targets, from one forward pass where possible.

    Args:
        model: maps images to logits (N, K); left as it was.
        inputs: float (N, C, H, W).
        methods: built-in names and methods of one's own; a mapping gives them names.
        targets: each an int, a LongTensor (N,), or None for the predicted class.

    Returns:
        The relevance of each method by its name; see `veridical.attributions.explain_several`.

    Raises:
        TypeError: if something is no method.
        ValueError: if a name is unknown or used twice, or a target does not exist.
    """
    return explain_all(model, inputs, _explainers(methods), targets)


def _explainers(
    methods: Iterable[str | Explainer] | Mapping[str, str | Explainer],
) -> dict[str, Explainer]:
    """Every method as an explainer, by its name."""
    pairs = methods.items() if isinstance(methods, Mapping) else [(_name_of(one), one) for one in methods]
    found: dict[str, Explainer] = {}
    for name, one in pairs:
        if name in found:
            raise ValueError(f"expected different names of methods, got {name!r} twice; pass a dictionary")
        found[name] = as_explainer(one)
    return found


def _name_of(method: str | Explainer) -> str:
    return method if isinstance(method, str) else explainer_name(method)


def manipulate(
    model: nn.Module,
    inputs: Tensor,
    target_map: Tensor,
    *,
    method: str | Explainer = "gradient",
    target: Target = None,
    preset: str = "default",
    **settings: Any,
) -> Manipulation:
    """Change images so that their maps become `target_map`, while the output stays (Dombrowski 2019, eq. 4).

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_map: maps aimed at (N, H, W), non-negative.
        method: a built-in method's name or any differentiable explainer.
        target: the explained class; None for the predicted one.
        preset: one of `veridical.attacks.PRESETS`, settings alone: the method is `method`, whatever a table
            attacked. Its rate is converted where `bounds` are given.
        settings: fields of `veridical.attacks.ManipulationSettings` that replace the preset's (steps, lr in
            units of the input unless `lr_unit` says else, factors, bounds, ...); `callback`, called with the
            steps done and the loss of each pair; `memory_gib`, which bounds how many pairs are optimized
            together (None: as many as half of the free memory holds); and `compiled`, whether the step is
            compiled first.

    Returns:
        The manipulated images and everything measured on the unmodified network.

    Raises:
        TypeError: where an argument is of the wrong type or no such setting exists.
        ValueError: where there is no such preset or a value does not fit; see `veridical.attacks.manipulate`.
    """
    names = ("callback", "memory_gib", "compiled")
    options = {name: settings.pop(name) for name in names if name in settings}
    return attacks.manipulate(
        model,
        inputs,
        target_map,
        explainer=as_explainer(method),
        target=target,
        settings=_changed(preset, settings),
        **options,
    )


def _changed(preset: str, settings: dict[str, Any]) -> ManipulationSettings:
    """A preset with some of its settings replaced, its rate converted where bounds are given."""
    if "lr" in settings:
        settings.setdefault("lr_unit", "input")
    return replace(attacks.preset(preset, settings.get("bounds")), **settings)


def forge(
    model: nn.Module,
    inputs: Tensor,
    target_map: Tensor,
    *,
    method: str | Explainer = "gradient",
    preset: str = "default",
    **settings: Any,
) -> Forgery:
    """Attack, and measure again what rounding to 16 and 8 bits and JPEG leave of the attack.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_map: maps aimed at (N, H, W), non-negative.
        method: a built-in method's name or any differentiable explainer.
        preset: see `manipulate`.
        settings: as for `manipulate`; without `bounds` nothing is stored, because black and white are not
            known. `progress` is called with a `veridical.auditing.Moment` after every step.

    Returns:
        The attack and what is left of it; see `veridical.auditing.Forgery`.

    Raises:
        TypeError: where an argument is of the wrong type or no such setting exists.
        ValueError: where there is no such preset or a value does not fit; see `veridical.auditing.forge`.
    """
    progress = settings.pop("progress", None)
    chosen = _changed(preset, {"every": EVERY, **settings})
    return run_forge(model, inputs, target_map, as_explainer(method), chosen, progress=progress)


def compare_robustness(
    model: nn.Module,
    inputs: Tensor,
    target_maps: Tensor | Mapping[str, Tensor],
    methods: Mapping[str, str | Explainer],
    *,
    preset: str = "default",
    **settings: Any,
) -> Robustness:
    """Attack several methods with the same settings on the same pairs (Dombrowski 2019, figure 5).

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_maps: maps aimed at (N, H, W), the same for all methods, or those of each by its name.
        methods: built-in methods' names or explainers, by the names that the result has; see
            `veridical.attacks.smoothing_variants`.
        preset: see `manipulate`.
        settings: as for `manipulate`, and `target` (the explained class), `batch` (pairs attacked together),
            `within` (a method: the others may change an image no more than the attack on it did) and
            `callback`, called with the share that is done.

    Returns:
        The outcome and the cost of every method; see `veridical.attacks.Robustness`.

    Raises:
        TypeError: where an argument is of the wrong type or no such setting exists.
        ValueError: where something does not fit; see `veridical.attacks.compare_robustness`.
    """
    names = ("target", "batch", "within", "callback")
    options = {name: settings.pop(name) for name in names if name in settings}
    explainers = {name: as_explainer(one) for name, one in methods.items()}
    chosen = _changed(preset, settings)
    return attacks.compare_robustness(
        model, inputs, target_maps, explainers=explainers, settings=chosen, **options
    )


def undo(
    model: nn.Module,
    clean: Tensor,
    attack: Manipulation,
    *,
    method: str | Explainer = "gradient",
    target: Target = None,
    **settings: Any,
) -> Recovery:
    """Explain manipulated images at falling beta and at growing noise (Dombrowski 2019, figure 4).

    Args:
        model: the network; left as it was.
        clean: the images before the attack (N, C, H, W).
        attack: what `manipulate` returned for them.
        method: the plain method that was attacked, by name or as an explainer.
        target: the explained class; None for the predicted one.
        settings: fields of `veridical.attacks.RecoverySettings` (betas, noises, samples, ...), and
            `callback`, called with the share that is done.

    Returns:
        Correlations with target and original at every level; see `veridical.attacks.Recovery`.

    Raises:
        TypeError: where an argument is of the wrong type or no such setting exists.
        ValueError: where something does not fit; see `veridical.attacks.undo`.
    """
    callback = settings.pop("callback", None)
    pairs = AttackedPairs(clean, attack.inputs, attack.target_map, target)
    chosen = attacks.RecoverySettings(**settings)
    return attacks.undo(model, pairs, as_explainer(method), settings=chosen, callback=callback)


def choose_beta(
    model: nn.Module,
    images: Tensor,
    *,
    method: str | Explainer = "gradient",
    target: Target = None,
    **criterion: Any,
) -> BetaChoice:
    """The softplus beta at which a method's map changes least and is still the network's own.

    Args:
        model: the network; left as it was.
        images: (N, C, H, W), a few dozen of those that will be explained.
        method: the plain method, by name or as an explainer.
        target: the explained class; None for the predicted one.
        criterion: fields of `veridical.smoothing.BetaCriterion` (agreement, kept, noise, ...), and
            `callback`, called with the share that is done.

    Returns:
        The beta, and every candidate with what it does; see `veridical.smoothing.choose_beta`.

    Raises:
        TypeError: where an argument is of the wrong type or no such field exists.
        ValueError: where no candidate is admissible; see `veridical.smoothing.choose_beta`.
    """
    callback = criterion.pop("callback", None)
    chosen = smoothing.BetaCriterion(**criterion)
    return smoothing.choose_beta(
        model, images, as_explainer(method), target=target, criterion=chosen, callback=callback
    )


def class_difference(
    model: nn.Module, inputs: Tensor, method: str | Explainer, first: Target, second: Target, **settings: Any
) -> ClassDifference:
    """The maps of two classes of one image (Sixt 2020, figure 1); see `faithfulness.class_difference`."""
    return faithfulness.class_difference(model, inputs, as_explainer(method), first, second, **settings)


def cosine_convergence(
    model: nn.Module, inputs: Tensor, method: str | Explainer, **settings: Any
) -> CosineConvergence:
    """Cosine similarity convergence (Sixt 2020, 3); see `veridical.faithfulness.cosine_convergence`."""
    return faithfulness.cosine_convergence(model, inputs, as_explainer(method), **settings)


def random_logit(
    model: nn.Module, inputs: Tensor, method: str | Explainer, *, target: Target = None, **settings: Any
) -> RandomLogit:
    """Similarity to the map of a random other class; see `veridical.faithfulness.random_logit`."""
    return faithfulness.random_logit(model, inputs, as_explainer(method), target=target, **settings)


def cascading_randomization(
    model: nn.Module, inputs: Tensor, method: str | Explainer, *, target: Target = None, **settings: Any
) -> CascadingRandomization:
    """Similarity as the parameters are randomized; see `veridical.faithfulness.cascading_randomization`."""
    return faithfulness.cascading_randomization(
        model, inputs, as_explainer(method), target=target, **settings
    )


def pixel_flipping(
    model: nn.Module, inputs: Tensor, method: str | Explainer, *, target: Target = None, **settings: Any
) -> PixelFlipping:
    """The class as pixels go in the order of the map; see `veridical.faithfulness.pixel_flipping`."""
    return faithfulness.pixel_flipping(model, inputs, as_explainer(method), target=target, **settings)


def infidelity(
    model: nn.Module, inputs: Tensor, method: str | Explainer, *, target: Target = None, **settings: Any
) -> Infidelity:
    """Does the map predict the output of perturbed images? See `veridical.faithfulness.infidelity`."""
    return faithfulness.infidelity(model, inputs, as_explainer(method), target=target, **settings)


def sensitivity(
    model: nn.Module, inputs: Tensor, method: str | Explainer, *, target: Target = None, **settings: Any
) -> Sensitivity:
    """How far the map moves when the image hardly does; see `veridical.faithfulness.sensitivity`."""
    return faithfulness.sensitivity(model, inputs, as_explainer(method), target=target, **settings)


def roar(
    model: nn.Module,
    data: RoarData,
    methods: Iterable[str | Explainer] | Mapping[str, str | Explainer],
    train: Retrain,
    **settings: Any,
) -> Roar:
    """Remove and retrain (Hooker et al. 2019); see `veridical.faithfulness.roar`.

    Args:
        model: explained, not retrained.
        data: `veridical.faithfulness.RoarData`, images and labels to train and to test on.
        methods: built-in names and methods of one's own; a mapping gives them names.
        train: (images, labels, seed) -> network, `veridical.training.FromScratch` for one.
        settings: folder, progress, and the fields of `RoarSettings`.
    """
    return faithfulness.roar(model, data, _explainers(methods), train, **settings)


def coverage(model: nn.Module, inputs: Tensor, method: str | Explainer) -> list[Coverage]:
    """What a rule-based method does at every operation of the network, before any explanation is computed.

    Returns:
        One row an operation: its name, its kind, and "gradient", "modified" or "no rule".

    Raises:
        ValueError: if the method has no propagation rules.
    """
    return rule_coverage(model, inputs, as_explainer(method))


def audit(
    model: nn.Module,
    images: Tensor,
    *,
    out: str | Path | None = None,
    preset: str = "quick",
    target: Target = None,
    seed: int = 0,
    **options: Unpack[AuditOptions],
) -> AuditReport:
    """Every test on every method, and a verdict on each; see `veridical.auditing.audit` for the arguments.

    Where `out` is given, the run directory ends with `report.html`.
    """
    options.setdefault("render", render)
    return run_audit(model, images, out=out, preset=preset, target=target, seed=seed, **options)
