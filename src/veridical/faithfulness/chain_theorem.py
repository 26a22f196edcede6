"""Theorem 1 of Sixt et al. 2020: products of non-negative matrices, conditions, rate, and what is true."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from veridical.faithfulness.chains import row_complements


@dataclass(frozen=True, eq=False)
class ChainConditions:
    """What theorem 1 asks of the matrices A_1, ..., A_n, each (rows, columns).

    Attributes:
        non_negative: bool (n,), no entry is below 0.
        column_norm: float64 (n,), the smallest Euclidean norm of a column; its minimum is epsilon_0.
        column_sum: float64 (n,), the largest L1 norm of a column; its maximum is L.
        inner_product: float64 (n,), the smallest <a, b> of two columns; infinite for a single column.
        spread: float64 (n,), the largest (a_k / b_k) (b_l / a_l) over columns a, b and rows k, l, the
            exponential of Hilbert's diameter; infinite unless all entries are positive.
        rows: LongTensor (n,).
    """

    non_negative: Tensor
    column_norm: Tensor
    column_sum: Tensor
    inner_product: Tensor
    spread: Tensor
    rows: Tensor

    @property
    def holds(self) -> bool:
        """Whether these matrices may occur in the sequence: non-negative, finite, without a zero column."""
        usable = self.non_negative & (self.column_norm > 0) & self.column_sum.isfinite()
        return bool(usable.all())

    @property
    def members(self) -> Tensor:
        """Bool (n,), the set I of matrices whose columns all have positive inner products."""
        return self.inner_product > 0

    @property
    def rate(self) -> float:
        """The paper's lambda = min <a, b> / max ||a||_1^2, the minimum over the set I; 0 where I is empty."""
        inside = self.inner_product[self.members & self.inner_product.isfinite()]
        return float(inside.min() / self.column_sum.max() ** 2) if len(inside) else 0.0

    @property
    def positive_rate(self) -> float:
        """1 / (K R), K the largest number of rows and R the largest spread: a rate for positive matrices.

        With it 1 - s_n <= (1 - rate)^n (1 - s_0) holds whatever the lengths of the columns of the product,
        see docs/convergence.md. 0 where an entry of any matrix is 0.
        """
        return float(1 / (self.rows.max() * self.spread.max()))


@dataclass(frozen=True, eq=False)
class ConeConvergence:
    """How the cone of the columns of M_n = A_1 ... A_n narrows, M_0 the identity.

    All are float64 (n + 1,), and one minus a cosine: of the largest angle between two columns.

    Attributes:
        measured: 1 - s_n.
        stated: (1 - lambda)^|I_n| (1 - s_0), the bound that the paper derives, I_n those of the first n
            matrices that are in I. Its proof takes all columns of M_n for unit vectors, which they are not,
            so that it can be violated.
        proven: the product of 1 - lambda_i times (1 - s_0), lambda_i = min <D a, D b> / (||D a||_1 ||D b||_1)
            over the columns of A_i, D the lengths of the columns of M_(i - 1). The same proof with these
            lengths; a bound for any non-negative matrices without zero columns.
        conditions: of the matrices.
    """

    measured: Tensor
    stated: Tensor
    proven: Tensor
    conditions: ChainConditions


def chain_conditions(matrices: Sequence[Tensor]) -> ChainConditions:
    """Check the conditions of theorem 1 of Sixt et al. 2020 (appendix A).

    A finite chain cannot tell whether infinitely many matrices of a sequence are in the set I, only how many
    of these are.

    Args:
        matrices: A_1 (a, b), A_2 (b, c), ...

    Raises:
        ValueError: if there are none, or they cannot be multiplied.
    """
    shapes = [tuple(matrix.shape) for matrix in matrices]
    flat = [len(shape) == 2 and min(shape) > 0 for shape in shapes]
    if not shapes or not all(flat) or any(left[1] != right[0] for left, right in pairwise(shapes)):
        raise ValueError(
            f"expected matrices (a, b), (b, c), ..., got shapes {shapes}; they are multiplied in this order"
        )
    wide = [matrix.detach().to("cpu", torch.float64) for matrix in matrices]
    return ChainConditions(
        non_negative=torch.stack([(matrix >= 0).all() for matrix in wide]),
        column_norm=torch.stack([torch.linalg.vector_norm(matrix, dim=0).min() for matrix in wide]),
        column_sum=torch.stack([matrix.abs().sum(dim=0).max() for matrix in wide]),
        inner_product=torch.stack([_pairs(matrix.T @ matrix).min() for matrix in wide]),
        spread=torch.stack([_spread(matrix) for matrix in wide]),
        rows=torch.tensor([shape[0] for shape in shapes]),
    )


def cone_convergence(matrices: Sequence[Tensor]) -> ConeConvergence:
    """The smallest cosine between columns of the product after each matrix, and its bounds.

    1 - s_n is computed without cancellation, and the columns are scaled, so that chains may be long.

    Source: Sixt et al. 2020, theorem 1, equations 19 to 27 and appendix B.

    Args:
        matrices: A_1 (a, b), A_2 (b, c), ..., non-negative, no column zero.

    Raises:
        ValueError: if the conditions under which s_n is defined and cannot decrease do not hold.
    """
    conditions = chain_conditions(matrices)
    if not conditions.holds:
        raise ValueError(
            "expected finite non-negative matrices without a zero column, got some that are not "
            f"(non-negative: {conditions.non_negative.tolist()}, smallest column norms: "
            f"{conditions.column_norm.tolist()}); leave these out, or take their absolute values"
        )
    product = torch.eye(int(matrices[0].shape[0]), dtype=torch.float64)
    measured, factors = [_widest(product)], [torch.ones((), dtype=torch.float64)]
    for matrix in matrices:
        wide = matrix.detach().to("cpu", torch.float64)
        factors.append(1 - _overlap(wide * torch.linalg.vector_norm(product, dim=0)[:, None]))
        product = product @ wide
        product = product / product.max()
        measured.append(_widest(product))
    counted = torch.cat([torch.zeros(1), conditions.members.cumsum(0)])
    stated = (1 - conditions.rate) ** counted.double() * measured[0]
    proven = torch.stack(factors).cumprod(0) * measured[0]
    return ConeConvergence(torch.stack(measured), stated, proven, conditions)


def _pairs(square: Tensor) -> Tensor:
    """The entries i > j; infinity where there are none."""
    first, second = torch.tril_indices(len(square), len(square), offset=-1)
    return square[first, second] if len(first) else square.new_full((1,), float("inf"))


def _widest(product: Tensor) -> Tensor:
    """1 - cosine of the largest angle between two columns; 0 for a single column."""
    return row_complements(product.T).max() if product.shape[1] > 1 else product.new_zeros(())


def _overlap(matrix: Tensor) -> Tensor:
    """The smallest <a, b> / (||a||_1 ||b||_1) over two columns; 1 for a single one."""
    shares = matrix / matrix.sum(dim=0)
    return _pairs(shares.T @ shares).min().clamp(max=1)


def _spread(matrix: Tensor) -> Tensor:
    """The largest ratio between a ratio of two columns and the same of another row."""
    if not (matrix > 0).all():
        return matrix.new_full((), float("inf"))
    ratios = matrix.log()[:, :, None] - matrix.log()[:, None, :]
    return (ratios.amax(dim=0) - ratios.amin(dim=0)).max().exp()
