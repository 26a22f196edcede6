"""The losses against closed forms: what mutual information and total correlation must be is known."""

import math

import pytest
import torch

from veridical.manifold import decompose, normal_kl, stratified_weights
from veridical.manifold.losses import bernoulli_loss, log_normal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence_and_density_are_those_of_torch():
    mean, log_variance, z = normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2)
    own = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(own, prior)
    torch.testing.assert_close(normal_kl(mean, log_variance), expected)
    torch.testing.assert_close(log_normal(z, mean, log_variance), own.log_prob(z))
    assert float(normal_kl(torch.zeros(1), torch.zeros(1))) == 0


def test_cross_entropy_is_summed_over_values_and_averaged_over_images():
    logits, images = normal(4, 1, 2, 2), torch.rand(4, 1, 2, 2, dtype=torch.float64)
    shown = logits.sigmoid()
    expected = -(images * shown.log() + (1 - images) * (1 - shown).log()).sum() / 4
    torch.testing.assert_close(bernoulli_loss(logits, images), expected)


@pytest.mark.parametrize(("batch", "count"), [(2, 2), (2, 3), (3, 3), (5, 60_000), (64, 60_000)])
def test_weights_of_every_estimate_sum_to_one(batch, count):
    weights = stratified_weights(batch, count).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(batch, dtype=torch.float64))
    torch.testing.assert_close(weights.diagonal(), torch.full((batch,), 1 / count, dtype=torch.float64))


def test_the_estimate_is_unbiased_over_batches():
    """Over all ways to take a batch with a given image, the mean density is that of all N images."""
    from itertools import permutations

    count, batch = 5, 3
    mean, log_variance, z = normal(count, 2), normal(count, 2, seed=1), normal(2, seed=2)
    densities = log_normal(z, mean, log_variance).sum(1).exp()
    weights = stratified_weights(batch, count).exp()[0]
    others = [one for one in range(count) if one != 0]
    found = [float((weights * densities[[0, *chosen]]).sum()) for chosen in permutations(others, batch - 1)]
    assert sum(found) / len(found) == pytest.approx(float(densities.mean()), rel=1e-12)


def test_the_parts_sum_to_the_divergence_of_the_sample():
    mean, log_variance = normal(6, 4), normal(6, 4, seed=1)
    z = mean + (log_variance / 2).exp() * normal(6, 4, seed=2)
    parts = decompose(z, mean, log_variance, 1000)
    total = parts.mutual_information + parts.total_correlation + parts.dimension_wise
    prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
    expected = (log_normal(z, mean, log_variance) - prior).sum(1).mean()
    torch.testing.assert_close(total, expected)


def test_latents_that_ignore_the_image_have_no_information_and_no_correlation():
    mean, log_variance = normal(1, 3).expand(6, 3), normal(1, 3, seed=1).expand(6, 3)
    z = mean + (log_variance / 2).exp() * normal(6, 3, seed=2)
    parts = decompose(z, mean, log_variance, 1000)
    assert abs(float(parts.mutual_information)) < 1e-12 and abs(float(parts.total_correlation)) < 1e-12


@pytest.mark.parametrize("repeated", [1, 2, 3])
def test_latents_that_tell_every_image_apart_know_log_n(repeated):
    """Far apart in `repeated` latents: information log N, correlation (repeated - 1) log N."""
    count = 60_000
    mean = torch.zeros(5, 4, dtype=torch.float64)
    mean[:, :repeated] = 1000 * torch.arange(5.0, dtype=torch.float64)[:, None]
    z, log_variance = mean + normal(5, 4, seed=1), torch.zeros(5, 4, dtype=torch.float64)
    parts = decompose(z, mean, log_variance, count)
    assert float(parts.mutual_information) == pytest.approx(math.log(count))
    assert float(parts.total_correlation) == pytest.approx((repeated - 1) * math.log(count))


def test_gradients_are_those_of_central_differences():
    mean, log_variance, noise = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)

    def total(mean, log_variance):
        parts = decompose(mean + (log_variance / 2).exp() * noise, mean, log_variance, 50)
        return parts.mutual_information + 6 * parts.total_correlation + 0.5 * parts.dimension_wise

    inputs = (mean.requires_grad_(), log_variance.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize(("batch", "count"), [(1, 10), (11, 10), (0, 10)])
def test_batches_without_an_estimate_are_refused(batch, count):
    with pytest.raises(ValueError, match=f"a batch of 2 to 10 images, got {batch}"):
        stratified_weights(batch, count)
