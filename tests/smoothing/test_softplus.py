import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from veridical.smoothing import BetaSchedule, BetaSmoothed, SmoothedModel, beta_smooth, rectifications
from veridical.smoothing.activations import smooth_relu6
from veridical.smoothing.activations import softplus as written_out


class Net(nn.Module):
    """Convolution, one activation written in some way, linear."""

    def __init__(self, activation):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(2, 3, 3, padding=1).double()
        self.last = nn.Linear(3 * 16, 4).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.activation = activation

    def forward(self, x):
        return self.last(self.activation(self.conv(x)).flatten(1))


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        self.relu(x)
        x = x - 0.3
        return self.relu(x) + x


def closed_form(net, x, function):
    return net.last(function(net.conv(x)).flatten(1))


def softplus(x, beta=2.0):
    return functional.softplus(x, beta, 20.0)


def images(count=2):
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


RELUS = {
    "module": nn.ReLU(),
    "module-inplace": nn.ReLU(inplace=True),
    "functional": functional.relu,
    "functional-inplace": lambda x: functional.relu(x, inplace=True),
    "functional-underscore": functional.relu_,
    "torch": torch.relu,
    "torch-underscore": torch.relu_,
    "method": lambda x: x.relu(),
    "method-underscore": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp-positional": lambda x: torch.clamp(x, 0),
    "clamp-underscore": lambda x: x.clamp_(min=0.0),
    "clamp-min": lambda x: torch.clamp_min(x, 0),
    "clamp-min-underscore": lambda x: x.clamp_min_(0),
    "clip": lambda x: x.clip(0, None),
    "threshold": lambda x: functional.threshold(x, 0.0, 0.0),
    "module-threshold": nn.Threshold(0.0, 0.0),
    "keyword": lambda x: functional.relu(input=x),
    "aten": lambda x: torch.ops.aten.relu.default(x),
}
SIXES = {
    "module": nn.ReLU6(),
    "module-inplace": nn.ReLU6(inplace=True),
    "functional": functional.relu6,
    "functional-inplace": lambda x: functional.relu6(x, inplace=True),
    "hardtanh": lambda x: functional.hardtanh(x, 0.0, 6.0),
    "hardtanh-keyword": lambda x: functional.hardtanh(x, min_val=0.0, max_val=6.0, inplace=True),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp-keyword": lambda x: torch.clamp(x, min=0, max=6),
}


@pytest.mark.parametrize("name", RELUS)
def test_every_way_to_write_a_relu_becomes_softplus(name):
    net, x = Net(RELUS[name]), images()
    assert torch.equal(SmoothedModel(net, 2.0)(x), closed_form(net, x, softplus))


@pytest.mark.parametrize("name", SIXES)
def test_every_way_to_write_a_relu6_becomes_a_difference(name):
    net, x = Net(SIXES[name]), images() * 4
    expected = closed_form(net, x, lambda z: softplus(z) - softplus(z - 6.0))
    assert torch.equal(SmoothedModel(net, 2.0)(x), expected)


@pytest.mark.parametrize("name", ["module-inplace", "functional-inplace", "method-underscore"])
def test_in_place_result_reached_through_the_argument(name):
    def activation(x):
        RELUS[name](x)
        return x

    net, x = Net(activation), images()
    assert torch.equal(SmoothedModel(net, 2.0)(x), closed_form(net, x, softplus))


def test_reused_in_place_module():
    net, x = Net(Reused()), images()

    def expected(z):
        middle = softplus(z) - 0.3
        return 2 * softplus(middle)

    torch.testing.assert_close(SmoothedModel(net, 2.0)(x), closed_form(net, x, expected))


def test_model_that_returns_the_overwritten_tensor():
    class Bare(nn.Module):
        def forward(self, x):
            y = x * 1.0
            y.relu_()
            return {"logits": (y,)}

    x = images()
    assert torch.equal(SmoothedModel(Bare(), 2.0)(x)["logits"][0], softplus(x))


def test_stale_base_of_a_view_is_an_error():
    def activation(x):
        functional.relu_(x[:, :2])
        return x

    with pytest.raises(ValueError, match="out-of-place ReLU"):
        SmoothedModel(Net(activation), 2.0)(images())


def test_inputs_are_not_overwritten():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten())
    x = images()
    before = x.clone()
    SmoothedModel(model, 2.0)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["module-inplace", "functional"])
def test_second_order_gradients_are_exact(name):
    net = SmoothedModel(Net(RELUS[name]), 3.0)

    def gradient(x):
        return torch.autograd.grad(net(x)[:, 1].sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(gradient, (images(1).requires_grad_(True),))


def test_tends_to_relu_with_gap_log2_over_beta():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64).reshape(1, 1, 1, -1)
    gaps = []
    for beta in (1.0, 10.0, 100.0):
        gap = (SmoothedModel(nn.ReLU(), beta)(x) - x.relu()).abs()
        assert gap.max().item() == pytest.approx(math.log(2) / beta, rel=1e-9)
        assert gap.argmax().item() == 300
        gaps.append(gap.max().item())
    assert gaps == sorted(gaps, reverse=True)


def test_other_clamps_and_leaky_relu_stay():
    def activation(x):
        return functional.leaky_relu(x).clamp(min=-1.0).clamp(max=5.0).relu()

    net, x = Net(activation), images()
    expected = closed_form(net, x, lambda z: softplus(functional.leaky_relu(z).clamp(-1.0, 5.0)))
    assert torch.equal(SmoothedModel(net, 2.0)(x), expected)
    assert rectifications(net.eval(), x) == 1


