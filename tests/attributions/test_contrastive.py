"""The contrastive methods by hand, and on networks whose plain maps do not depend on the class."""

import io
import zipfile

import pytest
import torch
from torch import Tensor, nn

from networks import Hand, Residual, Sequential, images, seeded
from networks_real import photograph, trained_resnet20
from veridical.attributions import contrastive, method
from veridical.faithfulness import cosine_convergence
from veridical.rules import class_start, propagate, record

# z+ maps of the three classes of the hand network for a starting relevance of 1.
ONE, TWO, THREE = torch.tensor([[1.0, 0.0], [5 / 9, 4 / 9], [1 / 3, 2 / 3]], dtype=torch.float64)


def close(result: Tensor, expected: Tensor | tuple[float, float]) -> None:
    torch.testing.assert_close(result.flatten(), torch.as_tensor(expected, dtype=torch.float64))


def test_contrastive_excitation_backprop_by_hand() -> None:
    # Class 0: 3 excites the first unit, -1 inhibits the second; class 1 and 2 have nothing that inhibits.
    close(method("contrastive-excitation-backprop")(Hand(), Hand.X, 0), (1 - 1 / 3, -2 / 3))
    close(method("contrastive-excitation-backprop")(Hand(), Hand.X, 1), TWO)
    close(method("contrastive-excitation-backprop")(Hand(), Hand.X, 2), THREE)


def test_contrastive_lrp_by_hand() -> None:
    """Logits (2, -1, 2): the other classes of class 0 sum to 1, in magnitudes to 3."""
    rest = -TWO + 2 * THREE
    close(method("contrastive-lrp", rest="logits")(Hand(), Hand.X, 0), ONE - rest)
    rest = (TWO + 2 * THREE) / 3
    close(method("contrastive-lrp")(Hand(), Hand.X, 0), ONE - rest)
    close(
        method("contrastive-lrp", rest="magnitudes", rectify="difference")(Hand(), Hand.X, 0),
        (float((ONE - rest)[0]), 0.0),
    )
    rest = (TWO + THREE) / 2
    close(method("contrastive-lrp", rest="uniform")(Hand(), Hand.X, 0), ONE - rest)
    # Class 1 has a negative logit; its map is divided by a negative sum and stays what it was.
    close(method("contrastive-lrp")(Hand(), Hand.X, 1), TWO - (ONE + THREE) / 2)


def test_what_the_maximum_is_taken_of() -> None:
    model, x = seeded(Residual), images(3)
    trace, targets = record(model, x), torch.tensor([0, 1, 3])
    plain, logits = method("lrp-zplus"), trace.logits.detach()
    start = class_start(trace, targets, "value")
    first, second = (propagate(trace, plain.rules, s).inputs[0] for s in (start, logits - start))
    first, second = ((r / r.sum((1, 2, 3), keepdim=True)).nan_to_num(nan=0.0) for r in (first, second))
    assert first[0].abs().sum() > 0 and second[0].abs().sum() > 0
    assert (first < 0).any()  # this network averages negative values
    for choice, expected in (
        ("none", first - second),
        ("class", first.clamp(min=0) - second),
        ("difference", (first - second).clamp(min=0)),
    ):
        explainer = method("contrastive-lrp", rest="logits", rectify=choice)
        torch.testing.assert_close(explainer(model, x, targets), expected)


def test_the_printed_formula_is_the_plain_difference_where_no_negative_value_is_averaged() -> None:
    model, x = seeded(Sequential), images(4)
    plain, printed = (method("contrastive-lrp", rectify=choice)(model, x, 1) for choice in ("none", "class"))
    torch.testing.assert_close(plain, printed, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["contrastive-lrp", "contrastive-excitation-backprop"])
def test_what_speaks_for_the_class_and_against_it_cancels(name: str) -> None:
    class Open(nn.Module):
        """Every unit has positive products, so that no relevance is lost on the way."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 4)
            nn.init.uniform_(self.conv.weight, 0.1, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x)).flatten(1))

    relevance = method(name)(seeded(Open), images(3).abs(), 2)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.zeros(3, dtype=torch.float64))
    assert relevance.abs().sum() > 0.1


def test_the_contrast_of_two_runs_is_one_run() -> None:
    """Excitation backprop, less that of the network with the last layer's weights negated."""
    model, x = seeded(Sequential), images(3)
    negated = seeded(Sequential)
    trace = record(model, x)
    start = class_start(trace, torch.tensor([1, 1, 1]), "one")
    rules, head = method("excitation-backprop").rules, "classifier.4"
    below = "classifier.3"
    plus = propagate(trace, rules, start, keep=[below]).layers[below]
    with torch.no_grad():
        negated.classifier[4].weight.neg_()
    minus = propagate(record(negated, x), rules, start, keep=[below]).layers[below]
    ours = propagate(trace, method("contrastive-excitation-backprop").rules, start, keep=[head, below])
    torch.testing.assert_close(ours.layers[below], plus - minus)
    torch.testing.assert_close(ours.inputs, propagate(trace, rules, plus - minus, at=below).inputs)


def test_both_maps_come_from_one_backward_pass(monkeypatch) -> None:
    sizes, real = [], contrastive.propagate

    def counted(trace, rules, start):
        sizes.append(len(start))
        return real(trace, rules, start)

    monkeypatch.setattr(contrastive, "propagate", counted)
    trace = record(seeded(Sequential), images(2))
    method("contrastive-lrp").from_trace(trace, torch.tensor([[0, 1], [2, 3], [1, 1]]))
    assert sizes == [6]


