"""A tiny network to attack from the command line, with methods that have no derivative."""

import json
from pathlib import Path

NETWORK = """
from pathlib import Path

import torch
from torch import nn
from veridical.models import Preprocessing

def build():
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(6 * 64, 3),
    )
    # Far from a change of class, so that no setting of the attack decides whether there is one.
    module[-1].bias.data[0] += 3.0
    return module, Preprocessing(resize=32, crop=32), ("cat", "dog", "bird")

def whole():
    module, _, labels = build()
    return module, Preprocessing(resize=None, crop=None), labels

def fixed(model, inputs, target=None):
    return inputs * 2.0

class Still:
    name = "still"
    differentiable = False

    def __call__(self, model, inputs, target=None):
        return inputs.detach()

still = Still()

def silent(model, inputs, target=None):
    return still(model, inputs) * inputs.detach()

class Slow(torch.nn.Module):
    # Says when it has been called often enough for an attack to be under way.
    def __init__(self):
        super().__init__()
        self.inside, self.calls = build()[0], 0
    def forward(self, x):
        self.calls += 1
        if self.calls == 100:
            Path("under-way").touch()
        return self.inside(x)

def slow():
    return Slow(), Preprocessing(resize=32, crop=32), ("cat", "dog", "bird")
"""


def record(folder: Path):
    """What an attack wrote."""
    return json.loads((folder / "out" / "result.json").read_text())
