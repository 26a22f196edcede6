"""Data sets with a known manifold: the acceptance, the same rows however chunked, resuming, and tangents."""

import json

import pytest
import torch
from torch import nn

from veridical.manifold import (
    Bordt2023Labeller,
    DataSetSettings,
    ModelSettings,
    data_set_recipe,
    data_set_recipes,
    fit_recipes,
    generate_data_set,
    labeller_settings,
    load_tcvae,
    open_data_set,
    reconstruct_data_set,
    reconstructions,
    store_data_tangents,
    tangent_spaces,
)
from veridical.manifold.generative import BLOCK, acceptance
from veridical.records import RecordError

PARTS = (("train", 50), ("test", 20))


class Decoder(nn.Module):
    """Latents (N, 2) to 1 x 4 x 4 images by a fixed smooth map."""

    def __init__(self, latents=2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(latents, 16)

    def forward(self, z):
        return self.linear(z).tanh().view(-1, 1, 4, 4)


class Labeller(nn.Module):
    """Three classes; dropout, so that evaluation mode matters."""

    def __init__(self, scale=2.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.linear = nn.Linear(16, 3)
        self.scale = scale
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.scale * self.linear(self.drop(images.flatten(1)))


def draw(folder, chunk=1000, **options):
    progress = options.pop("progress", None)
    settings = DataSetSettings(**{"parts": PARTS, "chunk": chunk, **options})
    return generate_data_set(folder, Decoder(), Labeller(), 2, settings, progress)


def everything(data):
    return {name: data.load(name) for name in ("latents", "images", "labels", "probabilities", "position")}


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_rows_are_the_decoded_latents_with_the_labels_of_the_network(tmp_path):
    data = draw(tmp_path)
    rows = everything(data)
    assert len(data) == 70 and data.parts == ("train", "test") and data.manifest.shape == (1, 4, 4)
    with torch.no_grad():
        images = Decoder()(rows["latents"])
        soft = Labeller().eval()(images).softmax(1)
    torch.testing.assert_close(rows["images"], images)
    torch.testing.assert_close(rows["probabilities"], soft)
    assert torch.equal(rows["labels"], soft.argmax(1))
    assert torch.equal(data.load("labels", "test"), rows["labels"][50:])
    assert torch.equal(data.load("latents", "test", limit=3), rows["latents"][50:53])
    chunked = draw(tmp_path / "chunked", chunk=9)
    assert torch.equal(chunked.load("images", "test", limit=11), rows["images"][50:61])
    with pytest.raises(ValueError, match="limit of at least one image, got 0"):
        data.load("images", limit=0)
    assert sum(data.class_counts()) == 70 and sum(data.class_counts("test")) == 20


def test_draws_are_accepted_with_the_square_of_the_largest_probability(tmp_path):
    """The share that is accepted, and the mean of p among them, against the same sums over all draws."""
    data = draw(tmp_path, parts=(("train", 3000),))
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        soft = Labeller().eval()(Decoder()(z)).double().softmax(1)
    kept = acceptance(soft)
    assert data.acceptance == pytest.approx(float(kept.mean()), abs=0.03)
    largest = soft.max(1).values
    expected = float((largest * kept).sum() / kept.sum())
    assert float(data.load("probabilities").max(1).values.mean()) == pytest.approx(expected, abs=0.02)
    assert acceptance(torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.0, 1.0]])).tolist() == pytest.approx(
        [0.25, 0.81, 1]
    )


def test_a_seed_gives_the_same_rows_however_chunked_and_another_one_others(tmp_path):
    state = torch.get_rng_state()
    whole = everything(draw(tmp_path / "whole"))
    assert torch.equal(state, torch.get_rng_state())
    for chunk in (1, 7, 50, 70):
        assert equal(everything(draw(tmp_path / str(chunk), chunk)), whole)
    assert not equal(everything(draw(tmp_path / "other", seed=1)), whole)
    longer = draw(tmp_path / "longer", parts=(("train", 500),))
    assert torch.equal(longer.load("latents")[:70], whole["latents"])
    assert int(longer.load("position")[-1]) > BLOCK


