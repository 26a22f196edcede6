"""Write fused operations out as the elementary ones that propagation rules are defined on.

Attention arrives as one call of torch; a relevance rule needs its projections, products and softmax one by
one. Each function here computes what the fused call computes, to rounding, or returns None where it does not
know how; the recorder then notes the fused call as it is, and methods without a rule for it say so.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

IsActive = Callable[[Any], bool]
"""Whether a value is a tensor that depends on the image."""


def decomposed(
    func: Callable[..., Any], base: str, args: tuple[Any, ...], kwargs: dict[str, Any], active: IsActive
) -> Callable[[], Any] | None:
    """How to compute a call by elementary operations; None where it is elementary, or cannot be written out.

    Args:
        func: a function of torch.
        base: its plain name.
        args: what it is called with.
        kwargs: what it is called with, by name.
        active: whether a value depends on the image.
    """
    if func is F.scaled_dot_product_attention:
        attention = _Attention.of(args, kwargs)
        return None if attention is None else attention.result
    if func is F.multi_head_attention_forward:
        heads = _MultiHead.of(args, kwargs)
        return None if heads is None else heads.result
    if base in ("addmm", "baddbmm"):
        return lambda: _add_product(*args, **kwargs)
    if base in ("matmul", "__matmul__", "mm") and len(args) == 2 and not kwargs:
        left, right = args
        if active(left) and isinstance(right, Tensor) and right.dim() == 2 and not active(right):
            return lambda: F.linear(left, right.t())
    if base == "einsum" and not kwargs:
        return _contraction(args)
    if base in ("expand_as", "reshape_as", "view_as") and len(args) == 2:
        return lambda: getattr(args[0], base.removesuffix("_as"))(args[1].shape)  # of the other, only that
    if func is F.linear:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return (lambda: _product_with(*args, **kwargs)) if active(weight) else None
    return (lambda: _gated(*args, **kwargs)) if func is F.glu else None


def _add_product(
    input: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1, out: None = None
) -> Tensor:
    """Beta times input + alpha left @ right, as a product, scalings and a sum."""
    product = left @ right if alpha == 1 else (left @ right) * alpha
    return product + (input if beta == 1 else input * beta)


def _product_with(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer whose weights depend on the image, as a matrix product."""
    product = input @ weight.transpose(-2, -1)
    return product if bias is None else product + bias


def _gated(input: Tensor, dim: int = -1) -> Tensor:
    """One half times the sigmoid of the other."""
    signal, gate = input.chunk(2, dim)
    return signal * gate.sigmoid()


