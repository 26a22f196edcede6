"""DeepLIFT's rules one by one: what sums to what, and the engine's promises about the reference."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, Residual, Sequential, images, seeded
from veridical.attributions import method
from veridical.rules import class_start, propagate, record
from veridical.rules.deeplift import NODES
from veridical.rules.deeplift_pairs import pair

BOTH = pytest.mark.parametrize("name", ["deeplift-rescale", "deeplift-reveal-cancel"])


class Function(nn.Module):
    """A function of the image, in the place of a network."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def gap(name: str, model: nn.Module, x: Tensor, reference: Tensor, **options) -> float:
    """The largest error of completeness, relative to the largest difference of the outputs."""
    target = 0
    contributions = method(name, reference=reference, **options)(model, x, target)
    expected = (model(x) - model(reference))[:, target]
    assert expected.abs().min() > 1e-6
    return ((contributions.sum((1, 2, 3)) - expected).abs().max() / expected.abs().max()).item()


def other(x: Tensor) -> Tensor:
    return images(len(x), x.shape[-1], seed=7, dtype=x.dtype)


MIX = torch.randn(4, 600, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def mixed(x: Tensor) -> Tensor:
    """Logits that weigh every value differently, without bias."""
    flat = x.flatten(1)
    return F.linear(flat, MIX[:, : flat.shape[1]])


FUNCTIONS = {
    "overlapping max pooling": lambda x: mixed(F.max_pool2d(x, 3, 1)),
    "padded max pooling": lambda x: mixed(F.max_pool2d(x, 3, 2, padding=1)),
    "dilated max pooling": lambda x: mixed(F.max_pool2d(x, 2, 1, dilation=2)),
    "adaptive max pooling": lambda x: mixed(F.adaptive_max_pool2d(x, 3)),
    "amax": lambda x: mixed(x.amax((2, 3))),
    "two max poolings": lambda x: mixed(F.max_pool2d(F.max_pool2d(x.relu(), 3, 1), 2)),
    "average pooling": lambda x: mixed(F.avg_pool2d(x, 3, 2).relu()),
    "interpolation": lambda x: mixed(F.interpolate(x, scale_factor=1.5, mode="bilinear").relu()),
    "product": lambda x: mixed(x[:, :1] * x[:, 1:]),
    "square": lambda x: mixed(x * x),
    "matrix product": lambda x: mixed(x[:, 0] @ x[:, 1].transpose(1, 2)),
    "constant matrix": lambda x: mixed(torch.matmul(MIX[:, :8], x)),
    "division by a constant": lambda x: mixed((x / -3.0).relu()),
    "negative factor": lambda x: mixed(F.relu(F.conv2d(x, MIX.flatten()[:27].view(1, 3, 3, 3)) * -2)),
    "constant minus image": lambda x: mixed(F.relu(1 - F.conv2d(x, MIX.flatten()[:27].view(1, 3, 3, 3)))),
    "difference": lambda x: mixed(F.relu(x[:, :2] - x[:, 1:].roll(1, 3))),
    "broadcast difference": lambda x: mixed(F.relu(x - x.mean((2, 3), keepdim=True))),
    "sum with itself": lambda x: mixed(F.relu(torch.add(x, x.flip(3), alpha=-2) + x)),
    "parts": lambda x: mixed(torch.stack([part.relu() for part in x.chunk(3, 1)])[1]),
    "concatenation": lambda x: mixed(torch.cat([x.sigmoid(), x.flip(2)], 1).tanh()),
    "chained activations": lambda x: mixed(F.softplus(F.silu(x)).flatten(1).tanh()),
}


@BOTH
@pytest.mark.parametrize("function", FUNCTIONS)
def test_contributions_sum_to_the_difference_of_outputs(function: str, name: str) -> None:
    x = images(3)
    assert gap(name, Function(FUNCTIONS[function]), x, other(x)) < 1e-10


ACTIVATIONS = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign hardswish hardsigmoid sigmoid "
    "logsigmoid tanh hardtanh"
).split()


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_complete(activation: str, name: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), Function(getattr(F, activation))))
    x = images(2) * 3
    assert gap(name, Function(lambda x: mixed(model(x))), x, other(x)) < 1e-10