def test_an_interrupted_set_is_continued(tmp_path):
    whole = draw(tmp_path / "whole", 9, parts=(("train", 600),))

    def stop(done, total):
        assert total == 600
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "parts", 9, parts=(("train", 600),), progress=stop)
    with pytest.raises(RecordError, match="the data set is not finished"):
        open_data_set(tmp_path / "parts")
    seen = []
    rest = draw(tmp_path / "parts", 9, parts=(("train", 600),), progress=lambda *at: seen.append(at))
    assert equal(everything(rest), everything(whole)) and seen[0][0] > 150 and seen[-1] == (600, 600)
    assert equal(everything(open_data_set(tmp_path / "parts")), everything(whole))
    again = []
    draw(tmp_path / "parts", 9, parts=(("train", 600),), progress=lambda *at: again.append(at))
    assert again == []


def test_other_sets_in_the_folder_are_refused(tmp_path):
    draw(tmp_path)
    with pytest.raises(ValueError, match="with seed = 0 instead of 4; choose another folder"):
        draw(tmp_path, seed=4)
    settings = DataSetSettings(parts=PARTS, chunk=1000)
    with pytest.raises(ValueError, match="the first (images|probabilities|latents) differ"):
        generate_data_set(tmp_path, Decoder(), Labeller(3.0), 2, settings)
    (tmp_path / "part-00000.safetensors").write_bytes(b"x")
    with pytest.raises(RecordError, match="part-00000.safetensors"):
        open_data_set(tmp_path).load("labels")
    (tmp_path / "dataset.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(RecordError, match="dataset.json"):
        open_data_set(tmp_path)
    with pytest.raises(RecordError, match="got no dataset.json"):
        open_data_set(tmp_path / "nowhere")


def test_images_are_resized_after_they_are_labeled(tmp_path):
    small = draw(tmp_path / "small")
    large = draw(tmp_path / "large", side=12, precision="float16")
    assert large.manifest.shape == (1, 12, 12) and large.load("images").dtype == torch.float16
    for name in ("latents", "labels", "probabilities"):
        assert torch.equal(small.load(name), large.load(name))
    expected = nn.functional.interpolate(small.load("images"), size=(12, 12), mode="bilinear")
    torch.testing.assert_close(large.load("images").float(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [None, 8])
def test_tangent_spaces_are_those_of_the_latents(tmp_path, side):
    data = draw(tmp_path, side=side)
    stored = store_data_tangents(data, Decoder(), "test", precision="float64")
    assert len(stored) == 20 and stored.folder == tmp_path / "tangents-test"
    torch.testing.assert_close(stored.images, data.load("images", "test"), rtol=1e-5, atol=1e-6)
    if side is None:
        expected = tangent_spaces(Decoder(), data.load("latents", "test"))
        torch.testing.assert_close(stored[:], expected.basis)
    other = Decoder()
    with torch.no_grad():
        other.linear.bias.add_(1)
    with pytest.raises(ValueError, match="another first image"):
        store_data_tangents(data, other, "test")


def test_files_of_large_tangent_spaces_hold_fewer(tmp_path, monkeypatch):
    data = draw(tmp_path)
    few = store_data_tangents(data, Decoder(), "test")
    assert few.manifest.chunk == 256
    monkeypatch.setattr("veridical.manifold.generative._FILE_BYTES", 7 * 2 * 2 * 16)
    large = store_data_tangents(data, Decoder(), "train")
    assert large.manifest.chunk == 7 and len(large) == 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parts": ()}, "at least one part, got none"),
        ({"parts": (("a", 0),)}, "images of part 'a' of at least 1"),
        ({"parts": (("a", 1), ("a", 1))}, "different names"),
        ({"chunk": 0}, "chunk of at least 1"),
        ({"precision": "int8"}, "precision"),
        ({"side": 0}, "side of at least 1"),
    ],
)
def test_settings_without_a_data_set_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()


