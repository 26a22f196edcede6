"""What is said of methods before they run agrees with what happens when they do."""

import pytest
import torch
from torch import nn

from veridical.attributions import method, methods
from veridical.auditing import check_model

OPTIONS = {"smoothgrad": {"samples": 2}, "integrated-gradients": {"steps": 2}}


class Normalizing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body((x - 0.5) / 0.25)).softmax(1)


class Sorted(nn.Module):
    def forward(self, x):
        return x.flatten(1).sort(dim=1).values[:, :3]


NETWORKS = {
    "convolutional": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
    "smooth": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
    "normalizing": Normalizing,
    "unknown operation": Sorted,
    "average": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


def images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_it_tells_the_truth(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]().eval()
    found = check_model(model, images())
    assert [one.method for one in found.methods] == methods()
    for one in found.methods:
        if one.state == "needs patterns":
            assert one.method.startswith("pattern") and "fit_patterns" in one.reason
            continue
        try:
            method(one.method, **OPTIONS.get(one.method, {}))(model, images())
            runs = True
        except ValueError:
            runs = False
        assert (one.state == "runs") == runs, (one, runs)
        assert bool(one.reason) == (not runs)


def test_what_is_recorded():
    found = check_model(Normalizing().eval(), images())
    assert (found.logits.shape, found.normalizes, found.ends_in) == ((2, 3), True, "softmax")
    plain = check_model(NETWORKS["convolutional"]().eval(), images())
    assert (plain.operations, plain.normalizes, plain.ends_in) == (4, False, "linear")
    modified = {one.method: one.modified for one in plain.methods}
    assert modified["gradient"] == 0 and modified["guided-backprop"] == 1 and modified["lrp-z"] == 2


def test_a_network_that_hides_its_operations_is_refused():
    class Hidden(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return x.mean((2, 3))

    with pytest.raises(ValueError, match="visible, differentiable operations"):
        check_model(Hidden().eval(), images())
