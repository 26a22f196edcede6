"""Eigenvalues of largest magnitude of many symmetric operators at once, by the Lanczos iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""v (N, d) -> A v (N, d), one symmetric A for each image."""

_EVERY = 4


@dataclass(frozen=True, eq=False)
class EigenPairs:
    """Approximate eigenpairs.

    Attributes:
        values: float64 (N, k), in the order of falling magnitude.
        vectors: (N, k, d), of length 1.
        residuals: float64 (N, k), ||A v - value v||: an eigenvalue of A lies that near.
        steps: LongTensor (N,), the products after which the iteration stopped for the image.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    steps: Tensor


def largest_eigenpairs(
    product: Product, fixed: Tensor, top: int, steps: int, tolerance: float, seed: int
) -> EigenPairs:
    """Eigenpairs of largest magnitude on the complement of `fixed`, with full reorthogonalization.

    The iteration of an image stops where the residuals of its `top` pairs are at most `tolerance` times its
    largest magnitude; the others go on, so that an image's result does not depend on its batch. Where the
    Krylov space closes early (repeated eigenvalues, low rank) it goes on from a new random direction, and
    all steps are taken: after d - 1 of them every eigenvalue is there with its multiplicity.

    Args:
        product: v -> A v.
        fixed: (N, d), a vector of length 1 (or zeros) for each image, in the kernel of A.
        top: k.
        steps: most products before the residuals are measured.
        tolerance: of the relative residual.
        seed: of the start vectors, the same for every image.
    """
    run = _Iteration(product, fixed, top, min(steps, fixed.shape[1] - 1), seed)
    for step in range(run.size):
        run.advance(step)
        done = step + 1
        if done == run.size or (done >= top and done % _EVERY == 0):
            run.collect(done, tolerance)
        if not bool(run.active.any()):
            break
    vectors = torch.einsum("nkm,nmd->nkd", run.shares.to(fixed.dtype), run.basis[:, 1:])
    vectors = vectors / vectors.norm(dim=2, keepdim=True)
    images = [product(vectors[:, index]) for index in range(top)]
    values = torch.stack([(vectors[:, i] * images[i]).double().sum(dim=1) for i in range(top)], dim=1)
    rest = [images[i].double() - values[:, i, None] * vectors[:, i].double() for i in range(top)]
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    residuals = torch.stack([item.norm(dim=1) for item in rest], dim=1)
    return EigenPairs(
        values.gather(1, order),
        vectors.gather(1, order[..., None].expand_as(vectors)),
        residuals.gather(1, order),
        run.steps,
    )


class _Iteration:
    """The basis, the tridiagonal matrices, and what was collected for each image."""

    def __init__(self, product: Product, fixed: Tensor, top: int, size: int, seed: int) -> None:
        count, length = fixed.shape
        self.product, self.top, self.size, self.seed = product, top, size, seed
        self.basis = fixed.new_zeros(count, size + 1, length)  # row 0 is `fixed`
        self.basis[:, 0] = fixed
        self.basis[:, 1] = self._fresh(0)
        self.matrix = torch.zeros(count, size, size, dtype=torch.float64, device=fixed.device)
        self.link = torch.zeros(count, dtype=torch.float64, device=fixed.device)
        self.scale = torch.zeros_like(self.link)
        self.closed = torch.zeros(count, dtype=torch.bool, device=fixed.device)
        self.active = ~self.closed
        self.shares = self.matrix.new_zeros(count, top, size)
        self.steps = torch.zeros(count, dtype=torch.long, device=fixed.device)

    def advance(self, step: int) -> None:
        """One product, and the next row of the basis."""
        row = self.basis[:, step + 1]
        image = self.product(row)
        diagonal = (row * image).double().sum(dim=1)
        self.matrix[:, step, step] = diagonal
        rest = self._orthogonal(image, step + 1)
        self.link = rest.double().norm(dim=1)
        self.scale = torch.maximum(self.scale, torch.maximum(diagonal.abs(), self.link))
        ended = self.link <= 1000 * torch.finfo(row.dtype).eps * self.scale
        self.link = torch.where(ended, 0.0, self.link)
        self.closed |= ended
        if step + 1 == self.size:
            return
        unit = rest / torch.where(ended, 1.0, self.link)[:, None].to(rest.dtype)
        if bool(ended.any()):
            unit = torch.where(ended[:, None], self._fresh(step + 1), unit)
        self.basis[:, step + 2] = unit
        self.matrix[:, step, step + 1] = self.matrix[:, step + 1, step] = self.link

    def collect(self, done: int, tolerance: float) -> None:
        """Keep the pairs of the images that are ready, or of all that are left at the end."""
        values, vectors = torch.linalg.eigh(self.matrix[:, :done, :done])
        order = values.abs().argsort(dim=1, descending=True)[:, : self.top]
        shares = vectors.gather(2, order[:, None].expand(-1, done, -1)).mT
        estimate = (self.link[:, None] * shares[:, :, -1].abs()).amax(dim=1)
        ready = (estimate <= tolerance * values.abs().amax(dim=1)) & ~self.closed
        ready = self.active & (ready | (done == self.size))
        self.shares[..., :done] = torch.where(ready[:, None, None], shares, self.shares[..., :done])
        self.steps = torch.where(ready, done, self.steps)
        self.active = self.active & ~ready

    def _orthogonal(self, vectors: Tensor, rows: int) -> Tensor:
        """Without their parts in the first rows of the basis and in `fixed`; twice is enough."""
        basis = self.basis[:, : rows + 1]
        for _ in range(2):
            inside = torch.bmm(basis, vectors[:, :, None])
            vectors = vectors - torch.bmm(basis.mT, inside)[:, :, 0]
        return vectors

    def _fresh(self, rows: int) -> Tensor:
        """A random direction of length 1, orthogonal to the basis so far; the same draw for every image."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + rows)
        count, _, length = self.basis.shape
        drawn = torch.randn(length, generator=generator, dtype=torch.float64)
        start = drawn.to(self.basis).expand(count, -1)
        start = self._orthogonal(start / start.norm(dim=1, keepdim=True), rows)
        start = self._orthogonal(start / start.norm(dim=1, keepdim=True), rows)
        unit: Tensor = start / start.norm(dim=1, keepdim=True)
        return unit