def test_no_activation_is_an_error():
    with pytest.raises(ValueError, match="has none"):
        SmoothedModel(Net(torch.tanh), 2.0)(images())
    assert rectifications(Net(torch.tanh).eval(), images()) == 0


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta"):
        SmoothedModel(nn.ReLU(), beta)
    with pytest.raises(ValueError, match="beta"):
        beta_smooth(plain_gradient, beta)


def test_outer_mode_sees_softplus():
    seen = []

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    net, x = SmoothedModel(Net(nn.ReLU(inplace=True)), 2.0), images()
    with Recorder():
        net(x)
    assert seen == ["conv2d", "softplus", "flatten", "linear"]


def test_exported_program():
    net, x = Net(nn.ReLU6(inplace=True)).eval(), images()
    program = torch.export.export(net, (x,)).module()
    expected = closed_form(net, x, lambda z: softplus(z) - softplus(z - 6.0))
    torch.testing.assert_close(SmoothedModel(program, 2.0)(x), expected)


def test_model_and_generator_are_as_before():
    net, x = Net(nn.ReLU(inplace=True)).eval(), images()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random, logits = torch.get_rng_state(), net(x)
    smoothed = SmoothedModel(net, 1.0)
    assert not smoothed.training
    assert [id(p) for p in smoothed.parameters()] == [id(p) for p in net.parameters()]
    smoothed(x)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(net(x), logits)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def plain_gradient(model, inputs, target=None):
    create = inputs.requires_grad
    x = inputs if create else inputs.detach().requires_grad_(True)
    logits = model(x)
    index = logits.argmax(1) if target is None else torch.as_tensor(target).expand(len(logits))
    chosen = logits.gather(1, index[:, None]).sum()
    return torch.autograd.grad(chosen, x, create_graph=create)[0]


def test_beta_smooth_explains_the_class_of_the_unmodified_model():
    net, x = Net(nn.ReLU()).eval(), images(20)
    with torch.no_grad():
        clean, smooth = net(x).argmax(1), SmoothedModel(net, 0.05)(x).argmax(1)
    assert not torch.equal(clean, smooth)
    expected = plain_gradient(SmoothedModel(net, 0.05), x, clean)
    assert torch.equal(beta_smooth(plain_gradient, 0.05)(net, x), expected)
    assert torch.equal(beta_smooth(plain_gradient, 0.05)(net, x, clean), expected)


def test_beta_smoothed_is_a_value():
    method = beta_smooth(plain_gradient, 0.8)
    assert method == BetaSmoothed(plain_gradient, 0.8)
    assert method.name == "beta-smooth(plain_gradient, beta=0.8)"
    assert hash(method) == hash(BetaSmoothed(plain_gradient, 0.8))


def test_schedule_is_geometric():
    schedule = BetaSchedule(10.0, 100.0, 4)
    assert schedule(0) == 10.0
    assert schedule(2) == pytest.approx(math.sqrt(1000))
    assert schedule(3) / schedule(2) == pytest.approx(schedule(1) / schedule(0))
    assert schedule(3) < 100.0
    with pytest.raises(ValueError, match="step"):
        BetaSchedule(steps=0)


@pytest.mark.parametrize("beta", [0.8, 3.0, 40.0])
def test_the_derivatives_of_the_softplus_are_those_of_torch(beta):
    start = torch.linspace(-4.1, 9, 40, dtype=torch.float64)
    weights = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for function in (written_out, softplus):
        x = start.clone().requires_grad_()
        orders = [function(x, beta)]
        for weight in weights:  # three derivatives, each of the one before
            orders += torch.autograd.grad((orders[-1] * weight).sum(), x, create_graph=True)
        found[function] = torch.stack(orders).detach()
    ours, theirs = found[written_out], found[softplus]
    assert torch.equal(ours[:2], theirs[:2])
    torch.testing.assert_close(ours[2:], theirs[2:], rtol=1e-10, atol=1e-12 * beta**2)
    assert (ours[2:, start * beta > 20.0] == 0).all()  # linear there


def test_the_softplus_has_derivatives_of_its_slope_and_of_what_it_scales():
    x = torch.linspace(-2, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda values: written_out(values, 3.0), x)
    y = written_out(x, 3.0)
    vectors = torch.eye(6, dtype=torch.float64)
    (together,) = torch.autograd.grad(y, x, vectors, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(together, torch.diag((3.0 * x.detach()).sigmoid()))


def halves(x, beta, ceiling=6.0):
    """The definition, differentiated by autograd."""
    softplus = functional.softplus
    return softplus(x, beta) - softplus(x - ceiling, beta)


@pytest.mark.parametrize("beta", [0.8, 3.0])
def test_the_derivatives_of_the_smooth_relu6_are_those_of_its_definition(beta):
    start = torch.linspace(-4, 9, 40, dtype=torch.float64)
    weights = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for function in (smooth_relu6, halves):
        x = start.clone().requires_grad_()
        orders = [function(x, beta)]
        for weight in weights:  # three derivatives, each of the one before
            orders += torch.autograd.grad((orders[-1] * weight).sum(), x, create_graph=True)
        found[function] = torch.stack(orders).detach()
    # above beta * x = 20 torch's softplus is linear: off by 2e-9
    assert (found[smooth_relu6] - found[halves]).abs().max() < 1e-8 * found[halves].abs().max()
    assert torch.equal(smooth_relu6(start, beta), halves(start, beta))


def test_several_vectors_go_back_through_the_smooth_relu6_at_once():
    x = torch.linspace(-4, 9, 7, dtype=torch.float64, requires_grad=True)
    y = smooth_relu6(x, 2.0)
    vectors = torch.eye(7, dtype=torch.float64)
    (together,) = torch.autograd.grad(y, x, vectors, retain_graph=True, is_grads_batched=True)
    singly = torch.stack([torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in vectors])
    assert torch.equal(together, singly)
