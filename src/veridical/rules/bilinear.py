"""Rules for products of two values, attention and normalization: what affine rules do not say.

Two published answers to the question who receives the relevance of a product, chosen by `gates`:

- "constant": conservative propagation (Ali et al. 2022, section 4: attention weights and the standard
  deviation of a LayerNorm count as constants) and "signal takes all" (Arras et al. 2017, 2019: a gate directs
  the flow, the signal is what flows). Results of softmax, sigmoid and hardsigmoid are gates and receive
  nothing; the other operand receives all.
- "uniform": AttnLRP (Achtibat et al. 2024, section 3): both operands of a product receive half, and the
  softmax hands its half on by its Taylor rule.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from veridical.rules.catalog import pass_through
from veridical.rules.operations import DIVISIONS, Operation
from veridical.rules.ruleset import Rule
from veridical.tensors import safe_divide, summed_to

Gates = Literal["constant", "uniform"]
"""Who receives the relevance of a product with a gate (a result of softmax, sigmoid or hardsigmoid): the
other operand alone, or both in equal parts."""


def proportional_bilinear(gates: Gates, epsilon: float = 0.0) -> dict[str, Rule]:
    """The rules of the z and epsilon family for the kinds product, matmul, softmax and normalization.

    Args:
        gates: who receives the relevance of a product with a gate.
        epsilon: stabilizes the denominators of matmul and normalization; 0 for the z rule.
    """
    return {
        "product": shared_product(gates),
        "matmul": proportional_matmul(gates, epsilon),
        "softmax": taylor_softmax,
        "normalization": proportional_normalization(epsilon),
    }


def signed_bilinear(gates: Gates, alpha: float, beta: float) -> dict[str, Rule]:
    """The rules of the alpha-beta family for the kinds product, matmul, softmax and normalization.

    Args:
        gates: who receives the relevance of a product with a gate.
        alpha: weight of the positive products of a matmul.
        beta: weight of the negative ones.
    """
    return {
        "product": shared_product(gates),
        "matmul": signed_matmul(gates, alpha, beta),
        "softmax": taylor_softmax,
        "normalization": identity_normalization,
    }


# --- products -----------------------------------------------------------------------------------------------


def shared_product(gates: Gates) -> Rule:
    """The rule of a * b, value by value: R to the signal, or R / 2 to each operand; never divided by values.

    A division hands all its relevance to the dividend, as every normalization here (Achtibat et al. 2024,
    proposition 3.4).
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        shares = [1.0] if len(operation.inputs) == 1 else _shares(operation, gates)
        return tuple(
            share * summed_to(relevance[0], x.shape)
            for share, x in zip(shares, operation.inputs, strict=True)
        )

    rule.__doc__ = (
        "R to the operand that is no gate, R / 2 to each of two equals."
        if gates == "constant"
        else "R / 2 to each operand."
    )
    return rule


def proportional_matmul(gates: Gates, epsilon: float = 0.0) -> Rule:
    """The rule of y = A B: shares of the products A_ik B_kj in y_ij + epsilon sign(y_ij).

    R_A = p A * ((R / y) B^T) and R_B = q B * (A^T (R / y)) with p = q = 1/2 (Achtibat et al. 2024,
    proposition 3.3), or p = 0, q = 1 where A alone is a gate (Ali et al. 2022).
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        y = operation.value
        scaled = safe_divide(relevance[0], y, epsilon)
        back = operation.adjoint([scaled])
        shares = _shares(operation, gates)
        return tuple(share * x * r for share, x, r in zip(shares, operation.values, back, strict=True))

    rule.__doc__ = f"R_A = p A ((R / y) B^T), R_B = q B (A^T (R / y)); p, q by the option gates: {gates}."
    return rule


def signed_matmul(gates: Gates, alpha: float, beta: float) -> Rule:
    """The rule of y = A B: alpha times the share of the positive products minus beta times the negative.

    With A the result of a softmax and `gates` "constant" it is the alpha-beta rule of a linear layer whose
    weights are A: for alpha 1, beta 0: R_B = B+ * (A^T (R / (A B+))).
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        operands = _operands(operation)
        left, right = (tensor for tensor, _ in operands)
        shares = _shares(operation, gates)
        result = [torch.zeros_like(x).expand(relevance[0].shape[0], *x.shape) for x in operation.inputs]
        for sign, weight in ((1, alpha), (-1, -beta)):
            if not weight:
                continue
            parts = _signed_parts(left, right, relevance[0], sign)
            for (_, place), part in zip(operands, parts, strict=True):
                if place is not None and shares[place]:
                    result[place] = result[place] + weight * shares[place] * part
        return tuple(result)

    rule.__doc__ = f"{alpha:g} times the share of the positive products minus {beta:g} times the negative."
    return rule


