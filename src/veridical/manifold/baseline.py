"""The fraction of a random direction in a tangent space: its exact distribution, not only sqrt(k / d)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln
from scipy.stats import beta
from torch import Tensor


@dataclass(frozen=True)
class RandomFraction:
    """The fraction of an isotropic random vector of R^d in any subspace of dimension r.

    Its square is the share of r of d squared independent normal values, and has the distribution
    Beta(r / 2, (d - r) / 2). Bordt et al. 2023, section 3.3, give the approximation sqrt(r / d), which is
    larger than the mean: 0.0988 instead of 0.0964 for r = 10, d = 1024.

    Args:
        rank: r, the dimension of the subspace; collapsed directions do not count.
        dimension: d, the number of values of an image, all channels.

    >>> RandomFraction(10, 1024)
    RandomFraction(rank=10, dimension=1024)
    >>> round(RandomFraction(10, 1024).mean, 4), round(RandomFraction(10, 1024).std, 4)
    (0.0964, 0.0217)
    """

    rank: int
    dimension: int

    def __post_init__(self) -> None:
        """Check the dimensions.

        Raises:
            ValueError: if they are no dimensions of a subspace and its space.
        """
        if not 0 <= self.rank <= self.dimension or self.dimension < 1:
            raise ValueError(
                f"expected a rank from 0 to the dimension, got {self.rank} and {self.dimension}; the "
                "dimension is C x H x W"
            )

    @property
    def mean(self) -> float:
        """Gamma((r + 1) / 2) Gamma(d / 2) / (Gamma(r / 2) Gamma((d + 1) / 2))."""
        r, d = self.rank, self.dimension
        if r == 0:
            return 0.0
        return float(np.exp(gammaln((r + 1) / 2) + gammaln(d / 2) - gammaln(r / 2) - gammaln((d + 1) / 2)))

    @property
    def std(self) -> float:
        """Standard deviation of one image's fraction: sqrt(r / d - mean^2)."""
        return math.sqrt(max(0.0, self.rank / self.dimension - self.mean**2))

    def quantile(self, share: float) -> float:
        """The fraction below which that share of random directions lies.

        Raises:
            ValueError: if the share is not in [0, 1].
        """
        if not 0 <= share <= 1:
            raise ValueError(f"expected a share in [0, 1], got {share}; 0.95 means 95 %")
        if self.rank in (0, self.dimension):
            return float(self.rank > 0)
        return math.sqrt(float(beta.ppf(share, self.rank / 2, (self.dimension - self.rank) / 2)))

    def p_value(self, fraction: float) -> float:
        """The probability that a random direction has this fraction or a larger one; NaN for NaN."""
        value = torch.tensor([fraction], dtype=torch.float64)
        return float(random_p_values(value, torch.tensor([self.rank]), self.dimension)[0])


def random_p_values(fractions: Tensor, rank: Tensor, dimension: int) -> Tensor:
    """The probability that a random direction has an image's fraction or a larger one.

    Args:
        fractions: (..., N) in [0, 1]; NaN means "not measured".
        rank: (N,), of each image's tangent space.
        dimension: d = C x H x W.

    Returns:
        float64 (..., N); 1 where the rank is 0 or d, since no direction is special there.
    """
    value = fractions.detach().cpu().double().numpy()
    r = np.broadcast_to(rank.cpu().numpy().astype(np.float64), value.shape)
    proper = (r > 0) & (r < dimension)
    safe = np.where(proper, r, 1.0)
    found = beta.sf(np.clip(value, 0, 1) ** 2, safe / 2, (dimension - safe) / 2)
    return torch.from_numpy(np.where(np.isnan(value), np.nan, np.where(proper, found, 1.0)))
