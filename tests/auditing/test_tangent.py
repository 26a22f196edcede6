"""The manifold in the audit: what is measured, and everything that is refused before any work."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from linear_manifold import SHAPE, Linear, decode
from veridical.auditing import audit
from veridical.auditing import tangent as module
from veridical.auditing.tangent import open_manifold, put_on_manifold
from veridical.manifold import FitSettings, RandomFraction, TangentSettings, fit_manifold, save_manifold
from veridical.records import RecordError, read_arrays, read_run, read_scores

BLACK, WHITE = (-1.0, -2.0, 0.0), (1.0, 2.0, 4.0)
BOUNDS = (BLACK, WHITE)


@dataclass(frozen=True)
class Constant:
    """A method with the same map for every image."""

    relevance: Tensor
    name: str = "constant"

    def __repr__(self):
        return "Constant()"

    def __call__(self, model, inputs, target=None):
        return self.relevance.to(inputs).expand_as(inputs)


def on(given, network, images, bounds=None):
    return put_on_manifold(given, network, images, bounds)


def values(report, statistic, method="gradient", summary=False):
    return [
        row.value
        for row in report.scores
        if (row.method, row.statistic, row.image == "") == (method, statistic, summary)
    ]


def run(network, images, manifold, methods=("gradient",), **options):
    if not isinstance(methods, dict):
        methods = list(methods)
    return audit(network, images, methods=methods, tests=["tangent-space"], manifold=manifold, **options)


def test_maps_inside_and_outside_of_a_known_space(network, images):
    decoder = Linear(3)
    inside = decoder.rows[1].view(1, *SHAPE)
    drawn = torch.randn(1, 432, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    outside = (drawn - drawn @ decoder.rows.T @ decoder.rows).view(1, *SHAPE)
    methods = {"inside": Constant(inside), "outside": Constant(outside), "both": Constant(inside + outside)}
    report = run(network, images, (decoder, decoder.encode), methods)
    assert values(report, "tangent_fraction", "inside") == pytest.approx([1.0] * 5, abs=1e-6)
    assert values(report, "tangent_fraction", "outside") == pytest.approx([0.0] * 5, abs=1e-6)
    share = 1 / float((1 + outside.square().sum()).sqrt())
    assert values(report, "tangent_fraction", "both") == pytest.approx([share] * 5, abs=1e-6)
    random = RandomFraction(3, 432).mean
    assert values(report, "tangent_margin", "inside") == pytest.approx([1 - random] * 5, abs=1e-6)
    assert values(report, "mean_random_fraction", "inside", summary=True) == pytest.approx([random])
    # Five of five above the median of random directions.
    assert values(report, "sign_test_p_value", "inside", summary=True) == pytest.approx([1 / 32])
    assert values(report, "sign_test_p_value", "outside", summary=True) == pytest.approx([1.0])
    assert values(report, "above_random_share", "inside", summary=True) == [1.0]


def test_the_network_is_explained_at_the_reconstructions(network, images):
    seen = []

    @dataclass(frozen=True)
    class Watching:
        name: str = "watching"

        def __call__(self, model, inputs, target=None):
            seen.append((inputs.clone(), target))
            return inputs

    decoder = Linear(3)
    run(network, images, (decoder, decoder.encode), [Watching()])
    points = decoder(decoder.encode(images))
    assert torch.allclose(torch.cat([one for one, _ in seen]), points)
    with torch.no_grad():
        expected = network(images).argmax(1)
    assert torch.equal(torch.cat([target for _, target in seen]), expected)


def test_a_decoder_of_images_in_0_to_1_is_put_into_the_units_of_the_network(network, images):
    decoder = Linear(3)
    found = on((decoder, decoder.encode), network, images, BOUNDS)
    low, width = (torch.tensor(one, dtype=torch.float64).view(1, 3, 1, 1) for one in (BLACK, (2.0, 4.0, 4.0)))
    shown = (images - low) / width
    assert torch.allclose(found.points, low + width * decoder(decoder.encode(shown)))
    # The tangent space is that of the scaled decoder: its rows are the scaled rows, made orthonormal.
    scaled = (decoder.rows.view(3, *SHAPE) * width).flatten(1)
    basis = found.basis[0].flatten(1).double()
    assert torch.allclose(basis @ basis.T, torch.eye(3).double(), atol=1e-6)
    assert torch.allclose(scaled, scaled @ basis.T @ basis, atol=1e-5)


def test_a_plain_function_gives_the_same_as_a_module(network, images):
    decoder = Linear(3)
    one = on((decoder, decoder.encode), network, images, BOUNDS)
    other = on((lambda z: decoder(z), decoder.encode), network, images, BOUNDS)
    assert torch.allclose(one.points, other.points)
    assert torch.allclose(one.basis, other.basis, atol=1e-6)


def test_how_well_the_manifold_fits_is_measured_and_a_bad_one_is_said(network, images):
    decoder = Linear(3)
    points = decoder(decoder.encode(images))
    good = on((decoder, decoder.encode), network, points)
    assert float(good.errors.max()) < 1e-12 and bool(good.kept.all())
    assert good.facts()["bad_manifold"] is False and good.facts()["class_kept"] == 1.0
    bad = on((decoder, decoder.encode), network, images)
    contrast = (images - images.mean((2, 3), keepdim=True)).flatten(1).norm(dim=1)
    assert torch.allclose(bad.errors, (points - images).flatten(1).norm(dim=1) / contrast)
    assert bad.facts()["bad_manifold"] is True
    assert bad.facts()["latents"] == 3 and bad.facts()["dimension"] == 432
    assert (bad.facts()["lowest_rank"], bad.facts()["highest_rank"]) == (3, 3)
    flat = torch.full_like(images, 0.5)
    assert bool(on((decoder, decoder.encode), network, flat).errors.isnan().all())


def test_latents_can_be_given_row_by_row(network, images):
    decoder = Linear(3)
    z = decoder.encode(images)
    more = torch.cat([z, z + 1])
    assert torch.equal(on((decoder, more), network, images).latents, z)
    with pytest.raises(ValueError, match="latent for each of the 5 images, in their order, got 4"):
        on((decoder, z[:4]), network, images)
    with pytest.raises(ValueError, match="latent for each of the 5 images, got 3"):
        on((decoder, lambda shown: z[:3]), network, images)


class Coupled(Linear):
    def forward(self, z):
        images = super().forward(z)
        return images - images.mean(dim=0, keepdim=True)


class Noisy(Linear):
    def forward(self, z):
        images = super().forward(z)
        return images + torch.rand_like(images)


class Cut(Linear):
    def forward(self, z):
        return super().forward(z.detach())


WRONG = {
    "one by one": Coupled(3),
    "deterministic": Noisy(3),
    "with a derivative": Cut(3),
    "fewer latent values": Linear(432),
    "of the network's size .3, 12, 12., got images of .1, 12, 12.": Linear(3, (1, 12, 12)),
    "of the network's size .3, 12, 12., got images of .3, 8, 8.": Linear(3, (3, 8, 8)),
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_wrong_decoder_is_refused_before_any_work(expected, network, images, tmp_path):
    told = []
    latents = torch.randn(5, len(WRONG[expected].rows), dtype=torch.float64)
    with pytest.raises(ValueError, match=expected):
        run(network, images, (WRONG[expected], latents), out=tmp_path / "run", progress=told.append)
    assert told == [] and not (tmp_path / "run" / "run.json").exists()


def test_what_is_no_manifold_is_refused(network, images, tmp_path):
    decoder = Linear(3)
    for given in (5, decoder, (decoder,), (3, decoder.encode), (decoder, "latents")):
        with pytest.raises(TypeError, match="expected a manifold"):
            on(given, network, images)
    with pytest.raises(TypeError, match="floating point latents"):
        on((decoder, torch.ones(5, 3, dtype=torch.long)), network, images)
    with pytest.raises(ValueError, match="finite latents"):
        on((decoder, torch.full((5, 3), torch.nan)), network, images)
    with pytest.raises(FileNotFoundError, match="no file"):
        on(tmp_path / "nothing.pt", network, images)
    with pytest.raises(RecordError, match="no manifold.json"):
        on(tmp_path, network, images)


def test_spaces_that_do_not_fit_into_memory_are_refused(network, images, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 5 * 3 * 432 - 1)
    decoder = Linear(3)
    with pytest.raises(ValueError, match="GiB for 5 images and k = 3; audit fewer images"):
        on((decoder, decoder.encode), network, images)


def test_a_space_that_takes_more_than_the_usual_memory_is_computed_or_refused_at_once(
    network, images, monkeypatch
):
    decoder = Linear(3)
    usual = on((decoder, decoder.encode), network, images)
    assert usual.max_bytes == 2**28
    # As if the usual were half of what one image needs: it is raised to that.
    monkeypatch.setattr(
        module, "TangentSettings", lambda **options: TangentSettings(**{"max_bytes": 30_000} | options)
    )
    found = on((decoder, decoder.encode), network, images)
    assert found.max_bytes > 5 * 8 * 3 * 432 and torch.equal(found.rank, usual.rank)
    torch.testing.assert_close(found.basis, usual.basis)
    monkeypatch.setattr(module, "MOST_BYTES", 5 * 8 * 3 * 432)
    with pytest.raises(ValueError, match="one tangent space is computed in at most .* for k = 3"):
        on((decoder, decoder.encode), network, images)


@pytest.fixture(scope="module")
def fitted():
    pictures = torch.zeros(24, 3, 8, 8)
    for index in range(24):
        pictures[index, :, index % 5 : index % 5 + 3, (index * 2) % 5 : (index * 2) % 5 + 3] = 1
    settings = FitSettings("convolutional", "squared", latents=2, epochs=2, batch=8, lr=3e-3, held_out=0.2)
    return fit_manifold(pictures, settings), pictures


@pytest.fixture
def small():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def test_a_fitted_manifold_and_its_directory_give_the_same(fitted, small, tmp_path):
    manifold, pictures = fitted
    save_manifold(tmp_path / "manifold", manifold)
    one = run(small, pictures[:3], manifold)
    other = run(small, pictures[:3], str(tmp_path / "manifold"))
    assert values(one, "tangent_fraction") == values(other, "tangent_fraction")
    settings = [report.run.tests["tangent-space"].settings for report in (one, other)]
    assert settings[0]["manifold"] == settings[1]["manifold"] and len(settings[0]["manifold"]) == 64
    assert "convolutional model of 3 x 8 x 8 images" in settings[0]["source"]
    assert str(tmp_path) in settings[1]["source"]
    assert type(open_manifold(tmp_path / "manifold").model) is type(manifold.model)


def test_a_fitted_manifold_asks_for_images_that_it_was_fitted_to(fitted, network, small, images):
    manifold, pictures = fitted
    with pytest.raises(
        ValueError, match=r"network's size \(3, 12, 12\), got images of \(3, 8, 8\).*--side 12"
    ):
        on(manifold, network, images.sigmoid())
    with pytest.raises(ValueError, match=r"expected images in \[0, 1\].*pass bounds"):
        on(manifold, small, pictures[:2] * 2)
    with pytest.raises(ValueError, match="network's size .*got a refusal"):
        on(manifold.model, small, pictures[:2, :1])


def test_without_a_manifold_the_test_is_left_out_and_the_reason_says_how_to_get_one(network, images):
    report = audit(network, images, methods=["gradient"], tests=["random-logit", "tangent-space"])
    assert list(report.run.tests) == ["random-logit"]
    (left,) = report.run.skipped
    assert (left.method, left.test, left.applies) == ("", "tangent-space", False)
    assert "veridical manifold fit" in left.reason and "--manifold" in left.reason
    with pytest.raises(ValueError, match="expected a manifold for the test tangent-space.*manifold fit"):
        audit(network, images, methods=["gradient"], tests=["tangent-space"])
    decoder = Linear(3)
    with pytest.raises(ValueError, match="test tangent-space where a manifold is given, got random-logit"):
        audit(
            network, images, methods=["gradient"], tests=["random-logit"], manifold=(decoder, decoder.encode)
        )


def test_values_are_stored_by_image_and_a_run_is_resumed(network, images, tmp_path):
    decoder, told = Linear(3), []
    given = (decoder, decoder.encode)
    first = run(network, images, given, ["gradient", "lrp-zplus"], out=tmp_path / "run")
    stored = read_scores(tmp_path / "run")
    named = [row for row in stored if row.statistic == "tangent_fraction" and row.method == "gradient"]
    assert [row.image for row in named] == [f"image {index}" for index in range(5)]
    arrays, metadata = read_arrays(tmp_path / "run" / "maps" / "tangent-space" / "images.safetensors")
    assert arrays["reconstructions"].shape == (5, *SHAPE) and len(metadata["names"]) == 5
    again = run(network, images, given, ["gradient", "lrp-zplus"], out=tmp_path / "run", progress=told.append)
    assert {one.state for one in told} == {"reused"}
    assert values(again, "tangent_fraction") == values(first, "tangent_fraction")
    assert read_run(tmp_path / "run").tests["tangent-space"].settings["latents"] == 3
    other = Linear(3, seed=1)
    with pytest.raises(ValueError, match="another one: tests"):
        run(network, images, (other, other.encode), ["gradient", "lrp-zplus"], out=tmp_path / "run")


def test_the_test_is_advisory_and_decides_by_the_margin(network, images):
    decoder = Linear(3)
    inside = {"inside": Constant(decoder.rows[0].view(1, *SHAPE))}
    report = run(network, images, (decoder, decoder.encode), inside)
    (evidence,) = report.verdicts["inside"].evidence
    assert (evidence.test, evidence.statistic) == ("tangent-space", "median_tangent_margin")
    assert evidence.passed is True and evidence.threshold == 0.0
    assert "advisory" in evidence.note and report.verdicts["inside"].verdict == "not decided"


def test_a_map_of_zeros_is_not_measured(network, images):
    decoder = Linear(3)
    report = run(network, images, (decoder, decoder.encode), {"zero": Constant(torch.zeros(1, *SHAPE))})
    assert all(value != value for value in values(report, "tangent_fraction", "zero"))
    assert values(report, "median_tangent_fraction", "zero", summary=True)[0] != 0


def test_a_function_is_told_by_its_name(network, images):
    from linear_manifold import encode

    report = run(network, images, (decode, encode))
    assert report.run.tests["tangent-space"].settings["source"] == "decode"
