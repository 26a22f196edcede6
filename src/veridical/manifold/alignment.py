"""How much of a map lies in a tangent space: fraction, split, and the share of each pixel.

Everything is computed in float64, whatever the precision in which relevance and basis are kept. A basis that
was rounded for storage is made orthonormal again before anything is projected on it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Half precision rounds the products of rows to 5e-4; columns of a Jacobian are off by far more.
_ORTHONORMAL, _EXACT = 1e-2, 1e-13
_CHUNK_BYTES = 2**27


@dataclass(frozen=True, eq=False)
class TangentSplit:
    """A map as the sum of its part in the tangent space and the part orthogonal to it.

    Attributes:
        tangent: float64 (N, C, H, W).
        orthogonal: float64 (N, C, H, W).
    """

    tangent: Tensor
    orthogonal: Tensor


def tangent_fraction(relevance: Tensor, basis: Tensor) -> Tensor:
    """The fraction of each map that lies in the tangent space: a ratio of norms, not of their squares.

    ||Q Q^T R|| / ||R|| with the Euclidean norm over all channels and pixels: 1 for a tangent direction, 0 for
    an orthogonal one. Rows of 0 (collapsed directions) take no part. Random directions have the distribution
    of `RandomFraction`.

    Source: Bordt et al. 2023, eq. 1.

    Args:
        relevance: (N, C, H, W), signed and unreduced.
        basis: (N, k, C, H, W), orthonormal rows or rows of 0, in any precision; see `tangent_space`.

    Returns:
        float64 (N,) in [0, 1]; NaN for a map that is 0 everywhere or not finite. Differentiable with respect
        to `relevance`.

    Raises:
        TypeError: if one is no floating point tensor.
        ValueError: if the shapes do not match or the rows are not orthonormal.
    """
    return fraction_by_k(relevance, basis)[:, -1]


def fraction_by_k(relevance: Tensor, basis: Tensor) -> Tensor:
    """The fraction in the space of the first 1, 2, ..., k rows of the basis.

    The rows of `tangent_space` are in the order of falling singular values, so these are the spaces of the
    directions in which the image moves most. The fraction grows with k as that of a random direction does:
    compare with `RandomFraction(j, d)` for each j.

    Args:
        relevance: (N, C, H, W).
        basis: (N, k, C, H, W).

    Returns:
        float64 (N, k), each row non-decreasing; NaN as in `tangent_fraction`.

    Raises:
        TypeError: see `tangent_fraction`.
        ValueError: see `tangent_fraction`.
    """
    return several_by_k([relevance], basis)[0]


def several_by_k(maps: Sequence[Tensor], basis: Tensor) -> Tensor:
    """`fraction_by_k` of M maps of the same images, with the basis prepared once.

    Args:
        maps: M times (N, C, H, W).
        basis: (N, k, C, H, W).

    Returns:
        float64 (M, N, k).

    Raises:
        TypeError: see `tangent_fraction`.
        ValueError: see `tangent_fraction`.
    """
    check_basis(basis)
    for relevance in maps:
        check_pair(relevance, basis)
    parts = [
        torch.stack([_cumulated(relevance[at].flatten(1).to(rows), rows) for relevance in maps])
        for at, rows in orthonormal_parts(basis)
    ]
    return torch.cat(parts, dim=1)


def tangent_split(relevance: Tensor, basis: Tensor) -> TangentSplit:
    """The part of each map in the tangent space and the rest; they sum to the map.

    Source: Bordt et al. 2023, section 4.1 and figure 2.

    Args:
        relevance: (N, C, H, W).
        basis: (N, k, C, H, W).

    Raises:
        TypeError: see `tangent_fraction`.
        ValueError: see `tangent_fraction`.
    """
    check_basis(basis)
    check_pair(relevance, basis)
    parts = []
    for at, rows in orthonormal_parts(basis):
        flat = relevance[at].flatten(1).to(rows)
        parts.append(torch.einsum("nk,nkd->nd", torch.einsum("nkd,nd->nk", rows, flat), rows))
    tangent = torch.cat(parts).view(relevance.shape)
    return TangentSplit(tangent, relevance.to(tangent) - tangent)


def pixel_scores(basis: Tensor) -> Tensor:
    """The squared fraction of each single value of the image in the tangent space: an attribution of its own.

    t_i = sum over rows j of Q_ji^2: how far value i can move alone within the manifold. The scores of an
    image sum to the rank of its space.

    Source: used by the ROAR experiment in the code of Bordt et al. 2023.

    Args:
        basis: (N, k, C, H, W).

    Returns:
        float64 (N, C, H, W) in [0, 1].

    Raises:
        TypeError: see `tangent_fraction`.
        ValueError: see `tangent_fraction`.
    """
    check_basis(basis)
    parts = [rows.square().sum(dim=1) for _, rows in orthonormal_parts(basis)]
    return torch.cat(parts).view(len(basis), *basis.shape[2:])


def basis_rank(basis: Tensor) -> Tensor:
    """LongTensor (N,), the number of rows of (N, k, C, H, W) that are not 0.

    Raises:
        TypeError: see `tangent_fraction`.
        ValueError: if it is no basis (N, k, C, H, W).
    """
    check_basis(basis)
    return basis.detach().flatten(2).any(dim=2).sum(dim=1)


def check_basis(basis: object) -> None:
    """Check that a basis is a floating point tensor (N, k, C, H, W).

    Raises:
        TypeError: if it is no floating point tensor.
        ValueError: if it has another shape.
    """
    if not isinstance(basis, Tensor) or not basis.is_floating_point():
        what = basis.dtype if isinstance(basis, Tensor) else type(basis).__name__
        raise TypeError(f"expected a basis as a floating point tensor, got {what}; see tangent_space")
    if basis.dim() != 5 or basis.numel() == 0:
        raise ValueError(
            f"expected a basis of shape (N, k, C, H, W), got {tuple(basis.shape)}; see tangent_space"
        )


def check_pair(relevance: object, basis: Tensor) -> None:
    """Check that relevance has the shape of the images of a basis.

    Raises:
        TypeError: if it is no floating point tensor.
        ValueError: if it has another shape.
    """
    if not isinstance(relevance, Tensor) or not relevance.is_floating_point():
        what = relevance.dtype if isinstance(relevance, Tensor) else type(relevance).__name__
        raise TypeError(f"expected relevance as a floating point tensor, got {what}; convert it")
    expected = (len(basis), *basis.shape[2:])
    if relevance.shape != expected:
        raise ValueError(
            f"expected relevance of shape {tuple(expected)} for a basis of shape {tuple(basis.shape)}, got "
            f"{tuple(relevance.shape)}; give signed maps with all channels, of the basis's size"
        )


def orthonormal_parts(basis: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a few images at a time (n, k, d), float64, orthonormal or 0.

    Rows that are orthonormal but for rounding are made so by Gram-Schmidt: the spaces of the first j rows are
    those that were given.

    Raises:
        ValueError: if rows are further from orthonormal than rounding to half precision leaves them.
    """
    size = max(1, _CHUNK_BYTES // (8 * math.prod(basis.shape[1:])))
    for begin in range(0, len(basis), size):
        at = slice(begin, begin + size)
        rows = basis[at].detach().flatten(2).double()
        gram = rows @ rows.mT
        ideal = torch.diag_embed((gram.diagonal(dim1=1, dim2=2) > 0).double())
        error = float((gram - ideal).abs().amax())
        if not error <= _ORTHONORMAL:
            raise ValueError(
                f"expected orthonormal rows (or rows of 0), got products that are off by {error:.3g}; make a "
                "basis of the columns of a Jacobian with tangent_space or orthonormal_rows"
            )
        if error > _EXACT:
            empty = torch.diag_embed((ideal.diagonal(dim1=1, dim2=2) == 0).double())
            rows = torch.linalg.solve_triangular(torch.linalg.cholesky(gram + empty), rows, upper=False)
        yield at, rows


def _cumulated(flat: Tensor, rows: Tensor) -> Tensor:
    """Fractions (n, k) of maps (n, d) in the spaces of the first 1 to k rows."""
    # The scale keeps squares of very large or very small relevance within the range of numbers.
    flat = flat / flat.detach().abs().amax(dim=1, keepdim=True)
    coefficients = torch.einsum("nkd,nd->nk", rows, flat)
    squares = coefficients.square().cumsum(dim=1) / flat.square().sum(dim=1, keepdim=True)
    return squares.clamp(max=1).sqrt()
