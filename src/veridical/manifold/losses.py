"""The losses that models of a manifold are trained with, in nats an image.

z (B, k) is a sample of q(z|x) = N(mean, exp(log_variance)) for each of B images; the prior is N(0, I).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_LOG_TAU = math.log(2 * math.pi)


@dataclass(frozen=True)
class Decomposition:
    """The estimated mean divergence of q(z|x) from the prior, in three parts whose sum it is.

    Attributes:
        mutual_information: of latents and images, E[log q(z|x) - log q(z)].
        total_correlation: of the latents, E[log q(z) - sum_j log q(z_j)].
        dimension_wise: E[sum_j log q(z_j) - log p(z_j)].
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor


def bernoulli_loss(logits: Tensor, images: Tensor) -> Tensor:
    """The cross-entropy of images in [0, 1], summed over the values of an image, mean over images.

    Args:
        logits: (N, C, H, W), reconstructions before their sigmoid.
        images: (N, C, H, W).
    """
    return F.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each value, of the same shape, in nats.

    (mean^2 + variance - 1 - log variance) / 2.
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The logarithm of the normal density of each value; arguments are broadcast."""
    return -(_LOG_TAU + log_variance + (z - mean).square() * torch.exp(-log_variance)) / 2


def stratified_weights(batch: int, count: int) -> Tensor:
    """The logarithms of the weights (B, B) with which a batch stands for all images: rows are estimates.

    With M = B - 1 and N images in all, q(z_i) is estimated by q(z_i|x_i) with weight 1/N, by one other image
    with (N - M) / (N M), and by each of the remaining M - 1 with 1/M. Rows sum to 1. That other image is the
    next one in the batch, the first one for the last; over random batches the estimate is unbiased.

    Source:
        Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", appendix C.2.

    Args:
        batch: B, from 2 to N.
        count: N.

    Raises:
        ValueError: if the batch has fewer than two images or more than there are.
    """
    if not 2 <= batch <= count:
        raise ValueError(f"expected a batch of 2 to {count} images, got {batch}; choose another batch")
    others = batch - 1
    weights = torch.full((batch, batch), 1 / others, dtype=torch.float64)
    own = torch.arange(batch)
    weights[own, own] = 1 / count
    # For N = M + 1 = 2 there is no other image than the next one: all three kinds are of one weight.
    weights[own, (own + 1) % batch] = (count - others) / (count * others)
    return weights.log()


def decompose(z: Tensor, mean: Tensor, log_variance: Tensor, count: int) -> Decomposition:
    """Mutual information, total correlation and dimension-wise divergence by stratified batches.

    The logarithm of a weight enters each density once: log q(z_i) = logsumexp_j(log W_ij + sum_d log
    q(z_id|x_j)) and log q(z_id) = logsumexp_j(log W_ij + log q(z_id|x_j)).

    Source:
        Chen et al. 2018, eq. 2 and appendix C.2.

    Args:
        z: (B, k), samples.
        mean: (B, k), of the images in the same order.
        log_variance: (B, k).
        count: N, images in all.

    Raises:
        ValueError: see `stratified_weights`.
    """
    weights = stratified_weights(len(z), count).to(z)
    each = log_normal(z[:, None], mean[None], log_variance[None])
    joint = (each.sum(2) + weights).logsumexp(dim=1)
    marginals = (each + weights[:, :, None]).logsumexp(dim=1).sum(1)
    given = log_normal(z, mean, log_variance).sum(1)
    prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    return Decomposition(
        mutual_information=(given - joint).mean(),
        total_correlation=(joint - marginals).mean(),
        dimension_wise=(marginals - prior).mean(),
    )
