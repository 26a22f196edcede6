"""How often is a verdict wrong? Many small audits of explanations whose truth is known.

    python scripts/false_alarms.py --out FOLDER [--audits 200] [--presets quick,standard] [--seconds 480]

Every audit has photographs, random classes and random weights of its own; the network (random weights, three
layers) is always the same. The truth about a method is its median over the values of all audits together,
against the threshold of the default policy. A verdict is wrong where it says "believable" and the truth
fails a required test, or "not believable" and the truth passes all. Finished audits are kept in the folder
and not made again; the table is printed in Markdown.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from veridical.auditing import PRESETS, audit
from veridical.records import read_json, write_json
from veridical.values import Explainer, Target
from veridical.verdicts import LEVEL, load_policy
from veridical.verdicts.intervals import median_interval, share_interval

TESTS = ("random-logit", "cascading-randomization", "cosine-convergence")
SIDE, CLASSES = 16, 5


def network() -> nn.Module:
    """The same small random network every time."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, CLASSES),
    ).eval()  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / math.sqrt(parameter[0].numel()))
    return model


def photographs(count: int, seed: int) -> Tensor:
    """Smooth random pictures (count, 3, SIDE, SIDE) with some grain."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=draw)
    smooth = functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return smooth + 0.2 * torch.randn(count, 3, SIDE, SIDE, generator=draw)


@dataclass(frozen=True)
class Synthetic:
    """Edges of the picture plus noise that changes with what it is said to depend on.

    Args:
        name: of the method.
        strength: of the noise, against edges of standard deviation 1; it varies by a factor of 0.5 to 1.5
            from picture to picture.
        class_: whether the noise changes with the explained class.
        weights: whether it changes with the network.
    """

    name: str
    strength: float
    class_: bool = True
    weights: bool = True

    differentiable = False

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """The map of every picture, (N, 3, H, W)."""
        with torch.no_grad():
            logits = model(inputs).double()
        chosen = target if isinstance(target, Tensor) else logits.argmax(dim=1)
        return torch.stack([self._map(*one) for one in zip(inputs, logits, chosen.tolist(), strict=True)])

    def _map(self, image: Tensor, logits: Tensor, chosen: int) -> Tensor:
        edges = (image - functional.avg_pool2d(image[None], 3, 1, 1)[0]).abs()
        own = int(torch.round(image.double().sum() * 1e4).item())
        seed = hash((own, chosen if self.class_ else 0, _key(logits) if self.weights else 0)) % 2**62
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype)
        spread = 0.5 + (hash((own, 1)) % 1000) / 1000
        return edges / edges.std() + self.strength * spread * noise


def _key(logits: Tensor) -> int:
    return int(torch.round(logits.sum() * 1e4).item())


METHODS: Mapping[str, Explainer | str] = {
    "edges": Synthetic("edges", 0.0),
    "class-blind": Synthetic("class-blind", 1.0, class_=False),
    "network-blind": Synthetic("network-blind", 1.0, weights=False),
    "weak-1": Synthetic("weak-1", 0.1),
    "weak-2": Synthetic("weak-2", 0.2),
    "weak-3": Synthetic("weak-3", 0.3),
    "weak-4": Synthetic("weak-4", 0.4),
    "noise": Synthetic("noise", 1e3),
    "gradient": "gradient",
}
MEANING = {
    "edges": "edges of the picture; blind to class and network",
    "class-blind": "edges and noise; changes with the network only",
    "network-blind": "edges and noise; changes with the class only",
    "noise": "noise; changes with class and network",
    "gradient": "gradient of the network",
}


def one_audit(preset: str, seed: int) -> dict[str, Any]:
    """The verdicts of one audit, and the judged values by method and test."""
    from veridical.attributions import method

    explainers = {name: method(one) if isinstance(one, str) else one for name, one in METHODS.items()}
    images = photographs(PRESETS[preset].images, seed)
    report = audit(network(), images, preset=preset, methods=explainers, tests=TESTS, seed=seed)
    values: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    for name, verdict in report.verdicts.items():
        for entry in verdict.evidence:
            layer = entry.note.split(";")[0].removeprefix("at layer ") if entry.note.startswith("at ") else ""
            one = entry.statistic.removeprefix("median_")
            values[name][entry.test] = [
                round(score.value, 6)
                for score in report.scores
                if (score.method, score.test, score.statistic) == (name, entry.test, one)
                and score.layer == layer
                and score.image
            ]
    return {"verdicts": {name: one.verdict for name, one in report.verdicts.items()}, "values": values}


def run(out: Path, preset: str, audits: int, end: float) -> list[dict[str, Any]]:
    """All audits of one preset: those that are stored are read, the others made until the time is over."""
    found = []
    for seed in range(audits):
        path = out / preset / f"{seed:05d}.json"
        if not path.is_file():
            if time.monotonic() > end:
                break
            write_json(path, one_audit(preset, seed))
        found.append(read_json(path))
    return found


def truth(found: Sequence[Mapping[str, Any]], name: str) -> tuple[str, list[str]]:
    """Whether a method "passes", "fails" or is too "near" to tell, and its median in each test, in words."""
    policy, sides, words = load_policy(), [], []
    for test in found[0]["values"][name]:
        values = np.array([value for one in found for value in one["values"][name][test]])
        low, high = median_interval(values, LEVEL, "exact")
        threshold = policy.tests[test].threshold
        sides.append("fails" if low >= threshold else "passes" if high < threshold else "near")
        words.append(f"{np.median(values):.3f}")
    side = "fails" if "fails" in sides else "near" if "near" in sides else "passes"
    return side, words


def rows(found: Sequence[Mapping[str, Any]], preset: str) -> list[str]:
    """The rows of the table for one preset, and of the audits with any wrong verdict."""
    lines, broken = [], np.zeros(len(found))
    for name in METHODS:
        side, medians = truth(found, name)
        given = [one["verdicts"][name] for one in found]
        false = {"passes": "not believable", "fails": "believable"}.get(side, "")
        wrong = np.array([float(one == false) for one in given])
        broken = np.maximum(broken, wrong)
        counts = " / ".join(str(given.count(one)) for one in ("believable", "not believable", "not decided"))
        meaning = MEANING.get(name, "edges and weak noise; changes with both")
        rate = _rate(wrong) if false else "–"
        lines.append(f"| {preset} | {name}: {meaning} | {', '.join(medians)} | {side} | {counts} | {rate} |")
    lines.append(f"| {preset} | any of them | | | | {_rate(broken)} |")
    return lines


def _rate(wrong: "np.ndarray[Any, np.dtype[np.float64]]") -> str:
    low, high = share_interval(wrong, 0.95)
    return f"{int(wrong.sum())} of {wrong.size} = {wrong.mean():.2%} [{low:.2%}, {high:.2%}]"


HEAD = """\
| preset | method | true medians | truth | believable / not / not decided | wrong, with its 95 % interval |
|---|---|---|---|---|---|"""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure how often verdicts are wrong.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--presets", default="quick,standard")
    parser.add_argument("--seconds", type=float, default=480)
    options = parser.parse_args()
    torch.set_num_threads(1)
    end, lines = time.monotonic() + options.seconds, []
    presets = options.presets.split(",")
    for place, preset in enumerate(presets):
        share = time.monotonic() + (end - time.monotonic()) / (len(presets) - place)
        found = run(options.out, preset, options.audits, share)
        sys.stderr.write(f"{preset}: {len(found)} of {options.audits} audits\n")
        lines += rows(found, preset) if found else []
    print("\n".join([HEAD, *lines]))


if __name__ == "__main__":
    main()