SCALE = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)
NORMALIZATIONS = {
    "layer_norm": lambda x: F.layer_norm(x, (8,), torch.linspace(-1, 2, 8).to(x), torch.ones(8).to(x)),
    "layer_norm of two": lambda x: F.layer_norm(x, (8, 8), eps=1e-3),
    "layer_norm of all": lambda x: F.layer_norm(x, x.shape[1:]),
    "rms_norm": lambda x: F.rms_norm(x, (8,), torch.linspace(-1, 2, 8).to(x), 1e-4),
    "group_norm": lambda x: F.group_norm(torch.cat([x, x.flip(1)], 1), 2, SCALE.repeat(2), SCALE.repeat(2)),
    "instance_norm": lambda x: F.instance_norm(x, weight=SCALE, bias=SCALE),
    "stored statistics": lambda x: F.instance_norm(x, SCALE, SCALE.abs(), use_input_stats=False),
}


@BOTH
@pytest.mark.parametrize("function", NORMALIZATIONS)
def test_normalization_layers_are_complete_from_any_reference(function: str, name: str) -> None:
    """From another image, from one for all, and from a constant, which has no variance."""
    x, model = images(3), Function(lambda x: mixed(NORMALIZATIONS[function](x)))
    for reference in (other(x), other(x)[:1], torch.zeros_like(x)):
        assert gap(name, model, x, reference) < 1e-10