def test_the_layerwise_tests_see_the_chain_of_z_plus() -> None:
    model, x = seeded(Sequential), images(2)
    ours = cosine_convergence(model, x, method("contrastive-lrp"))
    plain = cosine_convergence(model, x, method("lrp-zplus"))
    assert (ours.median == plain.median).all()


class Chain(nn.Module):
    """Dense layers with ReLU above them; non-negative weights make plain relevance forget its start."""

    def __init__(self, depth: int, positive: bool = True) -> None:
        super().__init__()
        sizes = [48, *[16] * depth]
        pairs = zip(sizes, sizes[1:], strict=False)
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairs)
        self.head = nn.Linear(16, 5, bias=False)
        for layer in self.layers if positive else ():
            nn.init.uniform_(layer.weight, 0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


def all_maps(model: nn.Module, x: Tensor, name: str, **options) -> Tensor:
    """The flat maps of all classes, (K, N, ...)."""
    trace = record(model, x)
    classes = torch.arange(trace.logits.shape[1])[:, None].expand(-1, len(x))
    return method(name, **options).from_trace(trace, classes).detach().flatten(2)


def likeness(maps: Tensor) -> float:
    """Median |cosine| between the maps of two classes."""
    units = maps / maps.norm(dim=2, keepdim=True)
    cosines = torch.einsum("anc,bnc->nab", units, units)
    first, second = torch.triu_indices(len(maps), len(maps), 1)
    return float(cosines[:, first, second].abs().nanmedian())


def on_a_chain(name: str, depth: int) -> tuple[float, float]:
    """How alike the classes' maps are, and their median norm relative to that of excitation backprop."""
    model, x = seeded(lambda: Chain(depth)), images(6, size=4).abs()
    maps, plain = all_maps(model, x, name), all_maps(model, x, "excitation-backprop")
    return likeness(maps), float((maps.norm(dim=2) / plain.norm(dim=2)).median())


@pytest.mark.parametrize("name", ["contrastive-lrp", "contrastive-excitation-backprop"])
def test_contrastive_maps_change_with_the_class_where_plain_ones_do_not(name: str) -> None:
    for plain in ("lrp-zplus", "excitation-backprop"):
        assert on_a_chain(plain, 4)[0] > 0.9999
    assert on_a_chain(name, 4)[0] < 0.9


@pytest.mark.parametrize("name", ["contrastive-lrp", "contrastive-excitation-backprop"])
def test_the_contrast_vanishes_with_depth(name: str) -> None:
    """The chain still converges: the deeper it is, the less is left of the maps' difference."""
    sizes = [on_a_chain(name, depth)[1] for depth in (1, 4, 8)]
    assert sizes[0] > 0.1 and sizes[1] < 0.02 * sizes[0] and sizes[2] < 0.02 * sizes[1]
    assert on_a_chain(name, 8)[0] < 0.95


def test_logits_that_sum_to_zero_make_the_contrast_with_them_blind_to_the_class() -> None:
    """n(k) - n(rest) = (S z_k - sum of y_j z_j) / (S - y_k) for maps z_j and logits that sum to S."""
    model, x = seeded(lambda: Chain(1, positive=False)), images(6, size=4).abs()
    plain = likeness(all_maps(model, x, "excitation-backprop"))
    with torch.no_grad():
        model.head.weight.sub_(model.head.weight.mean(0))
    assert model(x).sum(1).abs().max() < 1e-12 and plain < 0.9
    assert likeness(all_maps(model, x, "contrastive-lrp", rest="logits")) > 0.999999
    for rest in ("magnitudes", "uniform"):
        assert likeness(all_maps(model, x, "contrastive-lrp", rest=rest)) < 0.9


@pytest.mark.real_data
def test_on_a_trained_resnet20(data_folder) -> None:
    """What the classes' maps have in common, measured on eight images of CIFAR-10."""
    with zipfile.ZipFile(data_folder / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // 8][:8]
        x = torch.cat([photograph(io.BytesIO(archive.read(name)), 32) for name in chosen]).double()
    model = trained_resnet20(data_folder).double()
    assert likeness(all_maps(model, x, "excitation-backprop")) > 0.9  # 0.964
    assert (
        likeness(all_maps(model, x, "contrastive-lrp", rest="logits")) > 0.999
    )  # its logits nearly sum to 0
    assert likeness(all_maps(model, x, "contrastive-excitation-backprop")) < 0.5  # 0.37
    for rest in ("magnitudes", "uniform"):  # 0.42 and 0.43
        assert likeness(all_maps(model, x, "contrastive-lrp", rest=rest)) < 0.6


def test_options_are_checked() -> None:
    with pytest.raises(
        ValueError, match="expected rest to be one of logits, magnitudes, uniform, got 'half'"
    ):
        method("contrastive-lrp", rest="half")
    with pytest.raises(ValueError, match="expected rectify to be one of none, class, difference, got True"):
        method("contrastive-lrp", rectify=True)
    with pytest.raises(TypeError, match="got bias; known: .*first"):
        method("contrastive-excitation-backprop", bias="whole")


def test_a_map_without_a_sum_is_a_map_of_zeros() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double().eval()
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    relevance = method("contrastive-lrp")(model, torch.ones(1, 3, 1, 1).double(), 0)
    assert torch.equal(relevance, torch.zeros_like(relevance))
