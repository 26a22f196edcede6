"""No method is slower than the fastest peer that has it, on VGG-16 and ResNet-50.

Peers are set up before they are timed: composites, canonizers and rules are registered once, on a network of
their own. What a peer does in each call of its interface (hooks, copies of layers) is timed. The clock counts
processor time, with which other users of the machine interfere less than with the time of day.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor, nn

from benchmarks import subjects, timing
from benchmarks.peers import TARGET, own_copy, peers
from veridical.attributions import method

AT_MOST = 1.02  # what the same computation differs by from run to run
METHODS = (
    "gradient", "gradient-x-input", "guided-backprop", "deconvnet", "grad-cam", "guided-grad-cam",
    "lrp-epsilon", "lrp-zplus", "lrp-alpha1-beta0", "lrp-alpha2-beta1", "lrp-cmp-alpha1", "lrp-cmp-alpha2",
    "deep-taylor", "excitation-backprop", "deeplift-rescale",
)  # fmt: skip
"""lrp-z costs what lrp-epsilon costs, lrp-alpha5-beta4 what lrp-alpha2-beta1 costs."""
OPTIONS = {"deep-taylor": {"bounds": (-5.0, 5.0)}}
LAYERS = {"vgg16": "features.29", "resnet50": "layer4"}


def on_vgg(rounds: int = 3) -> list[timing.Claim]:
    return measure("vgg16", rounds)


def on_resnet(rounds: int = 3) -> list[timing.Claim]:
    return measure("resnet50", rounds)


def measure(
    network: str, rounds: int = 3, count: int = 8, size: int = 224, names: tuple[str, ...] = METHODS
) -> list[timing.Claim]:
    model, x = subjects.torchvision_network(network), subjects.batch(count, size)
    claims = []
    for name in names:
        with ExitStack() as stack:
            runs, failures = _rivals(stack, name, network, model, x)
            subject = f"{name}, {network}, batch {count}, {size} px"
            claims.append(_claim(subject, runs, rounds, failures))
    return claims


Runs = dict[str, Callable[[], Tensor]]


def _rivals(
    stack: ExitStack, name: str, network: str, model: nn.Module, x: Tensor
) -> tuple[Runs, dict[str, str]]:
    """What is timed, and why a peer that has the method cannot run; found out on a small image."""
    ours = method(name, **OPTIONS.get(name, {}))
    runs: Runs = {"forward": lambda: subjects.forward(model, x), "veridical": lambda: ours(model, x, TARGET)}
    failures = {}
    for label, peer in peers(name, model, LAYERS[network]).items():
        try:
            with peer(own_copy(model), x[:1, :, :64, :64]) as attempt:
                attempt()
            runs[label] = stack.enter_context(peer(own_copy(model), x))
        except Exception as error:  # noqa: BLE001  (a peer may fail in any way)
            failures[label] = f"cannot: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
    return runs, failures


def _claim(subject: str, runs: Runs, rounds: int, notes: dict[str, str]) -> timing.Claim:
    rivals = [key for key in runs if key not in ("forward", "veridical")]
    seconds = timing.race(runs, rounds=rounds, warmup=0, clock=time.process_time)
    best = min(rivals, key=seconds.__getitem__, default="forward")
    bound = AT_MOST if rivals else None
    return timing.compared(subject, seconds, of="veridical", to=best, target=bound, notes=notes)
