"""The script behind the tables of docs/manifold.md, on a tiny data set with a known manifold."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

from tiny_set import Decoder, Sign, tiny_set

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    spec = spec_from_file_location("manifold_table", ROOT / "scripts" / "manifold_table.py")
    module = module_from_spec(spec)
    before, backend = list(sys.path), mpl.get_backend()
    spec.loader.exec_module(module)
    sys.path[:] = before
    mpl.use(backend)
    short = replace(module.PLAIN, epochs=1)
    robust = replace(short, adversary=replace(module.ROBUST.adversary, steps=1))
    monkeypatch.setattr(module, "TRAININGS", {"plain": (short, 40), "robust": (robust, 40)})
    monkeypatch.setattr(module, "ATTACKED", 4)
    return module


@pytest.fixture
def data(tmp_path):
    return tiny_set(tmp_path / "set")


def test_a_row_a_method_and_a_line_a_claim_and_nothing_is_done_twice(script, data, tmp_path, monkeypatch):
    folder = tmp_path / "cells"
    folder.mkdir()
    asked = script.Asked(["plain", "robust"], 2, 8, script.convention_of(data))
    page = script.page(data, asked, folder)
    assert page.count("| plain | `") == page.count("| robust | `") == 4
    assert page.count("of 2 seeds (") == 6 and page.count("test error") == 2
    assert "settings for mnist32." in page
    for name in ("measured", "train_classifier"):
        monkeypatch.setattr(script, name, lambda *_, **__: pytest.fail("computed twice"))
    assert script.page(data, asked, folder) == page


def test_another_set_or_training_or_convention_begins_anew(script, data, tmp_path, monkeypatch):
    """Also a set of the same description whose images another network labeled."""
    folder = tmp_path / "cells"
    folder.mkdir()
    asked = script.Asked(["plain"], 1, 8, "mnist32")
    script.page(data, asked, folder)
    known = {one.name for one in folder.iterdir()}
    other = tiny_set(tmp_path / "other", Opposite())
    assert other.manifest == data.manifest
    script.page(other, asked, folder)
    script.page(data, replace(asked, convention="pneumonia"), folder)
    settings, limit = script.TRAININGS["plain"]
    monkeypatch.setattr(script, "TRAININGS", {"plain": (replace(settings, batch=8), limit)})
    script.page(data, asked, folder)
    found = {one.name for one in folder.iterdir()}
    # Two of another set, the measurement by another convention, two of another training.
    assert known < found and len(known) == 2 and len(found) == 7


def test_the_paper_s_settings_are_chosen_by_the_set(script, data):
    assert script.convention_of(data) == "mnist32"
    for shape, name in (((3, 32, 32), "cifar10"), ((1, 32, 32), "pneumonia")):
        manifest = data.manifest.model_copy(update={"approach": "reconstructive", "shape": shape})
        assert script.convention_of(replace(data, manifest=manifest)) == name


class Opposite(Sign):
    """The labels exchanged."""

    def forward(self, images):
        return -super().forward(images)


def test_the_gradient_of_a_network_that_sees_only_the_manifold_lies_in_it(script, data):
    """A network whose one direction is a tangent vector: fraction 1, whatever the method."""
    cell = script.measured(data, OnManifold(data.load("latents", "test")).eval(), 8, "mnist32")
    assert cell["fractions"].shape == (4, 8)
    assert float(cell["fractions"][0, 0]) == pytest.approx(1, abs=1e-4)


class OnManifold(nn.Module):
    """The score is the product with the first tangent vector at the first image."""

    def __init__(self, latents):
        super().__init__()
        weight = torch.func.jvp(Decoder(), (latents[:1],), (torch.tensor([[1.0, 0.0]]),))[1].flatten()
        self.layer = nn.Linear(256, 2, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.stack([weight, -weight]))

    def forward(self, images):
        return self.layer(images.flatten(1))


def test_networks_of_our_own_fit_the_size_of_the_images(script):
    for shape in ((1, 28, 28), (3, 32, 32), (1, 256, 256)):
        assert script.network(shape, 5, 0)(torch.zeros(2, *shape)).shape == (2, 5)
    assert type(script.network((1, 32, 32), 10, 0)).__name__ == "Bordt2023LeNet"
