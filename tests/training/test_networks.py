"""The network and the recipes of Sixt et al. 2020 are those of the paper."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from veridical.models import load_model
from veridical.training import (
    TRAINING_RECIPES,
    TrainingSettings,
    sixt2020_cifar10,
    training_recipe,
)

SPEC = "veridical.training.networks:sixt2020_cifar10"
LENET = "veridical.training.networks:bordt2023_lenet"


def test_the_layers_are_those_of_appendix_d():
    names = [name for name, _ in sixt2020_cifar10().named_children()]
    assert names[:10] == "conv1 relu1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 pool4".split()
    assert names[10:] == "flatten dropout5 fc5 relu5 dropout6 fc6".split()
    shapes = {name: tuple(one.shape) for name, one in sixt2020_cifar10().named_parameters() if one.dim() > 1}
    assert shapes == {
        "conv1.weight": (32, 3, 3, 3),
        "conv2.weight": (64, 32, 3, 3),
        "conv3.weight": (128, 64, 3, 3),
        "conv4.weight": (128, 128, 3, 3),
        "fc5.weight": (1024, 8192),
        "fc6.weight": (10, 1024),
    }
    assert sum(one.numel() for one in sixt2020_cifar10().parameters()) == 8_640_714


def test_initial_weights_are_glorot_uniform_and_belong_to_the_seed():
    before = torch.get_rng_state()
    first, again, other = sixt2020_cifar10(), sixt2020_cifar10(0), sixt2020_cifar10(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv4.weight, again.conv4.weight)
    assert not torch.equal(first.conv4.weight, other.conv4.weight)
    limit = (6 / (9 * 128 + 9 * 128)) ** 0.5
    assert 0.99 * limit < float(first.conv4.weight.detach().abs().max()) <= limit
    assert float(first.conv4.weight.detach().std()) == pytest.approx(limit / 3**0.5, rel=0.02)
    assert all(not layer.bias.any() for layer in first.children() if isinstance(layer, nn.Conv2d | nn.Linear))


def test_it_loads_by_its_specification_with_weights_of_its_own(tmp_path):
    trained = sixt2020_cifar10(3)
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_model(SPEC, tmp_path / "weights.safetensors")
    assert torch.equal(loaded.module.fc6.weight, trained.fc6.weight)
    assert loaded.preprocessing.resize == loaded.preprocessing.crop == 32
    assert loaded.preprocessing.mean == (0, 0, 0) and loaded.preprocessing.std == (1, 1, 1)
    assert loaded.label(3) == "cat" and len(loaded.classes) == 10
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    trained.eval()
    assert torch.equal(loaded.module(images), trained(images))
    assert not torch.equal(copy.deepcopy(trained).train()(images), trained(images))


def test_the_recipe_has_the_published_numbers():
    recipe = training_recipe("sixt2020-cifar10")
    assert recipe.settings == TrainingSettings(
        epochs=100, batch=32, optimizer="adam", lr=1e-3, schedule="constant", shift=0.1, flip=True
    )
    assert (recipe.network, recipe.side, recipe.published_accuracy) == (SPEC, 32, 0.8089)
    assert recipe.with_settings(epochs=2, seed=7).seed == 7
    assert recipe.with_settings().epochs == 100


def test_every_recipe_names_its_source_and_a_network_that_exists():
    published = {"sixt2020-cifar10": SPEC, "sixt2020-cifar10-reduced": SPEC}
    published |= {f"bordt2023-mnist32{kind}": LENET for kind in ("", "-robust", "-robust-reduced")}
    assert {name: recipe.network for name, recipe in TRAINING_RECIPES.items()} == published
    assert "sixt2020-cifar10" in repr(TRAINING_RECIPES) and len(TRAINING_RECIPES) == len(published)
    assert all(recipe.source for recipe in TRAINING_RECIPES.values())
    with pytest.raises(ValueError, match="did you mean sixt2020-cifar10"):
        training_recipe("sixt2020-cifar")


def test_a_module_may_say_what_it_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "described_user.py").write_text(
        "from torch import nn\n"
        "class One(nn.Module):\n"
        "    preprocessing = {'resize': 8, 'crop': 8, 'mean': (0.5,), 'std': (1,), 'channels': 1}\n"
        "    classes = ['a', 1]\n"
        "class Wrong(One):\n"
        "    preprocessing = {'size': 8}\n"
        "existing = One()\n"
    )
    for name in ("One", "existing"):
        loaded = load_model(f"described_user:{name}")
        assert (loaded.preprocessing.crop, loaded.preprocessing.mean) == (8, (0.5,))
        assert loaded.classes == ("a", "1")
    with pytest.raises(TypeError, match="expected fields of Preprocessing in described_user:Wrong"):
        load_model("described_user:Wrong")
