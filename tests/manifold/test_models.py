"""Models of manifolds: shapes, sizes of the latent, initial weights, and what does not exist."""

import pytest
import torch

from veridical.manifold import (
    TCVAE,
    ConvolutionalAutoencoder,
    ModelSettings,
    ResidualAutoencoder,
    load_tcvae,
    tangent_spaces,
)

SIZES = [
    (ModelSettings("vae", 3, 1, 8, 8), TCVAE, (3,)),
    (ModelSettings("vae", 4, 3, 16, 16), TCVAE, (4,)),
    (ModelSettings("vae", 10, 1, 64, 64), TCVAE, (10,)),
    (ModelSettings("convolutional", 144, 3, 32, 32), ConvolutionalAutoencoder, (9, 4, 4)),
    (ModelSettings("convolutional", 4, 1, 8, 16), ConvolutionalAutoencoder, (2, 1, 2)),
    (ModelSettings("residual", None, 3, 16, 8), ResidualAutoencoder, (8, 2, 1)),
]


@pytest.mark.parametrize(("settings", "kind", "latent"), SIZES)
def test_images_go_to_latents_and_back(settings, kind, latent):
    model = settings.build()
    images = torch.rand(2, settings.channels, settings.height, settings.width)
    assert isinstance(model, kind)
    z = model.encode(images)
    assert z.shape == (2, *latent) and z[0].numel() == settings.k
    assert model(images).shape == images.shape
    torch.testing.assert_close(model.decoder(z), model(images))


def test_the_medical_latent_has_the_published_size_and_is_not_negative():
    settings = ModelSettings("residual", None, 3, 256, 224)
    assert settings.k == 7168 and settings.dimension == 172_032
    assert ModelSettings("residual", 6272, 3, 224, 224).k == 6272
    model = ResidualAutoencoder()
    images = torch.rand(1, 3, 16, 16)
    assert model.encode(images).min() >= 0
    with torch.no_grad():
        model.decoder[-1].bias.fill_(9)
    assert model(images).min() > 1  # no activation at the end


def test_a_residual_block_adds_to_what_it_is_given():
    block = ResidualAutoencoder().decoder[1]
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
    assert torch.equal(block(x), x)


def test_the_seed_decides_the_weights_and_nothing_else_is_touched():
    settings = ModelSettings("vae", 3, 1, 8, 8)
    before = torch.get_rng_state()
    one, same, other = settings.build(5), settings.build(5), settings.build(6)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_logits_are_those_of_the_images():
    decoder, z = ModelSettings("vae", 3, 3, 16, 16).build().decoder, torch.randn(2, 3)
    torch.testing.assert_close(decoder.logits(z).sigmoid(), decoder(z))


def test_models_have_tangent_spaces_and_only_a_vae_has_a_prior():
    for settings in (ModelSettings("vae", 3, 1, 8, 8), ModelSettings("convolutional", 2, 1, 8, 8)):
        model = settings.build().eval()
        found = tangent_spaces(model.decoder, model.encode(torch.rand(2, 1, 8, 8)).detach())
        assert found.basis.shape == (2, settings.k, 1, 8, 8) and found.derivative == "forward"
        assert getattr(model.decoder, "prior", "none") == (
            "normal" if settings.architecture == "vae" else "none"
        )


def test_weights_of_other_sizes_are_loaded(tmp_path):
    torch.save(TCVAE(5, 3, 16).state_dict(), tmp_path / "vae.pt")
    assert load_tcvae(tmp_path / "vae.pt").decoder(torch.zeros(1, 5)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("dense", 3, 1, 8, 8), "architecture"),
        (("vae", 64, 1, 8, 8), "fewer latent values than the 64 values of an image, got k = 64"),
        (("vae", None, 1, 8, 8), "latents of at least 1, got None"),
        (("vae", 3, 2, 8, 8), "1 or 3 channels, got 2"),
        (("vae", 3, 1, 8, 16), "square images, got 8 x 16"),
        (("convolutional", 3, 1, 16, 16), "a multiple of 4 latent values.* got 3"),
        (("convolutional", 1, 1, 28, 28), "multiples of 8, got 28 x 28"),
        (("residual", 100, 3, 16, 16), "32 latent values.* got 100"),
    ],
)
def test_models_that_do_not_exist_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings(*given)


def test_a_vae_halves_sides_down_to_four():
    for side in (4, 12, 28, 100):
        with pytest.raises(ValueError, match=f"8, 16, 32, 64, ... pixels a side, got {side}"):
            ModelSettings("vae", 3, 1, side, side).build()
