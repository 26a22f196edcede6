"""lrp-zplus against Zennit's EpsilonPlus, and against the forward pass where Zennit does not conserve."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import subjects, timing
from veridical.attributions import method

AGAINST_ZENNIT, FORWARD_PASSES = 0.7, 6.0


def zennit(model: nn.Module, x: Tensor, target: int, canonizers: list[object] | None = None) -> Tensor:
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    def start(logits: Tensor) -> Tensor:
        return F.one_hot(logits.new_full((len(x),), target).long(), logits.shape[1]) * logits.detach()

    with Gradient(model, EpsilonPlus(canonizers=canonizers)) as attributor:
        return attributor(x.clone(), start)[1]


def measure(rounds: int = 5) -> list[timing.Claim]:
    vgg = subjects.torchvision_network("vgg16")
    claims = [_claim("VGG-16", vgg, rounds, ("zennit", AGAINST_ZENNIT))]
    resnet = subjects.torchvision_network("resnet50")
    claims.append(_claim("ResNet-50", resnet, rounds, ("zennit", AGAINST_ZENNIT), _resnet_canonizer))
    network = subjects.efficientnet_lite()
    claims.append(_claim("EfficientNet-Lite0", network, rounds, ("forward", FORWARD_PASSES)))
    return claims


def _resnet_canonizer() -> list[object]:
    from zennit.torchvision import ResNetCanonizer

    return [ResNetCanonizer()]


def _claim(
    name: str, model: nn.Module, rounds: int, bound: tuple[str, float],
    canonizers: Callable[[], list[object]] | None = None,
) -> timing.Claim:  # fmt: skip
    against, target = bound
    count = 8 if against == "forward" else 4
    x, ours = subjects.batch(count), method("lrp-zplus")
    runs = {
        "forward": lambda: subjects.forward(model, x),
        "veridical": lambda: ours(model, x, 3),
        "zennit": lambda: zennit(model, x, 3),
    }
    if canonizers is not None:
        runs["zennit with canonizer"] = lambda: zennit(model, x, 3, canonizers())
    subject = f"lrp-zplus, {name}, batch {count}"
    return timing.claim(subject, runs, of="veridical", to=against, target=target, rounds=rounds)
