"""Eight pairs attacked together are eight pairs attacked alone."""

import io
import math
import zipfile
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import networks_real
from veridical.attacks import IMAGENET_BOUNDS, ManipulationSettings, manipulate, preset
from veridical.attributions import method, saliency

PAIRS = 8
METHODS = {
    "gradient": method("gradient"),
    "lrp": method("deep-taylor", convention="dombrowski2019"),
    "integrated-gradients": method("integrated-gradients", steps=2, output="probability"),
}


def fitted_network():
    """Batch normalization, residual and a classifier that was fitted a little, so that its classes differ."""
    net = networks_real.CifarResNet(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
        nn.init.normal_(net.linear.weight, std=0.05)
        nn.init.zeros_(net.linear.bias)
        x, labels = torch.randn(20, 3, 16, 16), torch.arange(20) % 10
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(net.eval()(x), labels).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def together_and_alone(net, x, explainer, settings):
    goals = saliency(explainer(net, x.roll(1, 0))).detach()
    together = manipulate(net, x, goals, explainer=explainer, settings=settings, memory_gib=math.inf)
    alone = [
        manipulate(net, one, goal, explainer=explainer, settings=settings)
        for one, goal in zip(x.split(1), goals.split(1), strict=True)
    ]
    return together, alone


@pytest.mark.parametrize("name", METHODS)
def test_eight_pairs_equal_eight_single_runs(name):
    x = torch.randn(PAIRS, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    settings = ManipulationSettings(steps=4, lr=1e-3, factors=(1e7, 1e2), rescale=False, every=4)
    together, alone = together_and_alone(fitted_network(), x, METHODS[name], settings)
    for index, one in enumerate(alone):
        torch.testing.assert_close(together.inputs[index], one.inputs[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.saliency[index], one.saliency[0], rtol=0, atol=1e-5)
        assert together.step[index] == one.step[0]
        for key, values in together.statistics().items():
            assert values[index].item() == pytest.approx(one.statistics()[key].item(), rel=1e-3, abs=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["gradient", "lrp"])
def test_eight_photographs_equal_eight_single_runs(name, data_folder):
    # In single precision Adam, which divides by the size of the slope, makes rounding grow from step to step.
    net = networks_real.trained_resnet20(data_folder).double()
    with zipfile.ZipFile(data_folder / "cifar10" / "test.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // PAIRS][:PAIRS]
        x = torch.cat([networks_real.photograph(io.BytesIO(file.read(one)), 32) for one in chosen]).double()
    settings = replace(preset("default", IMAGENET_BOUNDS), steps=20, every=10)
    together, alone = together_and_alone(net, x, METHODS[name], settings)
    singles = torch.cat([one.inputs for one in alone])
    torch.testing.assert_close(together.inputs, singles, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        together.saliency, torch.cat([one.saliency for one in alone]), rtol=0, atol=1e-5
    )
