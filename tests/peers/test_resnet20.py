"""The trained CIFAR ResNet-20, where relevance of Zennit's EpsilonPlusFlat sums to 187 times its start."""

import io
import zipfile

import pytest
import torch

from networks_real import CifarResNet, photograph, trained_resnet20
from veridical.attributions import method
from veridical.rules import class_start, propagate, record

pytestmark = pytest.mark.real_data

COUNT = 16


@pytest.fixture(scope="module")
def subject(data_folder):
    """The network in float64 and sixteen test images."""
    with zipfile.ZipFile(data_folder / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // COUNT][:COUNT]
        batch = torch.cat([photograph(io.BytesIO(archive.read(name)), 32) for name in chosen])
    return trained_resnet20(data_folder).double(), batch.double()


def test_zplus_conserves_relevance(subject) -> None:
    """Bias-free z+ on the folded network: what arrives at the image is what started.

    Where all inputs of a value are 0 and its bias alone lets it pass, z+ has a denominator of 0 and the
    relevance stays there. On one of these images that is 3.5e-6 of it, on the others nothing.
    """
    model, x = subject
    lost = (method("lrp-zplus", seed="one")(model, x).sum((1, 2, 3)) - 1).abs()
    assert lost.median() < 1e-10
    assert lost.max() < 1e-5


def test_zplus_conserves_relevance_in_every_stage(subject) -> None:
    model, x = subject
    trace = record(model, x[:4])
    start = class_start(trace, trace.logits.argmax(1), "one")
    # Behind the last operation of a block, and of the network's stem, all relevance is in one tensor.
    ends = [name for name in trace.names if name.endswith("relu#2") or name in ("relu", ":relu")]
    layers = propagate(trace, method("lrp-zplus").rules, start, keep=ends).layers
    assert len(layers) == 10
    for name, relevance in layers.items():
        total = relevance.flatten(2).sum(2)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
def test_modified_gradients_are_not_the_gradient(subject, name) -> None:
    model, x = subject
    gradient, modified = method("gradient")(model, x[:4]), method(name)(model, x[:4])
    assert (gradient - modified).abs().max() > 0.1 * gradient.abs().max()


@pytest.mark.peer
def test_zennits_relevance_is_not_conserved_here(subject) -> None:
    pytest.importorskip("torchvision", reason="needs torchvision, which Zennit imports (make peers)")
    attribution = pytest.importorskip("zennit.attribution", reason="needs zennit (make peers)")
    composites = pytest.importorskip("zennit.composites", reason="needs zennit (make peers)")
    model, x = subject
    with attribution.Gradient(model, composites.EpsilonPlusFlat()) as attributor:
        _, theirs = attributor(x[:4], torch.eye(10, dtype=x.dtype)[model(x[:4]).argmax(1)])
    assert theirs.sum((1, 2, 3)).abs().median() > 10


def test_architecture_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in CifarResNet().parameters()) == 269_722
