"""Integrated gradients and SmoothGrad are no slower than Captum's and Zennit's."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import subjects, timing
from veridical.attributions import method

SAMPLES = 16
TARGET = 1.0


def measure(rounds: int = 3) -> list[timing.Claim]:
    claims = []
    for name, build, count in [
        ("ResNet-50", lambda: subjects.torchvision_network("resnet50"), 1),
        ("EfficientNet-Lite0", subjects.efficientnet_lite, 2),
    ]:
        model, x = build(), subjects.batch(count)
        for title, runs in (
            ("integrated-gradients", _integrated(model, x)),
            ("smoothgrad", _smoothgrad(model, x)),
        ):
            subject = f"{title} of {SAMPLES}, {name}, batch {count}"
            found = timing.race(runs, rounds=rounds)
            peers = {key: value for key, value in found.items() if key not in ("forward", "veridical")}
            fastest = min(peers, key=peers.__getitem__)
            claims.append(timing.compared(subject, found, of="veridical", to=fastest, target=TARGET))
    return claims


def _integrated(model: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    from captum.attr import IntegratedGradients
    from zennit.attribution import IntegratedGradients as ZennitIntegratedGradients

    ours, captum = method("integrated-gradients", steps=SAMPLES), IntegratedGradients(model)

    def zennit() -> Tensor:
        with ZennitIntegratedGradients(model, n_iter=SAMPLES) as attributor:
            return attributor(x.clone(), _one_hot)[1]

    return {
        "forward": lambda: subjects.forward(model, x),
        "veridical": lambda: ours(model, x, 3),
        "captum": lambda: captum.attribute(_leaf(x), target=3, n_steps=SAMPLES),
        "captum, internal batch 32": lambda: captum.attribute(
            _leaf(x), target=3, n_steps=SAMPLES, internal_batch_size=32
        ),
        "zennit": zennit,
    }


def _smoothgrad(model: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    from captum.attr import NoiseTunnel, Saliency
    from zennit.attribution import SmoothGrad

    ours, tunnel = method("smoothgrad", samples=SAMPLES, noise=0.1), NoiseTunnel(Saliency(model))

    def zennit() -> Tensor:
        with SmoothGrad(model, n_iter=SAMPLES, noise_level=0.1) as attributor:
            return attributor(x.clone(), _one_hot)[1]

    def captum() -> Tensor:
        return tunnel.attribute(
            _leaf(x), nt_type="smoothgrad", nt_samples=SAMPLES, stdevs=0.5, target=3, abs=False
        )

    return {
        "forward": lambda: subjects.forward(model, x),
        "veridical": lambda: ours(model, x, 3),
        "captum": captum,
        "zennit": zennit,
    }


def _leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def _one_hot(logits: Tensor) -> Tensor:
    return F.one_hot(torch.full((len(logits),), 3), logits.shape[1]).to(logits)