_ATTENTION_ARGUMENTS = (
    "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Attention:
    """softmax(scale q k^T + mask) v, with the names of `scaled_dot_product_attention`."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Attention | None":
        """The call as a value; None where it drops at random or shares keys among groups of queries."""
        call = dict(zip(_ATTENTION_ARGUMENTS, args, strict=False)) | kwargs
        query, mask, causal = call["query"], call.get("attn_mask"), call.get("is_causal", False)
        if call.get("dropout_p", 0.0) > 0 or call.get("enable_gqa", False) or (causal and mask is not None):
            return None
        scale = call.get("scale")
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        return cls(query, call["key"], call["value"], mask, causal, factor)

    def weights(self) -> Tensor:
        """The softmax over the keys."""
        scores = (self.query @ self.key.transpose(-2, -1)) * self.scale
        mask = self.mask
        if self.causal:
            shape = (self.query.shape[-2], self.key.shape[-2])
            mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask
        return F.softmax(scores, dim=-1)

    def result(self) -> Tensor:
        return self.weights() @ self.value


@cache
def _signature() -> inspect.Signature:
    return inspect.signature(F.multi_head_attention_forward)


class _MultiHead:
    """`multi_head_attention_forward`: projections, heads, attention, the projection of the result."""

    def __init__(self, call: dict[str, Any]) -> None:
        self.call = call
        self.batched = call["query"].dim() == 3

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_MultiHead | None":
        """The call as a value; None where it drops at random, or appends keys of its own."""
        bound = _signature().bind(*args, **kwargs)
        bound.apply_defaults()
        call = bound.arguments
        appended = [call[name] is not None for name in ("bias_k", "bias_v", "static_k", "static_v")]
        random = call["training"] and call["dropout_p"] > 0
        unknown = any(appended) or call["add_zero_attn"] or random
        return None if unknown else cls(call)

    def result(self) -> tuple[Tensor, Tensor | None]:
        """The output (L, N, E) and, where asked for, the attention weights (N, L, S) or (N, heads, L, S)."""
        call = self.call
        query, key, value = (self._heads(tensor) for tensor in self._projected())
        scale = 1 / math.sqrt(query.shape[-1])
        attention = _Attention(query, key, value, self._mask(query), False, scale)
        weights = attention.weights()
        merged = (weights @ value).permute(2, 0, 1, 3).flatten(2)
        output = F.linear(merged, call["out_proj_weight"], call["out_proj_bias"])
        if not self.batched:
            output = output.squeeze(1)
        if not call["need_weights"]:
            return output, None
        if call["average_attn_weights"]:
            weights = weights.mean(dim=1)
        return output, weights if self.batched else weights.squeeze(0)

    def _projected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values after their projections; one projection where they are one tensor."""
        call = self.call
        query, key, value = call["query"], call["key"], call["value"]
        bias = call["in_proj_bias"]
        separate = call["use_separate_proj_weight"]
        if query is key and key is value and not separate:
            parts = F.linear(query, call["in_proj_weight"], bias).chunk(3, dim=-1)
            return cast(tuple[Tensor, Tensor, Tensor], parts)
        weights = (
            (call["q_proj_weight"], call["k_proj_weight"], call["v_proj_weight"])
            if separate
            else call["in_proj_weight"].chunk(3)
        )
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = (
            F.linear(tensor, weight, offset)
            for tensor, weight, offset in zip((query, key, value), weights, biases, strict=True)
        )
        return q, k, v

    def _heads(self, tensor: Tensor) -> Tensor:
        """From (L, N, E), or (L, E) without a batch, to (N, heads, L, E / heads)."""
        if not self.batched:
            tensor = tensor.unsqueeze(1)
        apart: Tensor = tensor.unflatten(-1, (self.call["num_heads"], -1))
        return apart.permute(1, 2, 0, 3)

    def _mask(self, query: Tensor) -> Tensor | None:
        """What is added to the scores, broadcastable to (N, heads, L, S); True leaves a key out here."""
        mask, padding = self.call["attn_mask"], self.call["key_padding_mask"]
        total = None if mask is None else _additive(mask, query)
        if total is not None and total.dim() == 3:
            total = total.unflatten(0, (-1, query.shape[1]))
        if padding is None:
            return total
        rows = _additive(padding, query)
        rows = rows[:, None, None, :] if rows.dim() == 2 else rows
        return rows if total is None else total + rows


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)


def _contraction(args: tuple[Any, ...]) -> Callable[[], Tensor] | None:
    """An einsum of two tensors as permutations, reshapes and one batched matrix product.

    None for ellipses, repeated letters in one term, letters that are summed out of one term alone, the
    sublist form and any other number of tensors.
    """
    operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    equation = args[0].replace(" ", "") if args and isinstance(args[0], str) else ""
    if len(operands) != 2 or "->" not in equation or "." in equation:
        return None
    terms, out = equation.split("->")
    left, right = terms.split(",")
    if any(len(set(term)) != len(term) for term in (left, right, out)):
        return None
    batch = [c for c in out if c in left and c in right]
    contracted = [c for c in left if c in right and c not in out]
    rows, columns = ([c for c in term if c in out and c not in batch] for term in (left, right))
    if len(batch + rows + contracted) != len(left) or len(batch + columns + contracted) != len(right):
        return None

    def result() -> Tensor:
        sizes = dict(zip(left, operands[0].shape, strict=True)) | dict(
            zip(right, operands[1].shape, strict=True)
        )

        def arranged(tensor: Tensor, term: str, groups: tuple[list[str], ...]) -> Tensor:
            order = [term.index(c) for group in groups for c in group]
            shape = [math.prod(sizes[c] for c in group) for group in groups]
            return tensor.permute(order).reshape(shape)

        a = arranged(operands[0], left, (batch, rows, contracted))
        b = arranged(operands[1], right, (batch, contracted, columns))
        product = a @ b if batch else (a[0] @ b[0])
        letters = batch + rows + columns
        return product.reshape([sizes[c] for c in letters]).permute([letters.index(c) for c in out])

    return result
