"""The built-in explanation methods, and how a name becomes a method."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from veridical.attributions.contrastive import ContrastiveExcitationBackprop, ContrastiveLRP
from veridical.attributions.deeplift import DeepLiftAblation, DeepLiftRescale, DeepLiftRevealCancel
from veridical.attributions.gradcam import GradCam, GuidedGradCam
from veridical.attributions.gradient import Gradient, GradientTimesInput
from veridical.attributions.integrated import IntegratedGradients, SmoothGrad
from veridical.attributions.modified_gradient import Deconvnet, GuidedBackprop
from veridical.attributions.pattern_fitting import fit_patterns
from veridical.attributions.patterns import PatternAttribution, PatternNet, Patterns
from veridical.attributions.rectgrad import RectGrad
from veridical.attributions.relevance import AlphaBetaLRP, CompositeLRP, ProportionalLRP
from veridical.attributions.saliency import saliency
from veridical.attributions.several import explain_several
from veridical.checks import nearest_names
from veridical.rules import Coverage, coverage, record
from veridical.values import Explainer, Target

__all__ = [
    "CONVENTIONS",
    "AlphaBetaLRP",
    "CompositeLRP",
    "ContrastiveExcitationBackprop",
    "ContrastiveLRP",
    "Deconvnet",
    "DeepLiftAblation",
    "DeepLiftRescale",
    "DeepLiftRevealCancel",
    "GradCam",
    "Gradient",
    "GradientTimesInput",
    "GuidedBackprop",
    "GuidedGradCam",
    "IntegratedGradients",
    "PatternAttribution",
    "PatternNet",
    "Patterns",
    "ProportionalLRP",
    "RectGrad",
    "SmoothGrad",
    "explain",
    "explain_several",
    "fit_patterns",
    "method",
    "methods",
    "rule_coverage",
    "saliency",
]

_CATALOG: Mapping[str, tuple[Callable[..., Explainer], Mapping[str, Any]]] = {
    "gradient": (Gradient, {}),
    "gradient-x-input": (GradientTimesInput, {}),
    "integrated-gradients": (IntegratedGradients, {}),
    "smoothgrad": (SmoothGrad, {}),
    "guided-backprop": (GuidedBackprop, {}),
    "deconvnet": (Deconvnet, {}),
    "rectgrad": (RectGrad, {}),
    "grad-cam": (GradCam, {}),
    "guided-grad-cam": (GuidedGradCam, {}),
    "lrp-z": (ProportionalLRP, {}),
    "lrp-epsilon": (ProportionalLRP, {"epsilon": 1e-6}),
    "lrp-zplus": (AlphaBetaLRP, {"bias": "none", "label": "lrp-zplus"}),
    "lrp-alpha1-beta0": (AlphaBetaLRP, {}),
    "lrp-alpha2-beta1": (AlphaBetaLRP, {"alpha": 2.0, "beta": 1.0}),
    "lrp-alpha5-beta4": (AlphaBetaLRP, {"alpha": 5.0, "beta": 4.0}),
    "lrp-cmp-alpha1": (CompositeLRP, {}),
    "lrp-cmp-alpha2": (CompositeLRP, {"alpha": 2.0}),
    "excitation-backprop": (AlphaBetaLRP, {"bias": "none", "seed": "one", "label": "excitation-backprop"}),
    "contrastive-excitation-backprop": (ContrastiveExcitationBackprop, {}),
    "contrastive-lrp": (ContrastiveLRP, {}),
    "patternnet": (PatternNet, {}),
    "pattern-attribution": (PatternAttribution, {}),
    "deeplift-rescale": (DeepLiftRescale, {}),
    "deeplift-reveal-cancel": (DeepLiftRevealCancel, {}),
    "deeplift-ablation": (DeepLiftAblation, {}),
    "deep-taylor": (AlphaBetaLRP, {"bias": "none", "first": "z-box", "label": "deep-taylor"}),
}

_SIXT_LRP = {"bias": "whole", "clip_sums": True, "fold_batch_norm": False}
_SIXT_DEEPLIFT = {"max_pool": "gradient", "fold_batch_norm": False}
_DOMBROWSKI_LRP = {"bias": "none"}

CONVENTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "dombrowski2019": {
        "gradient": {"output": "logit-value"},
        "gradient-x-input": {"output": "logit-value"},
        "integrated-gradients": {"steps": 30, "nodes": "right", "output": "probability"},
        "smoothgrad": {"samples": 10, "noise": 0.1, "output": "logit-value"},
        "guided-backprop": {"seed": "value"},
        "lrp-zplus": _DOMBROWSKI_LRP,
        "lrp-alpha1-beta0": _DOMBROWSKI_LRP,
        "deep-taylor": {**_DOMBROWSKI_LRP, "bounds": (-2.1179039478302, 2.640000104904175)},
        "pattern-attribution": {"seed": "value"},
    },
    "sixt2020": {
        "gradient": {},
        "smoothgrad": {"samples": 50, "noise": 0.15},
        "guided-backprop": {"seed": "value"},
        "deconvnet": {"seed": "value"},
        "rectgrad": {"seed": "value", "percentile": 98.0},
        "lrp-z": {"fold_batch_norm": False},
        "lrp-epsilon": {"epsilon": 1e-10, "fold_batch_norm": False},
        "lrp-zplus": _SIXT_LRP,
        "lrp-alpha1-beta0": _SIXT_LRP,
        "lrp-alpha2-beta1": _SIXT_LRP,
        "lrp-alpha5-beta4": _SIXT_LRP,
        "lrp-cmp-alpha1": _SIXT_LRP,
        "lrp-cmp-alpha2": _SIXT_LRP,
        "contrastive-lrp": {"rectify": "class", "rest": "logits"},
        "deep-taylor": {"bias": "whole"},
        "deeplift-rescale": _SIXT_DEEPLIFT,
        "deeplift-reveal-cancel": _SIXT_DEEPLIFT,
        "deeplift-ablation": _SIXT_DEEPLIFT,
        "patternnet": {"seed": "value", "any_weights": True},
        "pattern-attribution": {"seed": "value", "any_weights": True},
    },
    "bordt2023": {
        "gradient": {},
        "gradient-x-input": {},
        "integrated-gradients": {"steps": 50, "multiply_by_input": False},
        "smoothgrad": {"samples": 25, "noise": 0.02, "range": 1.0},
        "grad-cam": {"layer": "layer4.1.conv2", "relu": False, "upsampling": "bicubic"},
        "guided-grad-cam": {"layer": "features.10", "upsampling": "nearest"},
    },
}
"""What each paper's own code set, by paper and method (a paper that did not run a method has no entry)."""


