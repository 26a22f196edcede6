"""Fused operations written out: the same numbers, one operation at a time, and what is left as it is."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import images
from veridical.attributions import method
from veridical.rules import Trace, UnsupportedOperation, record


class Head(nn.Module):
    """Logits from any tensor function of three copies of the image's tokens (N, 4, 12)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, :, ::2, ::2].unfold(2, 2, 2).unfold(3, 2, 2)
        tokens = patches.flatten(2, 3).flatten(3).permute(0, 2, 1, 3).flatten(2)
        return self.function(tokens).flatten(1)[:, :7]


def recorded(function) -> Trace:
    """The trace of a function of tokens, its logits and gradient compared with those of the fused call."""
    model, x = Head(function).eval(), images(3)
    trace = record(model, x)
    torch.testing.assert_close(trace.logits, model(x), rtol=1e-12, atol=1e-12)
    image = x.clone().requires_grad_()
    torch.testing.assert_close(
        method("gradient")(model, image, 2).detach(), method("gradient")(model, x, 2), rtol=1e-10, atol=1e-12
    )
    return trace


def kinds(trace: Trace) -> list[str]:
    return [op.kind for op in trace.operations if op.kind != "structure"]


def weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = weights(4, 4, seed=7)
SEEN = torch.ones(4, 4, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("options", "masking"),
    [
        ({}, []),
        ({"scale": 0.7}, []),
        ({"is_causal": True}, []),
        ({"attn_mask": MASK}, ["shift"]),
        ({"attn_mask": SEEN, "dropout_p": 0.0}, []),
    ],
)
@pytest.mark.parametrize("heads", [False, True])
def test_scaled_dot_product_attention_is_written_out(options: dict, masking: list[str], heads: bool) -> None:
    def attention(tokens: Tensor) -> Tensor:
        if heads:
            tokens = tokens.unflatten(2, (3, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens * 2, tokens, tokens + 1, **options)

    trace = recorded(attention)
    assert kinds(trace) == ["scale", "shift", "matmul", "scale", *masking, "softmax", "matmul"]
    assert trace.operation(":matmul#2").gates == (True, False)
    assert len(set(trace.names)) == len(trace.names)


@pytest.mark.parametrize("options", [{"dropout_p": 0.5}, {"enable_gqa": True}])
def test_attention_that_cannot_be_written_out_stays_whole_and_is_refused_by_name(options: dict) -> None:
    def attention(tokens: Tensor) -> Tensor:
        q = tokens.unflatten(2, (3, -1)).transpose(1, 2)
        k = q[:, :1] if "enable_gqa" in options else q
        return F.scaled_dot_product_attention(q, k, k, **options)

    model, x = Head(attention).eval(), images(1)
    with torch.random.fork_rng():
        assert record(model, x).operation(":scaled_dot_product_attention").kind == "unknown"
        for name in ("lrp-z", "lrp-zplus"):
            with pytest.raises(UnsupportedOperation, match="got scaled_dot_product_attention"):
                method(name)(model, x, 0)


class SelfAttention(nn.Module):
    def __init__(self, cross: bool, call: dict, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, dtype=torch.float64, **options)
        self.cross, self.call = cross, call

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.attention.batch_first:
            tokens = tokens.transpose(0, 1)
        other = tokens * 2 if self.cross else tokens
        result, seen = self.attention(tokens, other, other + 1 if self.cross else tokens, **self.call)
        if not self.attention.batch_first:
            result = result.transpose(0, 1)
        return result if seen is None else torch.cat([seen.flatten(1), result.flatten(1)], 1)


PADDING = torch.tensor([[False, False, True, False], [False] * 4, [True, False, False, True]])
CALLS = {
    "plain": {"need_weights": False},
    "weights": {"need_weights": True},
    "weights of each head": {"need_weights": True, "average_attn_weights": False},
    "float mask": {"need_weights": False, "attn_mask": MASK},
    "boolean mask": {"need_weights": False, "attn_mask": ~SEEN},
    "mask of each head": {"need_weights": False, "attn_mask": weights(9, 4, 4, seed=3)},
    "padding": {"need_weights": False, "key_padding_mask": PADDING},
    "causal": {
        "need_weights": False,
        "is_causal": True,
        "attn_mask": torch.full((4, 4), -torch.inf).triu(1).double(),
    },
    "both": {"need_weights": True, "key_padding_mask": PADDING, "attn_mask": weights(4, 4, seed=9) > 1},
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_multi_head_attention_is_written_out(cross: bool, batch_first: bool, call: dict) -> None:
    torch.manual_seed(0)
    trace = recorded(SelfAttention(cross, call, batch_first=batch_first).eval())
    found = kinds(trace)
    assert found.count("matmul") == 2 and found.count("softmax") == 1
    assert found.count("linear") == (4 if cross else 2)


@pytest.mark.parametrize("options", [{"bias": False}, {"kdim": 12, "vdim": 12}, {"kdim": 5, "vdim": 7}])
def test_other_projections_of_multi_head_attention(options: dict) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64, **options).eval()

    def function(tokens: Tensor) -> Tensor:
        key, value = tokens[..., : options.get("kdim", 12)], tokens[..., : options.get("vdim", 12)]
        return attention(tokens, key, value, need_weights=False)[0]

    assert kinds(recorded(function)) == ["linear"] * 3 + ["matmul", "scale", "softmax", "matmul", "linear"]


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_without_a_batch(need_weights: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, dtype=torch.float64).eval()

    def function(tokens: Tensor) -> Tensor:
        result, seen = attention(tokens[0], tokens[0], tokens[0], need_weights=need_weights)
        assert seen is None or seen.shape == (4, 4)
        return result.sum() * tokens

    assert "softmax" in kinds(recorded(function))


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_that_appends_keys_stays_whole(options: dict) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64, **options).eval()
    trace = recorded(lambda tokens: attention(tokens, tokens, tokens, need_weights=False)[0])
    assert [op.base for op in trace.operations if op.kind == "unknown"][-1] == "multi_head_attention_forward"


