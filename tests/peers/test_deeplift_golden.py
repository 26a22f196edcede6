"""The deeplift package's published rules, in explicit loops over units, against ours.

The package (0.6.9) needs TensorFlow 1, which runs on no Python that we support. Its rules are short enough
to be written out: this file has them for dense layers, batch normalization, ReLU and sums of branches, one
number for each unit and no matrix product, from the papers' formulas and the facts of the package's behavior:
multipliers m+ and m- of each unit; masks by the sign of a difference; W+ and W- by the sign of a weight;
parts C+ and C- of a layer by the sign of its products; 1e-7 as the limit of a difference of zero.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veridical.attributions import method

SIZES = (4, 6, 5, 3)


@dataclass
class Weights:
    """Dense, ReLU, dense, batch normalization, ReLU, a sum with a dense shortcut, dense."""

    first: np.ndarray
    first_bias: np.ndarray
    second: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    shortcut: np.ndarray
    last: np.ndarray

    @classmethod
    def draw(cls, seed: int) -> "Weights":
        generator = np.random.default_rng(seed)
        a, b, c, d = SIZES
        scale = generator.normal(size=c)
        scale[0], scale[1] = 1.3, -0.7
        draw = generator.normal
        return cls(
            draw(size=(b, a)),
            draw(size=b),
            draw(size=(c, b)),
            scale,
            draw(size=c),
            draw(size=(c, a)),
            draw(size=(d, c)),
        )


class Network(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        a, b, c, d = SIZES
        self.first, self.second = nn.Linear(a, b), nn.Linear(b, c, bias=False)
        self.norm, self.shortcut, self.last = (
            nn.BatchNorm1d(c, eps=0),
            nn.Linear(a, c, bias=False),
            nn.Linear(c, d),
        )
        self.double()
        with torch.no_grad():
            for parameter, value in (
                (self.first.weight, weights.first), (self.first.bias, weights.first_bias),
                (self.second.weight, weights.second), (self.norm.weight, weights.scale),
                (self.norm.bias, weights.shift), (self.shortcut.weight, weights.shortcut),
                (self.last.weight, weights.last),
            ):  # fmt: skip
                parameter.copy_(torch.from_numpy(value))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        hidden = self.norm(self.second(self.first(x).relu())).relu()
        return self.last(hidden + self.shortcut(x))


def relu(value: float) -> float:
    return max(value, 0.0)


def dense(weight: np.ndarray, difference: np.ndarray, m: np.ndarray, rule: str) -> np.ndarray:
    """Multipliers (2, inputs) from multipliers (2, outputs): one number for both signs."""
    result = np.zeros((2, weight.shape[1]))
    for i in range(weight.shape[1]):
        total = 0.0
        for j in range(weight.shape[0]):
            w, (above, below) = weight[j, i], m[:, j]
            if difference[i] == 0:
                total += w * (above + below) / 2
            elif rule == "ablation":
                total += max(w, 0.0) * (above if difference[i] > 0 else below)
            elif difference[i] > 0:
                total += w * above if w > 0 else w * below
            else:
                total += w * below if w > 0 else w * above
        result[:, i] = total
    return result


def parts(weight: np.ndarray, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative contributions to each output of a dense layer."""
    positive, negative = np.zeros(len(weight)), np.zeros(len(weight))
    for j in range(len(weight)):
        for i in range(len(difference)):
            product = weight[j, i] * difference[i]
            if product > 0:
                positive[j] += product
            else:
                negative[j] += product
    return positive, negative


def activation(z0: np.ndarray, above: np.ndarray, below: np.ndarray, m: np.ndarray, rule: str) -> np.ndarray:
    """Multipliers (2, units) of a ReLU's input, from its reference input and the parts of its difference."""
    result = np.zeros_like(m)
    for j in range(len(z0)):
        start, up, down = z0[j], above[j], below[j]
        z = start + up + down
        if rule != "reveal-cancel":
            slope = (relu(z) - relu(start)) / (z - start) if abs(z - start) >= 1e-7 else float(start > 0)
            result[:, j] = m[:, j] * slope
            continue
        rise = 0.5 * (relu(start + up) - relu(start) + relu(z) - relu(start + down))
        fall = 0.5 * (relu(start + down) - relu(start) + relu(z) - relu(start + up))
        result[0, j] = m[0, j] * (rise / up if abs(up) >= 0.5e-7 else rise / (up + 1e-7))
        result[1, j] = m[1, j] * (fall / down if abs(down) >= 0.5e-7 else fall / (down - 1e-7))
    return result