def methods() -> list[str]:
    """The names of the built-in methods, sorted."""
    return sorted(_CATALOG)


def method(name: str, *, convention: str | None = None, **options: Any) -> Explainer:
    """The explanation method of that name, as a frozen value that is called.

    Args:
        name: one of `methods()`.
        convention: "dombrowski2019", "sixt2020" or "bordt2023": set the options as that paper's code did.
            `CONVENTIONS` shows what each changes.
        options: fields of the method's class; they win over the convention.

    Raises:
        ValueError: if the name or the convention is unknown, the paper did not run the method, or a value is
            out of range.
        TypeError: if the method has no such option; the message lists those that it has.
    """
    if name not in _CATALOG:
        raise ValueError(f"expected the name of a method, got {name!r}; {nearest_names(name, _CATALOG)}")
    build, preset = _CATALOG[name]
    known = {field.name for field in fields(build)} - {"label"}  # type: ignore[arg-type]
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"expected options of {name}, got {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    return build(**{**preset, **_convention(name, convention), **options})


def _convention(name: str, convention: str | None) -> Mapping[str, Any]:
    if convention is None:
        return {}
    if convention not in CONVENTIONS:
        raise ValueError(
            f"expected a convention, got {convention!r}; {nearest_names(convention, CONVENTIONS)}"
        )
    table = CONVENTIONS[convention]
    if name not in table:
        raise ValueError(
            f"expected a method that {convention} ran, got {name}; "
            f"it has settings for {', '.join(sorted(table))}"
        )
    return table[name]


_find = method  # `explain` has a parameter of that name


def explain(
    model: nn.Module, inputs: Tensor, target: Target = None, *, method: str = "gradient", **options: Any
) -> Tensor:
    """Relevance (N, C, H, W) by the named method: `method(name, **options)(model, inputs, target)`."""
    return _find(method, **options)(model, inputs, target)


def rule_coverage(model: nn.Module, inputs: Tensor, explainer: Explainer) -> list[Coverage]:
    """What a rule-based method does at every operation that the network performs on `inputs`.

    Returns:
        One row an operation, in the order of execution: its name, its kind, and "gradient", "modified" or
        "no rule".

    Raises:
        ValueError: if the method has no propagation rules.
    """
    rules = getattr(explainer, "rules", None)
    if rules is None:
        raise ValueError(f"expected a method with propagation rules, got {explainer!r}")
    return coverage(record(model, inputs), rules)
