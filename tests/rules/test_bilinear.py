"""Products, attention and normalization: closed forms, what is conserved, what gates receive."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, images
from veridical.attributions import method
from veridical.rules import Operation, Rule, record
from veridical.rules.bilinear import (
    identity_normalization,
    proportional_matmul,
    proportional_normalization,
    shared_product,
    signed_matmul,
    summed_to,
    taylor_softmax,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Model(nn.Module):
    """The function of a (2, 4, 3) stack of tokens, padded with zeros to logits."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x[:, :, 0, :4].mT).flatten(1)


def operation(function, kind: str) -> Operation:
    """The last operation of that kind in the function's trace."""
    return [op for op in record(Model(function).eval(), images()).operations if op.kind == kind][-1]


def relevance(op: Operation, count: int = 2) -> Tensor:
    return draw(count, *op.output.shape, seed=3)


# --- products -----------------------------------------------------------------------------------------------


def test_a_gate_receives_nothing_and_the_signal_all() -> None:
    op = operation(lambda t: torch.sigmoid(t) * (t + 1), "product")
    r = relevance(op)
    to_gate, to_signal = shared_product("constant")(op, [r])
    assert not to_gate.any()
    torch.testing.assert_close(to_signal, r)


@pytest.mark.parametrize(
    ("function", "gates"),
    [
        (lambda t: t * (t + 1), "constant"),
        (lambda t: torch.sigmoid(t) * (t + 1), "uniform"),
        (lambda t: torch.sigmoid(t) * torch.sigmoid(2 * t), "constant"),
    ],
)
def test_equals_share_equally(function, gates) -> None:
    op = operation(function, "product")
    r = relevance(op)
    for share in shared_product(gates)(op, [r]):
        torch.testing.assert_close(share, r / 2)


def test_a_broadcast_operand_receives_the_sum() -> None:
    op = operation(lambda t: t.mean(1, keepdim=True) * t, "product")
    r = relevance(op)
    small, whole = shared_product("uniform")(op, [r])
    torch.testing.assert_close(small, r.sum(2, keepdim=True) / 2)
    torch.testing.assert_close(whole, r / 2)
    torch.testing.assert_close(summed_to(r, torch.Size((4, 3))), r.sum(1))


def test_a_square_hands_its_relevance_on_once() -> None:
    op = operation(lambda t: t * t, "product")
    r = relevance(op)
    torch.testing.assert_close(shared_product("uniform")(op, [r])[0], r)


def test_a_division_hands_its_relevance_to_the_dividend() -> None:
    op = operation(lambda t: (t + 1) / (torch.sigmoid(t) + 1), "product")
    r = relevance(op)
    dividend, divisor = shared_product("uniform")(op, [r])
    torch.testing.assert_close(dividend, r)
    assert not divisor.any()


@pytest.mark.parametrize("name", ["lrp-z", "lrp-zplus"])
@pytest.mark.parametrize("gates", ["constant", "uniform"])
def test_a_swish_written_out_is_the_swish_of_torch(name: str, gates: str) -> None:
    layers = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 5, bias=False)
    for layer, seed in zip(layers, (1, 2), strict=True):
        layer.weight = nn.Parameter(draw(*layer.weight.shape, seed=seed))

    class Net(nn.Module):
        def __init__(self, written_out: bool) -> None:
            super().__init__()
            self.conv, self.head = layers
            self.written_out = written_out

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x * torch.sigmoid(x) if self.written_out else F.silu(x)
            return self.head(x.mean((2, 3)))

    one, other = (method(name, gates=gates)(Net(out).eval(), images(), 1) for out in (True, False))
    torch.testing.assert_close(one, other)


# --- matrix products ----------------------------------------------------------------------------------------


def attention(tokens: Tensor) -> Tensor:
    return torch.softmax(tokens @ tokens.mT, -1) @ (tokens + 1)


