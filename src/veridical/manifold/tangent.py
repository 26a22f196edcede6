"""Tangent spaces of an image manifold: orthonormal bases of the range of a decoder's Jacobian."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from veridical.checks import check_choice
from veridical.manifold.decoding import Decoder, Derivative, Prepared, prepare, warn_outside_prior

Prior = Literal["decoder", "normal", "none"]
"""What latents are checked against: the decoder's own attribute `prior`, a standard normal, or nothing."""

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

# Of the float64 copies of one image's Jacobian that live at one time: itself, Q, Q U and scratch of LAPACK.
_COPIES = 5


@dataclass(frozen=True)
class TangentSettings:
    """How tangent spaces are computed.

    Attributes:
        dtype: of the decoder's arithmetic; None for float64 where it is a module (its weights are converted
            on the side), and for the dtype of the latents where it is any other callable. The basis is always
            computed in float64.
        tolerance: directions whose singular value is at most this share of the image's largest one count as
            collapsed. None for 1024 times the machine epsilon of the decoder's arithmetic: 2.3e-13 in
            float64, 1.2e-4 in float32. `scipy.linalg.orth`, which Bordt et al. used, takes d times epsilon.
        max_bytes: of the tensors that one chunk of images makes, inside the decoder too; scratch memory
            inside of a single operation and the result come on top.
        prior: what latents are checked against; those outside are warned of.
    """

    dtype: torch.dtype | None = None
    tolerance: float | None = None
    max_bytes: int = 2**28
    prior: Prior = "decoder"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TypeError: if the dtype is not floating point.
            ValueError: if a number is out of range or the prior unknown.
        """
        if self.dtype is not None and not self.dtype.is_floating_point:
            raise TypeError(f"expected a floating point dtype, got {self.dtype}; take torch.float64")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ValueError(f"expected a tolerance between 0 and 1, got {self.tolerance}; 1e-12 is usual")
        if self.max_bytes < 1:
            raise ValueError(f"expected max_bytes of at least 1, got {self.max_bytes}; 2**28 is usual")
        check_choice("prior", self.prior, get_args(Prior))

    def tolerance_for(self, dtype: torch.dtype) -> float:
        """The relative tolerance for a decoder that computes in that dtype."""
        return 1024 * torch.finfo(dtype).eps if self.tolerance is None else self.tolerance


@dataclass(frozen=True, eq=False)
class TangentSpaces:
    """The tangent spaces of N images with d = C H W values on a manifold with k latent values.

    Attributes:
        basis: float64 (N, k, C, H, W); orthonormal rows in the order of falling singular values. The rows of
            collapsed directions, always the last ones, are 0, so that nothing is projected on them.
        rank: LongTensor (N,), the number of rows that are not 0.
        singular_values: float64 (N, k) of the Jacobian, falling; those of collapsed directions included.
        latent_norms: float64 (N, k), how far the image moves with each latent value: norms of the columns of
            the Jacobian, in the order of the latent.
        images: (N, C, H, W), the decoded images, at which the spaces are taken.
        derivative: "forward" or, for decoders without forward mode, "reverse".
        dtype: of the decoder's arithmetic.
        settings: how they were computed.
    """

    basis: Tensor
    rank: Tensor
    singular_values: Tensor
    latent_norms: Tensor
    images: Tensor
    derivative: Derivative
    dtype: torch.dtype
    settings: TangentSettings

    def __len__(self) -> int:
        """N."""
        return len(self.basis)

    @property
    def collapsed(self) -> Tensor:
        """LongTensor (N,), the number of collapsed directions, whose rows are 0."""
        return self.basis.shape[1] - self.rank

    def collapsed_latents(self, share: float = 0.02) -> list[int]:
        """Latent values that hardly move any image: median norm below `share` of that of the strongest one.

        They may still be directions of full rank: a basis counts the weakest as fully as the strongest.
        """
        return collapsed_latents(self.latent_norms, share)


def collapsed_latents(norms: Tensor, share: float = 0.02) -> list[int]:
    """Indices of latent values whose median norm (over N, of (N, k)) is below `share` of the largest median.

    Raises:
        ValueError: if the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share between 0 and 1, got {share}; 0.02 is usual")
    median = norms.median(dim=0).values
    return [int(index) for index in (median < share * median.max()).nonzero().flatten()]


def tangent_space(
    decoder: Decoder, z: Tensor, *, progress: Progress | None = None, **settings: Any
) -> Tensor:
    """Orthonormal basis (N, k, C, H, W) of the decoder's tangent space at each latent, float64.

    The same as `tangent_spaces(...).basis`; rows of collapsed directions are 0.

    Args:
        decoder: any callable z -> x that treats its images one by one.
        z: latents (N, k), or (N, ...) with k values each.
        progress: called with images done and images in all.
        settings: fields of `TangentSettings`: dtype, tolerance, max_bytes, prior.

    Raises:
        TypeError: see `tangent_spaces`.
        ValueError: see `tangent_spaces`.
    """
    return tangent_spaces(decoder, z, progress=progress, **settings).basis