def test_a_normalization_of_two_values_by_hand() -> None:
    """RMS norm of (3, 4) from (1, 0): y = x s, mean square 12.5 and 0.5, s the inverse root."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 1, 1, 2)
    reference = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
    model = Function(lambda x: F.rms_norm(x, (2,), eps=0.0).flatten(1))
    s, s0 = 12.5**-0.5, 0.5**-0.5
    direct = 2.0 * (s + s0) / 2  # of y1 = x1 s: x1 rises by 2
    fall = (s - s0) / 12.0 * (3.0 + 1.0) / 2  # of s, per unit of mean square, which rises by 12 ...
    expected = [direct + fall * (9 - 1) / 2, fall * 16 / 2]  # ... 4 of them by x1, 8 by x2
    result = method("deeplift-rescale", reference=reference)(model, x, 0).flatten()
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


RATIOS = {
    "image by image": lambda x: x[:, :1] / (3 + (x[:, 1:] * x[:, 1:]).mean((2, 3), keepdim=True)),
    "constant by image": lambda x: torch.div(torch.ones((), dtype=x.dtype), x.sigmoid() + 0.2),
    "image by itself": lambda x: torch.div(y := x.sigmoid() + 0.1, y) + x,
    "broadcast numerator": lambda x: x.mean((1, 2, 3), keepdim=True) / (x.sigmoid() + 0.1),
}


@BOTH
@pytest.mark.parametrize("function", RATIOS)
def test_quotients_are_complete(function: str, name: str) -> None:
    x = images(3)
    for reference in (other(x), other(x)[:1], torch.zeros_like(x)):
        assert gap(name, Function(lambda x: mixed(RATIOS[function](x))), x, reference) < 1e-10


@BOTH
@pytest.mark.parametrize("scale", [1e-9, 1.0, 30.0, 1000.0])
def test_softmax_is_complete_however_far_the_logits_move(scale: float, name: str) -> None:
    x = images(3)
    model = Function(lambda x: mixed((scale * x).flatten(2).softmax(-1)) / scale)
    assert gap(name, model, x, other(x)) < (1e-6 if scale < 1 else 1e-10)


def test_a_softmax_of_two_by_hand() -> None:
    """It is the sigmoid of the logits' difference: the chord's slope of the sigmoid, and its negative."""
    x = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 1, 1, 2)
    result = method("deeplift-rescale")(Function(lambda x: x.flatten(1).softmax(1)), x, 0).flatten()
    slope = (torch.tensor(3.0, dtype=torch.float64).sigmoid() - 0.5) / 3
    torch.testing.assert_close(result, torch.stack([2 * slope, slope]))


def test_other_normalization_layers_are_complete_to_the_quadratures_error() -> None:
    """Local response normalization has no closed form here: 16 nodes on the path."""
    x = images(2)
    model = Function(lambda x: mixed(F.local_response_norm(x, 2)))
    assert gap("deeplift-rescale", model, x, other(x)) < 1e-10
    assert NODES == 16


def test_a_value_that_an_attention_mask_removes_stays_removed() -> None:
    def attend(x: Tensor) -> Tensor:
        scores = x[:, 0].masked_fill(torch.ones(8, 8, dtype=torch.bool).triu(1), -math.inf)
        return mixed(scores.softmax(-1))

    x = images(2)
    result = method(
        "deeplift-rescale", reference=x + 0.1 * other(x), overrides=(("masked_fill", "gradient"),)
    )
    contributions = result(Function(attend), x, 0)
    assert contributions.isfinite().all()
    assert not contributions[:, 0].triu(1).any()


@pytest.mark.parametrize("network", NETWORKS)
@BOTH
def test_every_layer_that_all_pass_through_sums_to_the_difference(name: str, network: str) -> None:
    """Contributions m+ C+ + m- C- of the layers whose output is all that the rest of the network sees."""
    model, x = NETWORKS[network](), images(2)
    explainer = method(name, fold_batch_norm=False)
    trace = record(model, x)
    start = class_start(trace, torch.tensor([[1, 2]]), "one")
    layers = propagate(trace, explainer.rules, start, keep="all").layers
    expected = (trace.logits - model(torch.zeros_like(x))).gather(1, torch.tensor([[1], [2]])).flatten()
    whole = [name for index, name in enumerate(trace.names) if is_cut(trace, index)]
    assert len(whole) >= 2
    for layer in whole:
        sums = layers[layer][0].flatten(1).sum(1)
        torch.testing.assert_close(sums, expected.detach(), rtol=0, atol=1e-12)


def is_cut(trace, index: int) -> bool:
    """Whether no later operation sees anything older than the output of the one at `index`."""
    before = {id(trace.inputs)} | {id(out) for op in trace.operations[:index] for out in op.outputs}
    later = {id(source) for op in trace.operations[index + 1 :] for source in op.sources}
    return not before & later and len(trace.operations[index].outputs) == 1


def test_an_overlapping_max_pooling_by_hand() -> None:
    """Windows (x1, x2), (x2, x3): the first rose from 1 to 4, the second fell from 2 to 1."""
    x = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    reference = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    model = Function(
        lambda x: F.max_pool2d(x[:, :1], (1, 2), 1).flatten(1) @ torch.tensor([[1.0], [10.0]]).double()
    )
    result = method("deeplift-rescale", reference=reference)(model, x, 0)
    torch.testing.assert_close(result[0, 0, 0], torch.tensor([3.0, 0.0, -10.0], dtype=torch.float64))
    # by the gradient both windows hand their multiplier to the image's winners x1 and x2
    plain = method("deeplift-rescale", reference=reference, max_pool="gradient")(model, x, 0)
    torch.testing.assert_close(plain[0, 0, 0], torch.tensor([3.0, 5.0, 0.0], dtype=torch.float64))


def test_no_multiplier_of_a_max_pooling_exceeds_the_outputs() -> None:
    x, windows = images(4), 9
    reference = other(x)
    contributions = method("deeplift-rescale", reference=reference)(
        Function(lambda x: F.max_pool2d(x, 3, 1).flatten(1).sum(1, keepdim=True)), x, 0
    )
    assert (contributions.abs() <= windows * (x - reference).abs() + 1e-12).all()


def test_an_unchanged_input_of_a_max_pooling_keeps_its_gradient() -> None:
    """Then the contributions are 0, but an earlier layer's may cancel: its multipliers are the gradient's."""
    x = images(2)
    trace = record(Function(lambda x: mixed(F.max_pool2d(x * 1.0, 2))), x)
    rules = method("deeplift-rescale", reference=x).rules
    start = class_start(trace, torch.tensor([[0, 0]]), "one")
    pooled = trace.operations[1]
    bound = rules.bind(trace)
    multiplier = bound.rules["max_pool"](pooled, [start.new_ones((1, *pooled.output.shape))])[0]
    torch.testing.assert_close(multiplier, pooled.adjoint([start.new_ones((1, *pooled.output.shape))])[0])


@BOTH
def test_near_the_reference_the_slope_is_the_derivative_at_the_reference(name: str) -> None:
    """Below a difference of 1e-7; contributions then sum to it to first order."""
    x = images(2)
    reference = x - 1e-9 * other(x)
    result = method(name, reference=reference)(Function(lambda x: mixed(x.sigmoid())), x, 0)
    if name == "deeplift-rescale":
        slope = torch.sigmoid(reference) * (1 - torch.sigmoid(reference))
        torch.testing.assert_close(result, (x - reference) * slope * MIX[0, :192].view(3, 8, 8))
    assert result.isfinite().all()


class Counting(nn.Module):
    """Counts passes and the images in them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.model(x)


