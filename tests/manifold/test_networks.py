"""The beta-TCVAE: its architecture on random weights, and the published ones where they are."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import veridical as vd
from networks_real import trained
from veridical.manifold import TCVAE, Resized, load_tcvae, tangent_spaces


def small(latents: int = 4, channels: int = 1) -> TCVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TCVAE(latents, channels).eval()


def latents(count: int, k: int = 10) -> torch.Tensor:
    return torch.randn(count, k, generator=torch.Generator().manual_seed(11))


def test_shapes_and_the_order_of_mean_and_variance() -> None:
    network, images = small(channels=3), torch.rand(2, 3, 32, 32)
    mean, log_variance = network.encoder(images)
    assert mean.shape == log_variance.shape == (2, 4)
    assert network(images).shape == images.shape and 0 < network(images).min() < network(images).max() < 1
    last = network.encoder.mu_logvar_gen
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(8.0))
    mean, log_variance = network.encoder(images)
    assert mean[0].tolist() == [0, 2, 4, 6] and log_variance[0].tolist() == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="images of 32 x 32 pixels, got"):
        network.encoder(images[..., :28])


def test_weights_are_loaded_with_their_sizes(tmp_path: Path) -> None:
    torch.save(small(3, 2).state_dict(), tmp_path / "vae.pt")
    network = load_tcvae(tmp_path / "vae.pt")
    assert network.decoder(torch.zeros(1, 3)).shape == (1, 2, 32, 32) and not network.training
    torch.testing.assert_close(network.state_dict(), small(3, 2).state_dict())


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="weights of a beta-TCVAE at .*none.pt, got no file"):
        load_tcvae(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ValueError, match="state dict of a beta-TCVAE in .*text.pt, got another content"):
        load_tcvae(tmp_path / "text.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(ValueError, match="got another content"):
        load_tcvae(tmp_path / "linear.pt")


def test_a_resized_decoder_is_the_decoder_and_bilinear_interpolation() -> None:
    decoder, z = small().decoder, latents(2, 4)
    large = Resized(decoder, 40)
    expected = F.interpolate(decoder(z), scale_factor=40 / 32, mode="bilinear")
    torch.testing.assert_close(large(z), expected)
    assert large.prior == "normal" and Resized(nn.Identity(), 3).prior == "none"
    assert tangent_spaces(large, z).derivative == "forward"
    with pytest.raises(ValueError, match="at least one pixel, got 0"):
        Resized(decoder, 0)
    with pytest.warns(UserWarning, match="outside"):
        vd.tangent_space(large, 20 * z[:1])


@pytest.mark.real_data
def test_the_published_decoder_has_rank_ten_and_two_collapsed_latents(data_folder: Path) -> None:
    network = load_tcvae(data_folder / "models" / "mnist_btcvae.pt")
    found = tangent_spaces(network.decoder, latents(200))
    assert found.rank.tolist() == [10] * 200 and found.collapsed_latents() == [2, 7]
    ratio = (found.singular_values / found.singular_values[:, :1]).median(0).values
    stated = torch.tensor([1, 0.67, 0.50, 0.33, 0.20, 0.14, 0.083, 0.030, 0.0021, 0.0013]).double()
    torch.testing.assert_close(ratio, stated, rtol=0.25, atol=0)
    q = found.basis.flatten(2)
    torch.testing.assert_close(q @ q.mT, torch.eye(10).double().expand(200, -1, -1), atol=1e-12, rtol=0)


@pytest.mark.real_data
def test_mnist256_has_rank_ten_in_float64_and_less_by_the_papers_tolerance(data_folder: Path) -> None:
    decoder = Resized(load_tcvae(data_folder / "models" / "mnist_btcvae.pt").decoder, 256)
    z, paper = latents(16), vd.manifold.load_recipe().sets["mnist256"]
    assert tangent_spaces(decoder, z).rank.tolist() == [10] * 16
    rough = tangent_spaces(decoder, z, dtype=torch.float32, tolerance=paper.tolerance)
    assert 5 <= rough.rank.min() and rough.rank.max() <= 9 and rough.rank.median() == 8


@pytest.mark.real_data
def test_the_robust_lenet_has_more_to_do_with_its_own_image_than_the_clean_one(data_folder: Path) -> None:
    """Robust against l-infinity: the smaller fraction, and the larger excess over another image's space."""
    decoder = Resized(load_tcvae(data_folder / "models" / "mnist_btcvae.pt").decoder, 28)
    spaces = tangent_spaces(decoder, latents(64))
    own, excess = [], []
    for name in ("mnist_lenet5_clean", "mnist_lenet5_linf_adv"):
        model = trained(data_folder, name)
        found = vd.measure_alignment(model, spaces.images.float(), spaces.basis, ["gradient"])
        own.append(found.of("gradient").mean())
        excess.append((found.of("gradient") - found.others[0]).mean())
        assert found.summary("gradient").p_value < 1e-6
    assert own[1] < own[0] and excess[1] > excess[0] + 0.03
