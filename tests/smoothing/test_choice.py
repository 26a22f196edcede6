"""A beta chosen from data."""

import gzip
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from networks import images, seeded
from networks_real import photograph, trained
from veridical.attributions import method
from veridical.models import load_model
from veridical.smoothing import BetaCriterion, SmoothedModel, beta_smooth, choose_beta

GRADIENT = method("gradient")
FEW = BetaCriterion(multiples=(16.0, 4.0, 2.0, 1.0, 0.25), draws=2)
LOOSE = replace(FEW, kept=0.0, agreement=-1.0)


class Scaled(nn.Module):
    """The same function whatever the factor: pre-activations times c, what follows divided by c."""

    def __init__(self, factor):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Linear(6 * 64, 4)
        self.factor = factor

    def forward(self, x):
        return self.last(torch.relu(self.factor * self.first(x)).flatten(1) / self.factor)


def network(factor=1.0):
    return seeded(lambda: Scaled(factor))


def test_beta_follows_the_scale_of_the_network():
    one, ten = (choose_beta(network(factor), images(6), GRADIENT, criterion=FEW) for factor in (1.0, 10.0))
    assert ten.scale == pytest.approx(10 * one.scale)
    assert ten.beta == pytest.approx(one.beta / 10)
    for first, second in zip(one.curve, ten.curve, strict=True):
        assert first.kept == second.kept
        assert first.agreement == pytest.approx(second.agreement, abs=1e-9)
        assert first.sensitivity == pytest.approx(second.sensitivity, abs=1e-9)


def test_the_scale_is_the_median_size_of_what_rectifiers_are_given():
    net = seeded(lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)))
    x = images(5)
    expected = x.abs().flatten(1).median(1).values.median().item()
    before = x.clone()
    assert choose_beta(net, x, GRADIENT, criterion=LOOSE).scale == pytest.approx(expected)
    assert torch.equal(x, before)


def test_the_choice_is_the_steadiest_admissible_candidate():
    found = choose_beta(network(), images(6), GRADIENT)
    assert [p.beta for p in found.curve] == sorted((p.beta for p in found.curve), reverse=True)
    assert found.chosen.admissible
    assert found.chosen.sensitivity == min(p.sensitivity for p in found.curve if p.admissible)
    for point in found.curve:
        reached = point.kept >= 0.75 and point.agreement >= 0.5
        assert point.admissible == reached
    assert found.helps == (found.chosen.sensitivity < found.plain.sensitivity)
    assert found.images == 6 and found.method == "gradient" and found.criterion == BetaCriterion()


def test_the_plain_point_is_the_network_itself():
    plain = choose_beta(network(), images(4), GRADIENT, criterion=FEW).plain
    assert math.isinf(plain.beta) and plain.kept == 1.0 and plain.agreement == pytest.approx(1.0)
    large = BetaCriterion(multiples=(1e7,))
    near = choose_beta(network(), images(4), GRADIENT, criterion=large).chosen
    assert near.agreement == pytest.approx(1.0, abs=1e-6)
    assert near.sensitivity == pytest.approx(plain.sensitivity, abs=1e-6)


def test_kept_is_counted_on_the_smoothed_network():
    net, x = network(), images(12, seed=3)
    criterion = BetaCriterion(multiples=(0.25, 1.0), agreement=-1.0, kept=0.0, draws=1)
    found = choose_beta(net, x, GRADIENT, criterion=criterion)
    for point in found.curve:
        with torch.no_grad():
            same = SmoothedModel(net, point.beta)(x).argmax(1) == net(x).argmax(1)
        assert point.kept == pytest.approx(same.double().mean().item())


def test_thresholds_decide():
    found = choose_beta(network(), images(6), GRADIENT, criterion=LOOSE)
    assert found.beta == min(found.curve, key=lambda point: point.sensitivity).beta
    strict = replace(FEW, agreement=0.95)
    assert choose_beta(network(), images(6), GRADIENT, criterion=strict).chosen.agreement >= 0.95