def batch_norm(scale: np.ndarray, m: np.ndarray) -> np.ndarray:
    """A positive factor keeps the two multipliers apart, a negative one exchanges them."""
    result = np.zeros_like(m)
    for j, g in enumerate(scale):
        result[0, j] = g * (m[0, j] if g > 0 else m[1, j])
        result[1, j] = g * (m[1, j] if g > 0 else m[0, j])
    return result


def expected(weights: Weights, x: np.ndarray, x0: np.ndarray, target: int, rule: str) -> np.ndarray:
    """Contributions of the inputs to one output."""
    first, first0 = (weights.first @ v + weights.first_bias for v in (x, x0))
    hidden, hidden0 = np.maximum(first, 0), np.maximum(first0, 0)
    before0 = weights.scale * (weights.second @ hidden0) + weights.shift
    after = np.maximum(weights.scale * (weights.second @ hidden) + weights.shift, 0)
    after0 = np.maximum(before0, 0)
    side, side0 = weights.shortcut @ x, weights.shortcut @ x0
    start = np.zeros((2, SIZES[-1]))
    start[:, target] = 1.0
    total = dense(weights.last, (after + side) - (after0 + side0), start, rule)
    as_sum = "rescale" if rule == "ablation" else rule  # weights of 1 have no cross term
    both = np.concatenate([np.eye(SIZES[2]), np.eye(SIZES[2])], axis=1)
    addends = dense(both, np.concatenate([after - after0, side - side0]), total, as_sum)
    inner, outer = addends[:, : SIZES[2]], addends[:, SIZES[2] :]
    up, down = parts(weights.second, hidden - hidden0)
    g = weights.scale
    above, below = np.where(g > 0, g * up, g * down), np.where(g > 0, g * down, g * up)
    m = batch_norm(g, activation(before0, above, below, inner, rule))
    m = dense(weights.second, hidden - hidden0, m, rule)
    m = activation(first0, *parts(weights.first, x - x0), m, rule)
    m = dense(weights.first, x - x0, m, rule) + dense(weights.shortcut, x - x0, outer, rule)
    difference = x - x0
    return m[0] * np.maximum(difference, 0) + m[1] * np.minimum(difference, 0)


@pytest.mark.parametrize("reference", ["zeros", "another image"])
@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel", "ablation"])
@pytest.mark.parametrize("seed", range(4))
def test_the_packages_rules(seed: int, rule: str, reference: str) -> None:
    weights, generator = Weights.draw(seed), np.random.default_rng(100 + seed)
    model = Network(weights)
    x = generator.normal(size=(3, SIZES[0]))
    x0 = np.zeros(SIZES[0]) if reference == "zeros" else generator.normal(size=SIZES[0])
    x[2, 1] = x0[1]  # an input that equals its reference
    images = torch.from_numpy(x).view(3, SIZES[0], 1, 1)
    explainer = method(
        f"deeplift-{rule}", convention="sixt2020", reference=torch.from_numpy(x0).view(SIZES[0], 1, 1)
    )
    for target in range(SIZES[-1]):
        ours = explainer(model, images, target).flatten(1).numpy()
        theirs = np.stack([expected(weights, image, x0, target, rule) for image in x])
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
        if rule != "ablation":
            logits = [model(torch.from_numpy(v).view(-1, SIZES[0], 1, 1)).detach().numpy() for v in (x, x0)]
            np.testing.assert_allclose(theirs.sum(1), (logits[0] - logits[1])[:, target], atol=1e-10)


def test_the_rules_differ_from_each_other() -> None:
    weights, generator = Weights.draw(0), np.random.default_rng(7)
    x, x0 = generator.normal(size=SIZES[0]), np.zeros(SIZES[0])
    maps = [expected(weights, x, x0, 0, rule) for rule in ("rescale", "reveal-cancel", "ablation")]
    assert min(np.abs(a - b).max() for i, a in enumerate(maps) for b in maps[:i]) > 1e-2