def test_names_of_written_out_operations_say_where_they_come_from() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 6, batch_first=True, dtype=torch.float64).eval()

    class Model(Head):
        def __init__(self) -> None:
            super().__init__(None)
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            self.function = self.layer
            return super().forward(x)

    model, x = Model().eval(), images()
    trace = record(model, x)
    torch.testing.assert_close(trace.logits, model(x), rtol=1e-12, atol=1e-12)
    assert {"layer.self_attn:softmax", "layer.self_attn:matmul#2", "layer.norm1"} <= set(trace.names)
    assert len(set(trace.names)) == len(trace.names)


W, BIAS, STACK = weights(12, 5), weights(5, seed=1), weights(3, 12, 5, seed=2)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda t: t @ W, ["linear"]),
        (lambda t: torch.matmul(t, W), ["linear"]),
        (lambda t: t.flatten(0, 1).mm(W).unflatten(0, (3, 4)), ["linear"]),
        (lambda t: t.bmm(STACK), ["matmul"]),
        (lambda t: W.t() @ t.mT, ["matmul"]),
        (lambda t: torch.addmm(BIAS, t.flatten(0, 1), W).unflatten(0, (3, 4)), ["linear", "shift"]),
        (lambda t: torch.addmm(BIAS, t[:, 0], W, beta=0.5, alpha=2), ["linear", "scale", "shift"]),
        (lambda t: torch.baddbmm(t[..., :4], t, t.mT), ["matmul", "sum"]),
        (lambda t: torch.einsum("bnd,de->bne", t, W), ["linear"]),
        (lambda t: torch.einsum("bid,bjd->bij", t, t), ["matmul"]),
        (lambda t: torch.einsum("bid, bjd -> bji", [t, 2 * t]), ["scale", "matmul"]),
        (lambda t: torch.einsum("bd,be->bed", t[:, 0], t[:, 1]), ["matmul"]),
        (lambda t: torch.einsum("bhid,bjhd->bijh", t[:, None], t[:, :, None]), ["matmul"]),
    ],
)
def test_matrix_products_are_written_as_the_rules_know_them(function, expected: list[str]) -> None:
    assert kinds(recorded(function)) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda t: torch.einsum("...d,de->...e", t, W),
        lambda t: torch.einsum("bnd->bn", t),
        lambda t: torch.einsum("bid,bjk->bij", t, t),
        lambda t: torch.einsum("bii,bjd->bi", t[..., :4], t),
        lambda t: torch.einsum("bid,bjd,bjk->bik", t, t, t),
    ],
)
def test_contractions_that_are_not_written_out_stay_whole(function) -> None:
    assert "einsum" in [operation.base for operation in recorded(function).operations]


def test_fully_masked_scores_hand_nothing_to_masked_keys() -> None:
    def attention(tokens: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True)[:, :1]

    for gates in ("constant", "uniform"):
        relevance = method("lrp-epsilon", gates=gates)(Head(attention).eval(), images(), 0)
        assert bool(relevance.isfinite().all())
        assert not relevance[:, :, 4:].any() and not relevance[:, :, :, 4:].any()