def tangent_spaces(
    decoder: Decoder, z: Tensor, *, progress: Progress | None = None, **settings: Any
) -> TangentSpaces:
    """Tangent spaces with ranks, singular values and the decoded images.

    J = d decode / d z by forward mode, one column for each of the k latent values instead of one backward
    pass for each of the d values of the image; J = Q R, R = U S V^T, and the basis is Q U.

    Source: Bordt et al. 2023, section 3.2; their code back-propagates once for each value of the image and
    calls `scipy.linalg.orth` on the result, in float32.

    Args:
        decoder: any callable z -> x that treats its images one by one. A module is left as it was.
        z: latents (N, k), or (N, ...) with k values each.
        progress: called with images done and images in all.
        settings: fields of `TangentSettings`: dtype, tolerance, max_bytes, prior.

    Returns:
        One space for each latent.

    Raises:
        TypeError: if something is of the wrong type or a setting does not exist.
        ValueError: if the decoder is coupled over the batch, not deterministic or without derivative, its
            images have different sizes or are not finite, k >= d, or `max_bytes` is too small.
    """
    parts = list(tangent_chunks(decoder, z, TangentSettings(**settings), progress=progress))
    return parts[0] if len(parts) == 1 else _joined(parts)


def tangent_chunks(
    decoder: Decoder,
    z: Tensor,
    settings: TangentSettings,
    *,
    progress: Progress | None = None,
    images: int | None = None,
) -> Iterator[TangentSpaces]:
    """The same, as many images at a time as `max_bytes` allows: for results that do not fit into memory.

    Args:
        decoder: see `tangent_spaces`, as for all that is not listed.
        z: latents.
        settings: the choices.
        progress: called with images done and images in all.
        images: upper bound of the images in one chunk.

    Yields:
        Spaces of consecutive images.

    Raises:
        ValueError: see `tangent_spaces`.
    """
    prepared = prepare(decoder, z, settings.dtype)
    check_prior(decoder, z, settings)
    fitting, block = chunk_sizes(prepared, z[0].numel(), settings.max_bytes)
    done = 0
    for part in z.detach().split(min(fitting, images or fitting)):
        yield _chunk(prepared, part, block, settings)
        done += len(part)
        if progress is not None:
            progress(done, len(z))


def check_prior(decoder: Decoder, z: Tensor, settings: TangentSettings) -> None:
    """Warn of latents outside the prior that the settings, or the decoder itself, name."""
    own = str(getattr(decoder, "prior", "none"))
    if (own if settings.prior == "decoder" else settings.prior) == "normal":
        warn_outside_prior(z)


def chunk_sizes(prepared: Prepared, directions: int, max_bytes: int) -> tuple[int, int]:
    """How many images make one chunk, and how many directions go through the decoder at a time.

    Raises:
        ValueError: if not even one direction of one image fits.
    """
    least = least_bytes(prepared, directions)
    if max_bytes < least:
        raise ValueError(
            f"expected max_bytes of at least {least}, what one image of {prepared.shape} with "
            f"k = {directions} needs, got {max_bytes}; raise it (on the command line --memory-gib to "
            f"{math.ceil(100 * least / 2**30) / 100:g}), or take fewer latent values"
        )
    matrices = least - prepared.image_bytes
    whole = matrices + directions * prepared.image_bytes
    if whole <= max_bytes:
        return max_bytes // whole, directions
    return 1, (max_bytes - matrices) // prepared.image_bytes


def least_bytes(prepared: Prepared, directions: int) -> int:
    """The smallest `max_bytes` that does for one image: five float64 matrices k x d, and one direction."""
    return _COPIES * 8 * directions * math.prod(prepared.shape) + prepared.image_bytes


def _chunk(prepared: Prepared, z: Tensor, block: int, settings: TangentSettings) -> TangentSpaces:
    images, jacobian = prepared.jacobian(z, block)
    matrix = jacobian.flatten(2).double()
    finite = torch.isfinite(matrix).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"expected a finite Jacobian, got NaN or infinity at latent(s) {bad[:10]} of a chunk of "
            f"{len(z)}; look for a square root or a division at 0 in the decoder"
        )
    rows, values, rank = orthonormal_rows(matrix, settings.tolerance_for(prepared.dtype))
    return TangentSpaces(
        basis=rows.view(len(z), -1, *prepared.shape),
        rank=rank,
        singular_values=values,
        latent_norms=matrix.norm(dim=2),
        images=images,
        derivative=prepared.derivative,
        dtype=prepared.dtype,
        settings=settings,
    )


def orthonormal_rows(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal bases of the row spaces of matrices (n, k, d) with k < d.

    Args:
        matrix: float64 (n, k, d), finite.
        tolerance: rows with a singular value of at most this share of the largest are set to 0.

    Returns:
        Rows (n, k, d) in the order of falling singular values, those values (n, k), and the rank (n,). The
        sign of each row makes its largest coefficient in the rows of `matrix` positive.
    """
    q, r = torch.linalg.qr(matrix.mT)
    u, values, vh = torch.linalg.svd(r)
    leading = vh.gather(2, vh.abs().argmax(dim=2, keepdim=True))
    keep = values > tolerance * values[:, :1]
    signs = torch.where(leading[..., 0] < 0, -1.0, 1.0) * keep
    return (q @ u).mT * signs[..., None], values, keep.sum(dim=1)


def _joined(parts: list[TangentSpaces]) -> TangentSpaces:
    """Chunks as one; each part's tensors are let go as they are copied."""
    tensors = {
        item.name: torch.cat([getattr(part, item.name) for part in parts])
        for item in fields(TangentSpaces)
        if isinstance(getattr(parts[0], item.name), Tensor)
    }
    return TangentSpaces(
        **tensors, derivative=parts[0].derivative, dtype=parts[0].dtype, settings=parts[0].settings
    )