def test_the_result_is_deterministic_and_does_not_depend_on_the_batch():
    first = choose_beta(network(), images(5), GRADIENT, criterion=replace(FEW, batch=5))
    state = torch.get_rng_state()
    second = choose_beta(network(), images(5), GRADIENT, criterion=replace(FEW, batch=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.beta == second.beta and first.scale == second.scale
    for one, two in zip(first.curve, second.curve, strict=True):
        assert one.sensitivity == pytest.approx(two.sensitivity, abs=1e-9)


def test_a_class_can_be_given():
    chosen = choose_beta(network(), images(3), GRADIENT, target=2, criterion=LOOSE)
    single = torch.full((3,), 2)
    assert chosen == choose_beta(network(), images(3), GRADIENT, target=single, criterion=LOOSE)


def test_what_cannot_be_measured_is_counted():
    def constant(model, inputs, target=None):
        relevance = GRADIENT(model, inputs, target)
        relevance[0] = 1.0
        return relevance

    found = choose_beta(network(), images(4), constant, criterion=FEW)
    assert found.plain.missing == 3 and found.chosen.missing == 3
    assert not math.isnan(found.chosen.sensitivity)


def test_progress_ends_at_one():
    told = []
    choose_beta(network(), images(2), GRADIENT, criterion=LOOSE, callback=told.append)
    assert told == sorted(told) and told[-1] == 1.0


def test_the_model_is_left_as_it_was():
    net = network().train()
    with pytest.warns(UserWarning, match="training mode"):
        choose_beta(net, images(2), GRADIENT, criterion=LOOSE)
    assert net.training and all(p.grad is None for p in net.parameters())


def test_errors():
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    with pytest.raises(ValueError, match="expected a model with a ReLU"):
        choose_beta(smooth, images(2), GRADIENT)
    with pytest.raises(ValueError, match="expected a plain method"):
        choose_beta(network(), images(2), beta_smooth(GRADIENT))
    with pytest.raises(ValueError, match="expected a beta that keeps 75% of the classes"):
        choose_beta(network(), images(6), GRADIENT, criterion=BetaCriterion(multiples=(1e-3,), agreement=1.0))
    with pytest.raises(ValueError, match="NaN"):
        choose_beta(network(), images(2) * math.nan, GRADIENT)
    silent = seeded(lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)))
    with pytest.raises(ValueError, match="positive, finite median size, got 0"):
        choose_beta(silent, images(2) * 0, GRADIENT)


@pytest.mark.parametrize(
    "options",
    [
        {"multiples": ()},
        {"multiples": (1.0, 0.0)},
        {"agreement": 1.5},
        {"kept": -0.1},
        {"noise": 0.0},
        {"draws": 0},
        {"batch": 0},
    ],
)
def test_wrong_criteria(options):
    with pytest.raises(ValueError, match="expected"):
        BetaCriterion(**options)


def digits(folder, count):
    raw = gzip.open(next((folder / "MNIST" / "raw").glob("t10k-images*.gz"))).read()
    pixels = torch.frombuffer(bytearray(raw[16 : 16 + 784 * count]), dtype=torch.uint8)
    return pixels.view(count, 1, 28, 28).float() / 255


def small_photographs(folder, count, size=32):
    paths = sorted((folder / "imagenet-sample").glob("*.jpg"))[:count]
    return torch.cat([photograph(path, size) for path in paths])


@pytest.mark.real_data
def test_a_small_network_gets_a_large_beta(data_folder):
    found = choose_beta(trained(data_folder, "mnist_lenet5_clean"), digits(data_folder, 16), GRADIENT)
    assert 3 < found.beta < 60 and found.helps
    assert found.chosen.kept >= 0.75 and found.chosen.agreement > 0.9


@pytest.mark.real_data
def test_the_beta_of_the_paper_does_not_fit_the_residual_network(data_folder):
    """At beta = 0.8, right for VGG-16, the map of the CIFAR ResNet-20 has nothing to do with its own map."""
    criterion = BetaCriterion(draws=1, multiples=(16.0, 8.0, 4.0, 2.83, 2.0, 0.4))
    model = trained(data_folder, "resnet20_cifar10")
    found = choose_beta(model, small_photographs(data_folder, 12), GRADIENT, criterion=criterion)
    assert 3 < found.beta < 20 and found.helps
    paper = found.curve[-1]
    assert paper.beta == pytest.approx(0.8, rel=0.25)
    assert abs(paper.agreement) < 0.3 and not paper.admissible


@pytest.mark.real_data
@pytest.mark.slow
def test_the_demonstration_network(data_folder):
    loaded = load_model("demo")
    x = small_photographs(data_folder, 2, size=224)
    criterion = BetaCriterion(draws=1, batch=4, multiples=(16.0, 1.0))
    found = choose_beta(loaded.module.eval(), x, GRADIENT, criterion=criterion)
    assert found.beta > 5 and found.helps
    assert not found.curve[-1].admissible