def test_decoders_and_networks_that_do_not_fit_are_named(tmp_path):
    settings = DataSetSettings(parts=PARTS)
    with pytest.raises(ValueError, match="k = 16; where k >= d"):
        generate_data_set(tmp_path, Decoder(16), Labeller(), 16, settings)
    with pytest.raises(ValueError, match="finite images"):
        generate_data_set(tmp_path, lambda z: Decoder()(z) / 0, Labeller(), 2, settings)
    with pytest.raises(ValueError, match=r"logits of shape"):
        generate_data_set(tmp_path, Decoder(), nn.Identity(), 2, settings)
    data = draw(tmp_path / "set")
    with pytest.raises(ValueError, match="part"):
        data.load("labels", "validation")
    with pytest.raises(ValueError, match="column"):
        data.load("label")


def test_reconstructions_have_the_labels_of_the_originals(tmp_path):
    model = ModelSettings("convolutional", 4, 1, 8, 8).build().eval()
    images = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(300) % 4
    settings = DataSetSettings(parts=(("train", 200), ("test", 100)), chunk=70)
    data = reconstruct_data_set(tmp_path / "a", model, images, labels, settings)
    assert torch.equal(data.load("labels"), labels) and data.manifest.latent == (4, 1, 1)
    torch.testing.assert_close(data.load("images"), reconstructions(model, images))
    torch.testing.assert_close(data.load("latents"), model.encode(images).detach())
    assert data.acceptance == 1 and data.manifest.approach == "reconstructive"
    one = reconstruct_data_set(tmp_path / "b", model, images, labels)
    assert one.parts == ("all",) and torch.equal(one.load("images"), data.load("images"))
    with pytest.raises(ValueError, match="column"):
        data.load("probabilities")
    stored = store_data_tangents(data, model.decoder, "test")
    assert stored.shape == (100, 4, 1, 8, 8)


def test_an_interrupted_reconstruction_is_continued(tmp_path):
    model = ModelSettings("convolutional", 2, 1, 8, 8).build().eval()
    images, labels = torch.rand(300, 1, 8, 8), torch.zeros(300, dtype=torch.long)
    settings = DataSetSettings(chunk=50)

    def stop(done, total):
        if done > 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct_data_set(tmp_path / "a", model, images, labels, settings, stop)
    rest = reconstruct_data_set(tmp_path / "a", model, images, labels, settings)
    whole = reconstruct_data_set(tmp_path / "b", model, images, labels)
    assert torch.equal(rest.load("images"), whole.load("images"))
    with pytest.raises(ValueError, match="with about = "):
        reconstruct_data_set(tmp_path / "a", model, 1 - images, labels, settings)
    with pytest.raises(ValueError, match="parts of 300 images together"):
        reconstruct_data_set(tmp_path / "c", model, images, labels, DataSetSettings(parts=(("a", 3),)))


def test_the_papers_labeller_has_its_layers():
    network = Bordt2023Labeller(classes=3)
    widths = [one.out_channels for one in network.modules() if isinstance(one, nn.Conv2d)]
    assert widths == [64, 128, 128, 128, 128, 128, 256, 256, 256, 512, 2048, 256, 256]
    assert {one.momentum for one in network.modules() if isinstance(one, nn.BatchNorm2d)} == {0.05}
    assert network.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    assert labeller_settings().epochs == 5 and labeller_settings().batch == 64


def test_recipes_name_recipes_of_manifolds():
    assert set(data_set_recipes()) == {"mnist32", "mnist256", "emnist128"}
    assert all(one.fit in fit_recipes() for one in data_set_recipes().values())
    large = data_set_recipe("mnist256")
    assert large.settings.side == 256 and dict(large.settings.parts)["test"] == 10_000
    with pytest.raises(ValueError, match="mnist256"):
        data_set_recipe("mnist255")


@pytest.mark.real_data
def test_the_published_decoder_gives_digits_that_a_network_is_sure_of(tmp_path, data_folder):
    from networks_real import trained
    from veridical.manifold import Resized

    model = load_tcvae(data_folder / "models" / "mnist_btcvae.pt")
    lenet = trained(data_folder, "mnist_lenet5_clean")
    labeller = nn.Sequential(Resized(nn.Identity(), 28), lenet)
    settings = DataSetSettings(parts=(("test", 500),))
    data = generate_data_set(tmp_path, model.decoder, labeller, 10, settings)
    assert data.load("images").shape == (500, 1, 32, 32) and min(data.class_counts()) > 10
    assert 0.5 < data.acceptance < 1
