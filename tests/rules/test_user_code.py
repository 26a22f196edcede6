"""Forward passes as users write them: what the recorder follows, what it refuses, what rules make of it."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from networks import images, seeded
from veridical.attributions import Gradient, explain, method
from veridical.attributions.gradient import GRADIENT_RULES
from veridical.rules import class_start, propagate, record

LEAN = ("lrp-z", "lrp-alpha2-beta1", "guided-backprop", "rectgrad")
Pair = namedtuple("Pair", "first second")


class Net(nn.Module):
    """A convolution and a ReLU, a function of the module and of that, and a linear layer on the means."""

    def __init__(self, function, channels: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.wide = nn.Linear(4, 4 * 9 * 4, bias=bias)
        self.frequency = nn.Parameter(torch.rand(4, 8, 8))
        self.head = nn.Linear(channels, 5, bias=bias)

    def forward(self, x: Tensor):
        maps = self.function(self, F.relu(self.stem(x)))
        return maps if not isinstance(maps, Tensor) or maps.dim() == 2 else self.head(maps.mean((2, 3)))


def net(function, **options) -> nn.Module:
    return seeded(lambda: Net(function, **options))


def check_gradient(model: nn.Module, x: Tensor) -> None:
    """The engine's gradient, for one and for several starting vectors, is autograd's; so are the logits."""
    trace, expected = record(model, x), Gradient()(model, x, 0)
    torch.testing.assert_close(trace.logits, model(x))
    for count in (1, 2):
        start = class_start(trace, torch.zeros(count, len(x), dtype=torch.long), "one")
        for result in propagate(trace, GRADIENT_RULES, start).inputs:
            torch.testing.assert_close(result, expected)


# --- what is followed ---------------------------------------------------------------------------------------


def squeezed(net: Net, h: Tensor) -> Tensor:
    pooled = h.mean((2, 3), keepdim=True).squeeze_(-1).squeeze_(-1)
    return net.head(pooled.unsqueeze_(1).squeeze_(1))


def retaining(net: Net, h: Tensor) -> Tensor:
    h.retain_grad()
    return net.conv(h)


def filtered(net: Net, h: Tensor) -> Tensor:
    return h + torch.fft.ifft2(torch.fft.fft2(net.conv(h)) * net.frequency).real


def own_weights(net: Net, h: Tensor) -> Tensor:
    weights = net.wide(h.mean((0, 2, 3))).view(4, 4, 3, 3)
    return F.conv2d(h, weights, padding=1)


def own_limits(net: Net, h: Tensor) -> Tensor:
    return torch.clamp(net.conv(h), max=h.mean((2, 3), keepdim=True))


def named_pair(net: Net, h: Tensor) -> Tensor:
    return torch.cat(Pair(h, net.conv(h)), 1).unflatten(1, (2, 4)).sum(1)


@pytest.mark.parametrize("function", [squeezed, retaining, filtered, own_weights, own_limits, named_pair])
def test_the_gradient_follows(function) -> None:
    model, x = net(function), images(1)
    check_gradient(model, x)
    if function in (own_weights, own_limits, filtered):
        with pytest.raises(ValueError, match="expected operations that lrp-z has a rule for"):
            explain(model, x, method="lrp-z")


def test_channels_of_a_linear_layer_on_maps_are_not_those_of_the_normalization_behind_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.norm, self.head = nn.Linear(8, 3), nn.BatchNorm2d(3), nn.Linear(72, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.norm(self.dense(x))).flatten(1))

    check_gradient(seeded(Model), images())


def test_logits_that_are_scaled_in_place_in_an_object() -> None:
    def output(net: Net, h: Tensor) -> SimpleNamespace:
        logits = net.head(h.mean((2, 3)))
        logits.div_(3.0)
        return SimpleNamespace(logits=logits)

    model, x = net(output), images()
    for lean in (False, True):
        torch.testing.assert_close(record(model, x, lean=lean).logits, model(x).logits)


# --- what is refused ----------------------------------------------------------------------------------------


class Own(torch.autograd.Function):
    """A function that no mode of torch sees."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * 2


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize(
    "function",
    [
        lambda net, h: h + Own.apply(net.conv(h)),
        lambda net, h: net.conv(h) + Own.apply(h),
        lambda net, h: net.conv(h) + scripted(h),
        lambda net, h: net.conv(h) + checkpoint(net.conv, h, use_reentrant=True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_hidden_branch_is_refused_and_not_taken_for_a_constant(function) -> None:
    with pytest.raises(ValueError, match="expected operations that are visible"):
        explain(net(function), images(), method="lrp-z")


def through_a_view_of_a_buffer(net: Net, h: Tensor) -> Tensor:
    buffer = torch.zeros_like(h, requires_grad=False)
    buffer[:, :2].add_(h[:, :2])
    return net.conv(h) + buffer


def detached_before(net: Net, h: Tensor) -> Tensor:
    y = net.conv(h)
    old = y.detach()
    return F.relu(y, inplace=True) * old.abs().amax((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("function", [through_a_view_of_a_buffer, detached_before])
def test_memory_that_was_overwritten_is_not_read(function) -> None:
    for lean in (False, True):
        with pytest.raises(ValueError, match="shares memory with another changed in place"):
            record(net(function), images(), lean=lean)


@pytest.mark.parametrize("name", ["gradient", "lrp-z"])
def test_inference_mode_is_named(name: str) -> None:
    model, x = net(lambda net, h: net.conv(h)), images()
    with torch.inference_mode():
        made = x + 0
        with pytest.raises(ValueError, match="inference_mode"):
            explain(model, x, method=name)
    with pytest.raises(ValueError, match="inference_mode"):
        explain(model, made, method=name)
    with torch.no_grad():
        assert explain(model, x, method=name).abs().sum() > 0


def test_a_change_of_precision_inside_the_model_is_named() -> None:
    def mixed(net: Net, h: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net.conv(h).float()

    model, x = net(mixed).float(), images(dtype=torch.float32)
    with pytest.raises(ValueError, match="take torch.autocast out of the model"):
        explain(model, x, method="lrp-z")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explain(model, x, method="lrp-z").abs().sum() > 0


# --- what a lean trace leaves behind ------------------------------------------------------------------------


def in_place(net: Net, h: Tensor) -> Tensor:
    y = net.conv(h)
    y += h
    y = F.relu(y, inplace=True)
    return y.mul_(0.5)


@pytest.mark.parametrize("name", LEAN)
def test_what_a_hook_keeps_can_be_read_afterwards(name: str) -> None:
    model, x, kept = net(in_place), images(), []
    model.conv.register_forward_hook(lambda module, args, output: kept.append(output))
    model(x)
    explain(model, x, method=name)
    torch.testing.assert_close(kept[1], kept[0])


# --- what the rules make of it ------------------------------------------------------------------------------


def excited(net: Net, h: Tensor) -> Tensor:
    return h * net.conv(h).mean((2, 3), keepdim=True).sigmoid().expand_as(h)


def attending(net: Net, h: Tensor) -> Tensor:
    tokens = h.flatten(2)
    return (F.linear(tokens, tokens[0]).softmax(-1) @ tokens).unflatten(2, (8, 8))


def context(net: Net, h: Tensor) -> Tensor:
    return torch.add(h, net.conv(h).relu().mean((2, 3), keepdim=True), alpha=2)


def folded(net: Net, h: Tensor) -> Tensor:
    return F.fold(F.unfold(h, 2), (8, 8), 2)


@pytest.mark.parametrize("function", [excited, attending, context, folded])
def test_lrp_z_is_conserved(function) -> None:
    model, x = net(function, bias=False), images()
    torch.testing.assert_close(explain(model, x, 0, method="lrp-z").sum((1, 2, 3)), model(x)[:, 0])


def test_a_gated_linear_unit_is_a_product_with_a_gate() -> None:
    model, x = net(lambda net, h: F.glu(net.conv(h), 1), channels=2, bias=False), images()
    assert record(model, x).operations[-3].gates == (False, True)
    torch.testing.assert_close(explain(model, x, 0, method="lrp-z").sum((1, 2, 3)), model(x)[:, 0])


@pytest.mark.parametrize("name", ["lrp-zplus", "lrp-alpha2-beta1"])
def test_a_broadcast_sum_is_the_sum_of_its_copies(name: str) -> None:
    def copies(net: Net, h: Tensor) -> Tensor:
        return h + net.conv(h).relu().mean((2, 3), keepdim=True).expand(h.shape)

    broadcast = net(lambda net, h: h + net.conv(h).relu().mean((2, 3), keepdim=True))
    x = images()
    torch.testing.assert_close(*(explain(model, x, 0, method=name) for model in (broadcast, net(copies))))


@pytest.mark.parametrize("name", ["lrp-zplus", "lrp-cmp-alpha1", "excitation-backprop"])
def test_one_channel_that_becomes_three_receives_the_relevance_of_all(name: str) -> None:
    class Gray(Net):
        def forward(self, x: Tensor) -> Tensor:
            mean = torch.tensor([0.4, 0.5, 0.6], dtype=x.dtype).view(3, 1, 1)
            return super().forward((x - mean) / (mean / 2))

    class Colors(Gray):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.expand(-1, 3, -1, -1))

    x = images()[:, :1]
    gray = seeded(lambda: Gray(lambda net, h: net.conv(h)))
    colors = seeded(lambda: Colors(lambda net, h: net.conv(h)))
    torch.testing.assert_close(*(explain(model, x, 0, method=name) for model in (gray, colors)))


def test_a_constant_divided_by_a_value_is_no_factor_of_it() -> None:
    model, x = net(lambda net, h: torch.div(net.frequency, 1 + h)), images()
    check_gradient(model, x)
    with pytest.raises(ValueError, match="a constant divided by its input"):
        explain(model, x, method="lrp-z")


def test_an_operation_behind_the_logits_is_not_the_last_layer() -> None:
    def two_heads(net: Net, h: Tensor) -> dict[str, Tensor]:
        pooled = h.mean((2, 3))
        return {"logits": net.head(pooled), "other": net.wide(pooled)}

    x, name = images(), "contrastive-excitation-backprop"
    one, two = net(lambda net, h: h), net(two_heads)
    torch.testing.assert_close(explain(two, x, 0, method=name), explain(one, x, 0, method=name))


def test_grad_cam_passes_over_operations_without_axes() -> None:
    model, x = net(lambda net, h: net.conv(h) + 0 * h.sum()), images(1)
    assert torch.equal(method("grad-cam")(model, x, 0), method("grad-cam", layer=":add")(model, x, 0))
