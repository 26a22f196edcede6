"""Randomization and random logit against Quantus, where the settings can be made equal."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from networks import Sequential, images, seeded
from veridical.adapters import as_quantus
from veridical.attributions import method
from veridical.faithfulness import cascading_randomization, random_logit

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings(
        "ignore::UserWarning",
        "ignore:invalid value encountered:RuntimeWarning",
        "ignore:An input array is constant:RuntimeWarning",
    ),
]
PAIRS = {"pcc": "correlation_pearson", "spearman": "correlation_spearman"}


@pytest.fixture(scope="module")
def quantus():
    return pytest.importorskip("quantus", reason="needs quantus (make peers)")


def scores_of(quantus, kind, model, x, classes, explain, **options):
    metric = getattr(quantus, kind)(disable_warnings=True, abs=False, normalise=False, **options)
    return metric(
        model=model,
        x_batch=x.numpy(),
        y_batch=classes.numpy(),
        explain_func=as_quantus(explain),
        device="cpu",
    )


@pytest.mark.parametrize("measure", PAIRS)
@pytest.mark.parametrize("name", ["gradient", "lrp-zplus"])
def test_the_same_networks_get_the_same_scores(measure, name, quantus, monkeypatch) -> None:
    """Quantus is handed the networks of our cascade; its own hold equal weights in layers of equal shape."""
    model, x, networks = seeded(Sequential, dtype=torch.float32), images(3, dtype=torch.float32), []
    explain = method(name)

    def spy(network, inputs, target=None):
        networks.append(copy.deepcopy(network))
        return explain(network, inputs, target)

    classes = torch.tensor([1, 2, 0])
    ours = cascading_randomization(
        model, x, spy, target=classes, reduction="sum", protocol="adebayo2018", measures=(measure,)
    )
    monkeypatch.setattr(
        "quantus.helpers.model.pytorch_model.PyTorchModel.get_random_layer_generator",
        lambda self, order="top_down", seed=42: zip(ours.layers, networks[1:], strict=True),
    )
    function = getattr(quantus.functions.similarity_func, PAIRS[measure])
    theirs = scores_of(quantus, "MPRT", model, x, classes, explain, similarity_func=function)
    found = np.array([theirs[layer] for layer in ours.layers])
    np.testing.assert_allclose(ours.measures[measure], found, atol=1e-5)
    assert np.nanmin(np.abs(found)) < 0.9


class TwoClasses(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[:, :2]


@pytest.mark.parametrize("measure", PAIRS)
@pytest.mark.parametrize("name", ["gradient", "lrp-zplus"])
def test_with_two_classes_the_random_logits_are_the_same(measure, name, quantus) -> None:
    model = TwoClasses(seeded(Sequential, dtype=torch.float32)).eval()
    x, classes, explain = images(3, dtype=torch.float32), torch.tensor([1, 0, 1]), method(name)
    ours = random_logit(
        model, x, explain, target=classes, reduction="sum", protocol="adebayo2018", measures=(measure,)
    )
    function = getattr(quantus.functions.similarity_func, PAIRS[measure])
    theirs = scores_of(
        quantus, "RandomLogit", model, x, classes, explain, num_classes=2, similarity_func=function
    )
    np.testing.assert_allclose(ours.measures[measure], theirs, atol=1e-5)