def _signed_parts(left: Tensor, right: Tensor, relevance: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Relevance of both operands in proportion to the products of one sign."""
    above, below = left.clamp(min=0), left.clamp(max=0)
    straight, crossed = (right.clamp(min=0), right.clamp(max=0))[:: 1 if sign > 0 else -1]
    scaled = safe_divide(relevance, above @ straight + below @ crossed)
    to_left = above * summed_to(scaled @ straight.mT, left.shape)
    to_left = to_left + below * summed_to(scaled @ crossed.mT, left.shape)
    to_right = straight * summed_to(above.mT @ scaled, right.shape)
    return to_left, to_right + crossed * summed_to(below.mT @ scaled, right.shape)


def _operands(operation: Operation) -> list[tuple[Tensor, int | None]]:
    """Left and right operand of a matrix product, each with its place among the inputs (constants: None)."""
    tensors = [item for item in (*operation.args, *operation.kwargs.values()) if isinstance(item, Tensor)]
    if len(tensors) != 2 or any(tensor.dim() < 2 for tensor in tensors):
        raise ValueError(
            f"expected a product of two matrices or stacks of matrices, got {operation.describe()} of shapes "
            f"{[tuple(tensor.shape) for tensor in tensors]}; add the missing dimension with unsqueeze"
        )
    places = {id(tensor): place for place, tensor in enumerate(operation.inputs)}
    found = [(tensor, places.get(id(tensor))) for tensor in tensors]
    result = [(tensor if place is None else operation.values[place], place) for tensor, place in found]
    return result[::-1] if operation.base == "__rmatmul__" else result


def _shares(operation: Operation, gates: Gates) -> list[float]:
    """What part of the relevance each input of a product receives."""
    if len(operation.inputs) == 1:
        return [1 / operation.counts[0]]  # x @ x: both operands report to one input
    if operation.base in DIVISIONS:
        return [1.0, 0.0]
    if gates == "constant" and any(operation.gates) and not all(operation.gates):
        return [0.0 if gate else 1.0 for gate in operation.gates]
    return [0.5, 0.5]


# --- softmax ------------------------------------------------------------------------------------------------


def taylor_softmax(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """R_i = x_i (R_i - s_i sum_j R_j), s = softmax(x) (Achtibat et al. 2024, proposition 3.1).

    Nothing where nothing arrives, as behind a product whose gate it is. Masked values (minus infinity)
    receive nothing.
    """
    x, s, r = operation.values[0], operation.value, relevance[0]
    dim = operation.kwargs.get("dim", operation.args[1] if len(operation.args) > 1 else None)
    if not isinstance(dim, int):
        raise ValueError(f"expected the dimension of a softmax, got {dim} in {operation.describe()}")
    total = r.sum(dim if dim < 0 else dim + 1, keepdim=True)
    return (x.masked_fill(x.isinf(), 0.0) * (r - s * total),)


# --- normalization ------------------------------------------------------------------------------------------


def identity_normalization(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """R_in = R: mean and standard deviation count as constants (Achtibat et al. 2024, proposition 3.4)."""
    return pass_through(operation, relevance)


def proportional_normalization(epsilon: float = 0.0) -> Rule:
    """The z or epsilon rule of a normalization whose standard deviation s counts as a constant.

    y = W x / s + b with W = diag(w) (I - 1 1^T / D), the subtraction of the mean over D values: linear, and
    treated as that; b absorbs its share. R_in = x W^T (R / (s y)) (Ali et al. 2022, equation 8, there without
    w and b). Root-mean-square normalization has no mean. Local response normalization: R_in = R.
    """

    def rule(operation: Operation, relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if operation.base == "local_response_norm":
            return pass_through(operation, relevance)
        x, y = operation.values[0], operation.value
        weight, eps, shape, axes = _normalization(operation)
        scaled = safe_divide(relevance[0], y, epsilon)
        back = (scaled if weight is None else scaled * weight).reshape(-1, *shape)
        grouped = x.reshape(shape)
        if operation.base == "rms_norm":
            back = back * torch.rsqrt(grouped.square().mean(axes, keepdim=True) + eps)
        else:
            back = back * torch.rsqrt(grouped.var(axes, correction=0, keepdim=True) + eps)
            back = back - back.mean(axes, keepdim=True)
        return (x * back.reshape(relevance[0].shape),)

    rule.__doc__ = (
        "R_in = x W^T (R / (s y)), the standard deviation s a constant, the mean's subtraction in W."
    )
    return rule


_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "instance_norm": (
        "input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps",
    ),
}  # fmt: skip


def _normalization(operation: Operation) -> tuple[Tensor | None, float, tuple[int, ...], tuple[int, ...]]:
    """Weight, broadcastable to the input; eps; the input's shape with groups apart; the axes of a mean."""
    x = operation.inputs[0]
    values: dict[str, Any] = dict(zip(_ARGUMENTS[operation.base], operation.args, strict=False))
    values |= operation.kwargs
    weight, eps = values.get("weight"), values.get("eps")
    shape = tuple(x.shape)
    if "normalized_shape" in values:
        axes = tuple(range(-len(values["normalized_shape"]), 0))
        return weight, torch.finfo(x.dtype).eps if eps is None else eps, shape, axes
    if not values.get("use_input_stats", True):
        raise ValueError(
            f"expected instance normalization by each image's own statistics, got {operation.describe()}"
        )
    if weight is not None:
        weight = weight.reshape(-1, *[1] * (x.dim() - 2))
    if "num_groups" in values:
        groups = values["num_groups"]
        shape = (shape[0], groups, shape[1] // groups, *shape[2:])
    return weight, 1e-5 if eps is None else eps, shape, tuple(range(2 - len(shape), 0))