@pytest.mark.parametrize("name", ["deeplift-rescale", "deeplift-reveal-cancel", "deeplift-ablation"])
def test_one_reference_for_all_images_is_one_pass_of_one_image(name: str) -> None:
    model = Counting(seeded(Residual)).eval()
    method(name)(model, images(5), 0)
    assert model.batches == [5, 1]


class Windows(nn.Module):
    """Cuts every image into four, which all lie in the first dimension, as window attention does."""

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        windows = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return mixed(windows.relu().reshape(n, -1))


@BOTH
def test_networks_that_mix_images_and_places_get_a_reference_for_each_image(name: str) -> None:
    x = images(3)
    reference = other(x)[:1]
    model = Counting(Windows()).eval()
    contributions = method(name, reference=reference)(model, x, 0)
    assert model.batches == [3, 1, 3]
    alone = method(name, reference=reference)(Windows().eval(), x[1:2], 0)
    torch.testing.assert_close(contributions[1:2], alone)
    expected = (model(x) - model(reference))[:, 0]
    torch.testing.assert_close(contributions.sum((1, 2, 3)), expected)


def test_control_flow_that_depends_on_data_is_said() -> None:
    model = Function(lambda x: mixed(x.relu() if x.sum() > 0 else x.tanh()))
    with pytest.raises(ValueError, match="control flow depends on its data"):
        method("deeplift-rescale")(model, images(2).abs(), 0)
    model = Function(lambda x: mixed(x.relu()) if x.sum() <= 0 else mixed(x.relu()) * 2)
    with pytest.raises(ValueError, match="5 and 4 operations, or other shapes"):
        method("deeplift-rescale")(model, images(2).abs(), 0)


def test_pairs_are_found_by_name_and_by_tensor() -> None:
    model, x = seeded(Sequential), images(3)
    trace = record(model, x)
    pairs = pair(trace, other(x)[:1])
    operation = trace.operation("features.3")
    assert pairs.reference(operation).name == operation.name
    expected = model.features[:4](x) - model.features[:4](other(x)[:1])
    torch.testing.assert_close(pairs.difference(operation.output), expected)


@pytest.mark.parametrize("name", ["deeplift-rescale", "deeplift-reveal-cancel", "deeplift-ablation"])
def test_several_targets_share_a_pass_and_equal_one_by_one(name: str) -> None:
    model, x = Counting(seeded(Residual)).eval(), images(2)
    explainer = method(name)
    together = explainer.from_trace(record(model, x), torch.tensor([[0, 1], [2, 3], [1, 1]]))
    assert model.batches == [2, 1]
    for row, target in zip(together, ([0, 1], [2, 3], [1, 1]), strict=True):
        torch.testing.assert_close(row, explainer(model, x, torch.tensor(target)))
