"""Randomization and random logit against Quantus: same network, images, attribution and steps.

Both explain with our method (Quantus through `as_quantus`), on the trained CIFAR ResNet-20 of the optional
data folder. The notes say how far the results are apart where settings can be made equal, and what cannot be.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tests import conftest  # noqa: F401  (makes torchvision importable beside a CPU build of torch)
from tests.networks_real import photograph, trained_resnet20
from torch import Tensor, nn

from benchmarks import memory, subjects, timing
from veridical.adapters import as_quantus
from veridical.attributions import method
from veridical.faithfulness import cascading_randomization, random_logit
from veridical.metrics import map_similarity

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("VERIDICAL_DATA", ROOT.parent / "shared" / "data"))
OURS, THEIRS = "veridical", "quantus"
METHODS = ("gradient", "lrp-zplus")
EQUAL = 8
"""Images for which the results are compared."""
TESTS = ("randomization", "random-logit")
SETTINGS = {"disable_warnings": True, "abs": False, "normalise": False}


def measure(rounds: int = 3, count: int = 32, methods: tuple[str, ...] = METHODS) -> list[timing.Claim]:
    """Time, then memory; equality is in the notes. Nothing where the data folder is absent."""
    if not FOLDER.exists():
        print(f"left out: needs the optional data folder; {FOLDER} is absent (set VERIDICAL_DATA)")
        return []
    model, x = subject(count)
    classes = model(x).argmax(1)
    claims = []
    for name in methods:
        notes = differences(name, model, x[:EQUAL], classes[:EQUAL])
        for test in TESTS:
            runs = {
                "forward": partial(subjects.forward, model, x),
                **{rival: partial(run, test, rival, name, model, x, classes) for rival in (OURS, THEIRS)},
            }
            seconds = timing.race(runs, rounds=rounds, warmup=0, clock=time.process_time)
            title = f"{test}, {name}, ResNet-20, {count} images"
            claims.append(timing.compared(title, seconds, of=OURS, to=THEIRS, target=1.0, notes=notes[test]))
            claims.append(_memory(title, test, name, count, rounds))
    return claims


def subject(count: int) -> tuple[nn.Module, Tensor]:
    """The trained network, and images of CIFAR-10's test set evenly over its classes."""
    with zipfile.ZipFile(FOLDER / "cifar10" / "test.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        images = torch.cat([photograph(io.BytesIO(file.read(name)), 32) for name in chosen])
    return trained_resnet20(FOLDER).requires_grad_(False), images


def run(test: str, rival: str, name: str, model: nn.Module, x: Tensor, classes: Tensor) -> Any:
    """One test by one of the two, every step of 39 or every other class, with its usual measure.

    How many images are explained at once is left to each: 16 by ours, 64 by Quantus. Quantus keeps scores and
    no maps, so ours keeps none.
    """
    explain = method(name)
    if rival == OURS and test == "randomization":
        return cascading_randomization(
            model, x, explain, target=classes, reduction="sum", measures=("spearman",), kept=0
        )
    if rival == OURS:
        return random_logit(model, x, explain, target=classes, reduction="sum")
    return theirs(test, model, x, classes, as_quantus(explain))


def theirs(test: str, model: nn.Module, x: Tensor, classes: Tensor, explain: Any, **options: Any) -> Any:
    """Quantus's metric, quiet; its own normalization is off, which costs it less."""
    import quantus

    kind = quantus.MPRT if test == "randomization" else quantus.RandomLogit
    settings = SETTINGS | options
    if test == "random-logit":
        settings = {"num_classes": model(x[:1]).shape[1]} | settings
    state = np.random.get_state(), torch.get_rng_state()
    with contextlib.redirect_stdout(io.StringIO()):
        found = kind(**settings)(
            model=model, x_batch=x.numpy(), y_batch=classes.numpy(), explain_func=explain, device="cpu",
            channel_first=True,
        )  # fmt: skip
    np.random.set_state(state[0])
    torch.set_rng_state(state[1])
    return found


# --- equality -----------------------------------------------------------------------------------------------


class TwoClasses(nn.Module):
    """The first two logits: there is one other class, whoever draws it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, :2]


def differences(name: str, model: nn.Module, x: Tensor, classes: Tensor) -> dict[str, dict[str, str]]:
    """For each test, how far apart the results are."""
    return {
        "randomization": _randomization_apart(name, model, x, classes),
        "random-logit": _random_logit_apart(name, model, x),
    }


def _measures() -> dict[str, Callable[..., Any]]:
    """Ours by the names of their counterparts in Quantus."""
    from quantus.functions import similarity_func

    return {
        "pcc": similarity_func.correlation_pearson,
        "spearman": similarity_func.correlation_spearman,
        "ssim": _two_dimensional,
        "ssim-plain": _one_dimensional,
    }


def _one_dimensional(first: Any, second: Any, batched: bool = True) -> np.ndarray:
    """Quantus's SSIM; it gives a list, at which Quantus's MPRT stops with an AttributeError."""
    from quantus.functions import similarity_func

    return np.asarray(similarity_func.ssim(first, second, batched=batched))


def _two_dimensional(first: Any, second: Any, batched: bool = True) -> np.ndarray:
    """Sixt et al.'s SSIM of the maps that Quantus has flattened."""
    side = int(first.shape[1] ** 0.5)
    maps = (torch.as_tensor(values).reshape(-1, side, side) for values in (first, second))
    return map_similarity(*maps, "sixt2020").values.numpy()


def _randomization_apart(name: str, model: nn.Module, x: Tensor, classes: Tensor) -> dict[str, str]:
    """Quantus is handed the networks of our cascade, layer by layer."""
    explain, networks = method(name), []

    def spy(network: nn.Module, inputs: Tensor, target: Any = None) -> Tensor:
        networks.append(copy.deepcopy(network))
        return explain(network, inputs, target)

    measures = _measures()
    settings = {"target": classes, "reduction": "sum", "measures": tuple(measures)}
    ours = cascading_randomization(model, x, spy, **settings)

    def generator(self: Any, order: str = "top_down", seed: int = 42) -> Iterator[tuple[str, nn.Module]]:
        yield from zip(ours.layers, networks[1:], strict=True)

    notes = {}
    with patch("quantus.helpers.model.pytorch_model.PyTorchModel.get_random_layer_generator", generator):
        for key, function in measures.items():
            scores = theirs("randomization", model, x, classes, as_quantus(explain), similarity_func=function)
            found = np.array([scores[layer] for layer in ours.layers])
            notes[key] = _apart(ours.measures[key].numpy(), found, flattened=key == "ssim-plain")
    notes["weights"] = _repeated_weights(model, networks[-1])
    return notes


def _random_logit_apart(name: str, model: nn.Module, x: Tensor) -> dict[str, str]:
    two = TwoClasses(model).eval()
    classes, measures, explain = two(x).argmax(1), _measures(), method(name)
    ours = random_logit(two, x, explain, target=classes, reduction="sum", measures=tuple(measures))
    notes = {}
    for key, function in measures.items():
        found = theirs("random-logit", two, x, classes, as_quantus(explain), similarity_func=function)
        notes[key] = _apart(ours.measures[key].numpy(), np.array(found), flattened=key == "ssim-plain")
    return notes


def _apart(ours: np.ndarray, found: np.ndarray, *, flattened: bool) -> str:
    apart = np.abs(ours - found)
    both = (
        f"largest difference {np.nanmax(apart):.1e}, {np.isnan(ours).sum()} and {np.isnan(found).sum()} NaN"
    )
    if not flattened:
        return both
    medians = f"medians {np.nanmedian(ours):.3f} and {np.nanmedian(found):.3f}"
    return f"{both}; {medians}: Quantus's is one-dimensional, of the flattened maps"


def _repeated_weights(model: nn.Module, ours: nn.Module) -> str:
    """How many convolutions of the fully randomized network hold the weights of another one."""
    from quantus.helpers.model.pytorch_model import PyTorchModel

    state = torch.get_rng_state()
    *_, (_, last) = PyTorchModel(model, channel_first=True).get_random_layer_generator()
    torch.set_rng_state(state)
    counts = [_repeats(network) for network in (ours, last)]
    return f"convolutions with the weights of an earlier one: {counts[0]} ours, {counts[1]} Quantus"


def _repeats(network: nn.Module) -> int:
    convolutions = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    return sum(
        any(one.shape == other.shape and torch.equal(one, other) for other in convolutions[:index])
        for index, one in enumerate(convolutions)
    )


# --- memory -------------------------------------------------------------------------------------------------


def _memory(title: str, test: str, name: str, count: int, rounds: int) -> timing.Claim:
    """The smallest of `rounds` peaks of each: what an allocator keeps differs from process to process."""
    found = {
        rival: min(_in_a_process(test, rival, name, count) for _ in range(rounds)) for rival in (OURS, THEIRS)
    }
    notes = {rival: f"{value:.0f} MB" for rival, value in found.items()}
    ratio = round(found[OURS] / found[THEIRS], 3)
    claim = timing.Claim(f"added memory, {title}", f"{OURS} / {THEIRS}", ratio, 1.0, {}, {}, notes)
    timing.show(claim)
    return claim


def _in_a_process(test: str, rival: str, name: str, count: int) -> float:
    given = [test, rival, name, str(count), str(torch.get_num_threads())]
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.quantus", *given],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(found.stdout.splitlines()[-1]))


def added(test: str, rival: str, name: str, count: int) -> float:
    """Megabytes that one call adds at its peak."""
    model, x = subject(count)
    classes = model(x).argmax(1)
    run("random-logit", rival, name, model, x[:2], classes[:2])  # what the first call loads
    before = memory._resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    run(test, rival, name, model, x, classes)
    return memory._resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser()
    for argument in ("test", "rival", "name"):
        parser.add_argument(argument)
    parser.add_argument("count", type=int)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(json.dumps(added(options.test, options.rival, options.name, options.count)))


if __name__ == "__main__":
    main()