def by_hand(left: Tensor, right: Tensor, r: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Relevance of both operands from every single product, in the proportion of those of one sign."""
    products = left[..., :, :, None] * right[..., None, :, :]  # i, k, j
    kept = products * (products * sign > 0)
    total = kept.sum(-2, keepdim=True)
    share = kept / torch.where(total == 0, 1, total) * r[..., :, None, :]
    return share.sum(-1), share.sum(-3)


@pytest.mark.parametrize("function", [attention, lambda t: t @ t.mT, lambda t: torch.matmul(t, (t - 1).mT)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (2.0, 1.0)])
def test_the_alpha_beta_rule_of_a_matrix_product_is_that_of_its_single_products(
    function, alpha, beta
) -> None:
    op = operation(function, "matmul")
    r = relevance(op)
    left, right = op.inputs
    positive, negative = by_hand(left, right, r, 1), by_hand(left, right, r, -1)
    for i, result in enumerate(signed_matmul("uniform", alpha, beta)(op, [r])):
        torch.testing.assert_close(result, (alpha * positive[i] - beta * negative[i]) / 2)
    if any(op.gates):
        to_gate, to_value = signed_matmul("constant", alpha, beta)(op, [r])
        assert not to_gate.any()
        torch.testing.assert_close(to_value, alpha * positive[1] - beta * negative[1])


def test_the_z_rule_of_a_matrix_product_is_that_of_its_single_products() -> None:
    op = operation(attention, "matmul")
    r = relevance(op)
    weights, values = op.inputs
    products = weights[..., :, :, None] * values[..., None, :, :]
    share = products / products.sum(-2, keepdim=True) * r[..., :, None, :]
    for result, expected in zip(
        proportional_matmul("uniform")(op, [r]), (share.sum(-1), share.sum(-3)), strict=True
    ):
        torch.testing.assert_close(result, expected / 2)
    to_gate, to_value = proportional_matmul("constant")(op, [r])
    assert not to_gate.any()
    torch.testing.assert_close(to_value, share.sum(-3))


@pytest.mark.parametrize("gates", ["constant", "uniform"])
@pytest.mark.parametrize("rule", [proportional_matmul, lambda gates: signed_matmul(gates, 1.0, 0.0)])
@pytest.mark.parametrize(
    "function",
    [
        attention,
        lambda t: (t * t) @ (t * t).mT,
        lambda t: (t * t) @ draw(2, 3, 5).abs(),
        lambda t: draw(5, 4).abs() @ (t * t),
        lambda t: (t * t)[:, None] @ (t * t).mT[:1],
    ],
)
def test_matrix_products_conserve_relevance(gates: str, rule, function) -> None:
    op = operation(function, "matmul")
    r = relevance(op)
    shares = rule(gates)(op, [r])
    assert [share.shape[1:] for share in shares] == [x.shape for x in op.inputs]
    total = sum(share.sum(tuple(range(1, share.dim()))) for share in shares)
    torch.testing.assert_close(total, r.sum(tuple(range(1, r.dim()))))


def test_epsilon_takes_its_part() -> None:
    op = operation(attention, "matmul")
    r = relevance(op)
    y, value = op.output, op.inputs[1]
    expected = value * (op.inputs[0].mT @ (r / (y + 0.3 * torch.where(y >= 0, 1.0, -1.0))))
    torch.testing.assert_close(proportional_matmul("constant", 0.3)(op, [r])[1], expected)


def test_a_product_with_a_vector_is_refused() -> None:
    op = operation(lambda t: torch.matmul(t, t[0, 0]), "matmul")
    with pytest.raises(ValueError, match="product of two matrices"):
        signed_matmul("constant", 1.0, 0.0)(op, [relevance(op)])


# --- softmax ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [lambda t: t.softmax(-1), lambda t: F.softmax(t, dim=1)])
def test_the_softmax_is_its_taylor_rule(function) -> None:
    op = operation(function, "softmax")
    r = relevance(op)
    (result,) = taylor_softmax(op, [r])
    axis = 3 if op.output.sum(-1).allclose(torch.ones(1, dtype=torch.float64)) else 2
    x, s = op.inputs[0], op.output
    torch.testing.assert_close(result, x * (r - s * r.sum(axis, keepdim=True)))
    torch.testing.assert_close(result[0], x * op.adjoint([r[:1] / s])[0][0])


def test_masked_scores_receive_nothing() -> None:
    mask = torch.tensor([[False, True, False]] * 4)
    op = operation(lambda t: t.masked_fill(mask, -torch.inf).softmax(-1), "softmax")
    (result,) = taylor_softmax(op, [relevance(op)])
    assert bool(result.isfinite().all()) and not result[..., 1].any()


@pytest.mark.parametrize("gates", ["constant", "uniform"])
def test_a_softmax_that_is_no_gate_is_not_silenced(gates: str) -> None:
    """A model that ends in probabilities; no product stands behind its softmax."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softmax(1)).double().eval()
    for name in ("lrp-z", "lrp-zplus"):
        assert bool(method(name, gates=gates)(model, images(), 1).flatten(1).any(1).all())


# --- normalization ------------------------------------------------------------------------------------------


NORMALIZATIONS = {
    "layer": lambda t, w, b: F.layer_norm(t, (3,), w, b),
    "both axes": lambda t, w, b: F.layer_norm(t, (4, 3), w if w is None else w.expand(4, 3), b),
    "root mean square": lambda t, w, b: F.rms_norm(t, (3,), w),
    "group": lambda t, w, b: F.group_norm(
        t.mT.repeat(1, 2, 1), 2, w if w is None else w.repeat(2), b if b is None else b.repeat(2)
    ),
    "instance": lambda t, w, b: F.instance_norm(t.mT, weight=w, bias=b),
}


@pytest.mark.parametrize("function", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_normalization_conserves_relevance_without_a_bias(function) -> None:
    op = operation(lambda t: function(t, draw(3).abs() + 0.5, None), "normalization")
    r = relevance(op)
    (result,) = proportional_normalization()(op, [r])
    torch.testing.assert_close(result.sum((1, 2, 3)), r.sum((1, 2, 3)))
    torch.testing.assert_close(identity_normalization(op, [r])[0], r)


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_layer_norm_is_the_linear_map_with_a_constant_standard_deviation(epsilon: float) -> None:
    weight, bias = draw(3, seed=4), draw(3, seed=5)
    op = operation(lambda t: F.layer_norm(t, (3,), weight, bias), "normalization")
    x, r = op.inputs[0], relevance(op)
    deviation = (x.var(-1, correction=0) + 1e-5).sqrt()
    matrix = torch.diag(weight) @ (torch.eye(3).double() - 1 / 3)
    y = x @ matrix.t() / deviation[..., None] + bias
    torch.testing.assert_close(y, op.output)
    stabilized = y + epsilon * torch.where(y >= 0, 1.0, -1.0)
    expected = x * ((r / stabilized / deviation[..., None]) @ matrix)
    torch.testing.assert_close(proportional_normalization(epsilon)(op, [r])[0], expected)


def test_local_response_normalization_passes_relevance_on() -> None:
    op = operation(lambda t: F.local_response_norm(t, 2), "normalization")
    r = relevance(op)
    torch.testing.assert_close(proportional_normalization()(op, [r])[0], r)


def test_instance_normalization_by_stored_statistics_is_refused() -> None:
    mean, variance = torch.zeros(3).double(), torch.ones(3).double()
    op = operation(lambda t: F.instance_norm(t.mT, mean, variance, use_input_stats=False), "normalization")
    with pytest.raises(ValueError, match="own statistics"):
        proportional_normalization()(op, [relevance(op)])


# --- methods ------------------------------------------------------------------------------------------------


RULES: dict[str, Rule] = {
    "product": shared_product("constant"),
    "matmul": proportional_matmul("uniform"),
    "signed matmul": signed_matmul("constant", 2.0, 1.0),
    "normalization": proportional_normalization(0.1),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_says_its_formula_in_one_line(rule: Rule) -> None:
    assert rule.__doc__ and "\n" not in rule.__doc__


@pytest.mark.parametrize("network", ["gated", "attention"])
@pytest.mark.parametrize(
    "name", ["lrp-z", "lrp-epsilon", "lrp-alpha2-beta1", "lrp-cmp-alpha1", "deep-taylor"]
)
def test_the_option_gates_changes_the_map(name: str, network: str) -> None:
    model, x = NETWORKS[network](), images()
    constant, uniform = (method(name, gates=gates)(model, x, 1) for gates in ("constant", "uniform"))
    assert not torch.allclose(constant, uniform)
    torch.testing.assert_close(method(name)(model, x, 1), constant)


@pytest.mark.parametrize("name", ["lrp-z", "lrp-zplus", "lrp-cmp-alpha2"])
def test_gates_of_another_name_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected gates to be one of constant, uniform, got 'equal'"):
        method(name, gates="equal")


def bias_free(block: nn.Module) -> nn.Module:
    for part in block.modules():
        for name in ("bias", "in_proj_bias"):
            if getattr(part, name, None) is not None and isinstance(getattr(part, name), Tensor):
                nn.init.zeros_(getattr(part, name))
    return block.double().eval()


class Block(nn.Module):
    """One attention block without biases, behind patches and before a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y)[0])[:, 0])


def test_lrp_z_conserves_the_logit_through_attention_with_constant_gates() -> None:
    torch.manual_seed(3)
    model, x = bias_free(Block()), images()
    total = method("lrp-z")(model, x, 1).sum((1, 2, 3))
    torch.testing.assert_close(total, model(x)[:, 1])
    # The Taylor rule of the softmax has a remainder: at scores of 0 it is no 0.
    assert not torch.allclose(method("lrp-z", gates="uniform")(model, x, 1).sum((1, 2, 3)), total)


def test_zplus_stays_positive_through_attention_with_constant_gates_only() -> None:
    torch.manual_seed(3)
    model, x = bias_free(Block()), images()
    result = method("lrp-zplus", seed="one")(model, x, 1)
    # Where nothing positive stands behind a value, z+ hands nothing on: at most the start arrives.
    assert float(result.min()) >= 0 and bool((0.3 < result.sum((1, 2, 3))).all())
    assert bool((result.sum((1, 2, 3)) < 1 + 1e-9).all())
    assert float(method("lrp-zplus", seed="one", gates="uniform")(model, x, 1).min()) < 0


def test_lrp_z_is_no_gradient_times_input_where_values_are_multiplied() -> None:
    """The gradient follows both operands of a product, each for the whole: the sum over both is twice y."""
    op = operation(lambda t: t * (t + 1), "product")
    r = op.output[None]
    doubled = sum((x * g).sum() for x, g in zip(op.inputs, op.adjoint([torch.ones_like(r)]), strict=True))
    torch.testing.assert_close(doubled, 2 * r.sum())
    torch.testing.assert_close(sum(share.sum() for share in shared_product("uniform")(op, [r])), r.sum())
