"""What Captum and Zennit have of our methods, each set up before it is timed."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TARGET = 3
STABILIZER = 1e-12

Ready = Callable[[], Tensor]
Peer = Callable[[nn.Module, Tensor], AbstractContextManager[Ready]]
"""From a network of its own, which it may change, and a batch to a context with what is timed."""


def peers(name: str, model: nn.Module, layer: str) -> dict[str, Peer]:
    """The peers of a method for a network; `layer` is the module that Grad-CAM looks at."""
    found = _captum(name, layer)
    for label, canonizer in _canonizers(model).items():
        found |= {f"zennit{label}": peer for peer in _zennit(name, canonizer)}
    return found


# --- Zennit -------------------------------------------------------------------------------------------------


def _canonizers(model: nn.Module) -> dict[str, Callable[[], list[Any]]]:
    """Without a canonizer Zennit counts each residual sum twice and passes BatchNorm unchanged."""
    from zennit.torchvision import ResNetCanonizer

    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return {" with canonizer": lambda: [ResNetCanonizer()], "": list}
    return {"": list}


def _zennit(name: str, canonizers: Callable[[], list[Any]]) -> list[Peer]:
    from zennit import composites, rules

    plain = {
        "gradient": lambda: None,
        "guided-backprop": composites.GuidedBackprop,
        "deconvnet": composites.DeconvNet,
    }
    if name in plain:
        return [] if canonizers() else [_zennit_peer(plain[name], 1)]
    whole, bare = {"stabilizer": STABILIZER}, {"stabilizer": STABILIZER, "zero_params": "bias"}
    z_box = lambda: rules.ZBox(-5.0, 5.0, **bare)  # noqa: E731
    mixed = {"epsilon": 1e-10, "stabilizer": STABILIZER}
    lrp = {
        "lrp-z": lambda c: _layers(rules.Epsilon(0.0), c),
        "lrp-epsilon": lambda c: _layers(rules.Epsilon(1e-6), c),
        "lrp-zplus": lambda c: _layers(rules.ZPlus(**bare), c),
        "lrp-alpha1-beta0": lambda c: _layers(rules.ZPlus(**whole), c),
        "lrp-alpha2-beta1": lambda c: _layers(rules.AlphaBeta(2.0, 1.0, **whole), c),
        "lrp-alpha5-beta4": lambda c: _layers(rules.AlphaBeta(5.0, 4.0, **whole), c),
        "deep-taylor": lambda c: _layers(rules.ZPlus(**bare), c, z_box()),
        "lrp-cmp-alpha1": lambda c: composites.EpsilonPlus(**mixed, canonizers=c),
        "lrp-cmp-alpha2": lambda c: composites.EpsilonAlpha2Beta1(**mixed, canonizers=c),
        "excitation-backprop": lambda c: composites.ExcitationBackprop(**bare, canonizers=c),
    }
    if name not in lrp:
        return []
    return [_zennit_peer(lambda: lrp[name](canonizers()), 1 if name == "excitation-backprop" else None)]


def _layers(rule: Any, canonizers: list[Any], first: Any = None) -> Any:
    """One rule for all affine layers, and another for the first; the rest as in Zennit's own composites."""
    from zennit import composites, types

    table = [*composites.layer_map_base(STABILIZER), (types.Convolution, rule), (nn.Linear, rule)]
    if first is None:
        return composites.LayerMapComposite(table, canonizers=canonizers)
    return composites.SpecialFirstLayerMapComposite(
        table, [(types.Convolution, first)], canonizers=canonizers
    )


def _zennit_peer(composite: Callable[[], Any], seed: float | None) -> Peer:
    """A composite, registered before the timing starts; `seed` None starts with the logit."""

    def start(logits: Tensor) -> Tensor:
        chosen = F.one_hot(torch.full((len(logits),), TARGET), logits.shape[1]).to(logits)
        return chosen * (logits.detach() if seed is None else seed)

    @contextmanager
    def peer(model: nn.Module, x: Tensor) -> Iterator[Ready]:
        from zennit.attribution import Gradient

        with Gradient(model, composite()) as attributor:
            yield lambda: attributor(x.clone(), start)[1]

    return peer


# --- Captum -------------------------------------------------------------------------------------------------


def _captum(name: str, layer: str) -> dict[str, Peer]:
    from captum import attr
    from captum.attr._utils import lrp_rules

    simple = {
        "gradient": ("Saliency", {"abs": False}),
        "gradient-x-input": ("InputXGradient", {}),
        "guided-backprop": ("GuidedBackprop", {}),
        "deconvnet": ("Deconvolution", {}),
    }
    if name in simple:
        kind, options = simple[name]
        return {"captum": _captum_peer(getattr(attr, kind), options)}
    if name == "deeplift-rescale":
        return {"captum": _captum_peer(attr.DeepLift, {"baselines": 0})}
    if name == "guided-grad-cam":
        build = lambda model: attr.GuidedGradCam(model, model.get_submodule(layer))  # noqa: E731
        return {"captum": _captum_peer(build, {"interpolate_mode": "bilinear"})}
    if name == "grad-cam":
        return {"captum": _captum_cam(layer)}
    rules = {
        "lrp-epsilon": lrp_rules.EpsilonRule,
        "lrp-alpha1-beta0": lrp_rules.Alpha1_Beta0_Rule,
        "lrp-zplus": lambda: lrp_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True),
    }
    return {"captum": _captum_lrp(rules[name])} if name in rules else {}


def _captum_peer(build: Callable[[nn.Module], Any], options: dict[str, Any]) -> Peer:
    @contextmanager
    def peer(model: nn.Module, x: Tensor) -> Iterator[Ready]:
        attribution = build(_out_of_place(model))
        yield lambda: attribution.attribute(x.clone().requires_grad_(), target=TARGET, **options).detach()

    return peer


def _captum_cam(layer: str) -> Peer:
    @contextmanager
    def peer(model: nn.Module, x: Tensor) -> Iterator[Ready]:
        from captum.attr import LayerAttribution, LayerGradCam

        model = _out_of_place(model)
        cam = LayerGradCam(model, model.get_submodule(layer))

        def ready() -> Tensor:
            small = cam.attribute(x, target=TARGET, relu_attributions=True)
            maps = LayerAttribution.interpolate(small, x.shape[2:], "bilinear")
            return (maps / x.shape[1]).expand(x.shape).detach()

        yield ready

    return peer


def _captum_lrp(rule: Callable[[], Any]) -> Peer:
    @contextmanager
    def peer(model: nn.Module, x: Tensor) -> Iterator[Ready]:
        from captum.attr import LRP

        model = _out_of_place(model)
        attribution = LRP(model)

        def ready() -> Tensor:  # Captum takes the rules off the modules after each call
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    module.rule = rule()
            return attribution.attribute(x.clone().requires_grad_(), target=TARGET).detach()

        yield ready

    return peer


def _out_of_place(model: nn.Module) -> nn.Module:
    """Captum's hooks fail on activations in place; its users turn them off."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def own_copy(model: nn.Module) -> nn.Module:
    """A copy that a peer may hook, canonize and change, on the same weights until it changes them."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, memo)
