"""Classifiers of one logit, and every form in which logits are returned."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from veridical.attributions import method
from veridical.checks import check_logits, find_logits
from veridical.models import Preprocessing, load_model, state_digest
from veridical.models.outputs import TwoLogits, as_two_logits, find_output

SMALL = Preprocessing(resize=6, crop=6)
NETWORKS = """
import torch
from torch import nn
from veridical.models import Preprocessing

class Binary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 1)
        self.preprocessing = {"resize": 6, "crop": 6}
        self.classes = ["pneumonia"]

    def forward(self, x):
        return self.head(self.body(x))

class Flat(Binary):
    def forward(self, x):
        return super().forward(x).squeeze(-1)

class Dictionary(Binary):
    def forward(self, x):
        return {"score": super().forward(x).flatten()}

class Curved(Binary):
    def forward(self, x):
        z = super().forward(x)
        return z * z.abs()

class Labels(Binary):
    output = "labels"

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.classes = ["cat", "dog", "tree"]

class Wrong(Binary):
    output = "sigmoid"
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    (tmp_path / "binaries.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "binaries", raising=False)
    return "binaries:{}".format


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["Binary", "Flat", "Dictionary", "Curved"])
def test_one_logit_becomes_two_with_maps_of_their_own(spec, name):
    loaded = load_model(spec(name))
    logits = check_logits(loaded.module(images()), 3)
    assert logits.shape == (3, 2) and loaded.output == "binary"
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])
    assert loaded.classes == ("not pneumonia", "pneumonia")
    first, second = (method("gradient")(loaded.module, images(), target) for target in (0, 1))
    torch.testing.assert_close(first, -second)
    assert bool(second.any())


def test_probability_is_the_sigmoid_of_the_logit(spec):
    loaded = load_model(spec("Binary"))
    import binaries

    module = binaries.Binary()
    state = loaded.module.state_dict()
    state["head.weight"], state["head.bias"] = 2 * state["head.weight"][1:], 2 * state["head.bias"][1:]
    module.load_state_dict(state)
    assert loaded.sha256 == state_digest(module)  # of the network as it came
    torch.testing.assert_close(loaded.module(images()).softmax(1)[:, 1:], module(images()).sigmoid())


def test_the_head_is_doubled_where_the_network_ends_in_it(spec):
    assert isinstance(load_model(spec("Flat")).module.head, nn.Linear)
    assert load_model(spec("Flat")).module.head.out_features == 2
    for name in ("Dictionary", "Curved"):  # what follows the head needs one value, or is not linear
        wrapped = load_model(spec(name)).module
        assert isinstance(wrapped, TwoLogits) and wrapped.network.head.out_features == 1


def test_either_class_has_its_own_evidence():
    head = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -1.0]]))
    network = as_two_logits(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval(), torch.rand(2, 2, 2, 2)
    )
    x = torch.tensor([2.0, 1.0])[None, :, None, None].expand(1, 2, 2, 2)
    maps = [method("lrp-zplus")(network, x.clone(), target).sum((2, 3))[0] for target in (0, 1)]
    # The second channel speaks for the first class, the first channel for the second.
    assert maps[0][0] == 0 and maps[0][1] != 0 and maps[1][0] > 0 and maps[1][1] == 0


def test_weights_are_read_before_the_head_is_doubled(spec, tmp_path):
    import_first = load_model(spec("Binary"))
    import binaries

    module = binaries.Binary()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    loaded = load_model(spec("Binary"), tmp_path / "weights.pt")
    assert loaded.sha256 == state_digest(module) != import_first.sha256
    torch.testing.assert_close(loaded.module(images())[:, 1:], module(images()) / 2)


def test_multi_label_networks_say_so(spec):
    loaded = load_model(spec("Labels"))
    assert loaded.output == "labels" and loaded.label(2) == "tree"
    with pytest.raises(ValueError, match="output to be one of classes, binary, labels, got 'sigmoid'"):
        load_model(spec("Wrong"))


def test_networks_that_cannot_be_tried_are_left_alone():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(1))
    assert find_output(lazy, SMALL) == ("classes", None)
    assert find_output(nn.Sequential(nn.Flatten(), nn.Linear(5, 1)), SMALL) == ("classes", None)
    assert find_output(nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), SMALL) == ("classes", None)
    assert find_output(nn.Sequential(nn.Flatten(), nn.Linear(108, 1)).double(), SMALL)[0] == "binary"


class Loss(NamedTuple):
    loss: Tensor
    scores: Tensor
    features: Tensor


@dataclass
class Named:
    loss: Tensor
    scores: Tensor


@dataclass
class Logits:
    features: Tensor
    logits: Tensor


TABLE = torch.arange(6.0).reshape(2, 3)
SCALAR, MAPS = torch.tensor(0.0), torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    "output",
    [
        TABLE,
        {"logits": TABLE, "features": TABLE + 1},
        {"scores": TABLE, "maps": MAPS, "count": torch.ones(2, dtype=torch.long)},
        (SCALAR, TABLE),
        [TABLE, TABLE + 1],
        (MAPS, TABLE, TABLE + 1),
        Loss(SCALAR, TABLE, MAPS),
        Named(SCALAR, TABLE),
        Logits(TABLE + 1, TABLE),
    ],
    ids=lambda output: type(output).__name__,
)
def test_where_the_logits_are(output):
    assert find_logits(output) is TABLE
    assert check_logits(output, 2) is TABLE


@pytest.mark.parametrize(
    "output", [{"a": TABLE, "b": TABLE + 1}, {"maps": MAPS}, (MAPS,), None, "text", Named]
)
def test_where_no_logits_can_be_told(output):
    assert find_logits(output) is output
    with pytest.raises(TypeError, match="return logits as a tensor .* or name them `logits`"):
        check_logits(output, 2)
