"""Closed forms, parity with scikit-image and SciPy, and the borders where there is nothing to measure."""

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity

from veridical.metrics import cosine, map_similarity, mse, pearson, protocol, spearman, ssim
from veridical.metrics.protocols import normalize


def maps(count=3, height=17, width=14, seed=0):
    return torch.randn(
        count, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize("data_range", [1e-5, 1.0, 2.0, 255.0])
def test_ssim_is_that_of_scikit_image(window, data_range):
    a, b = maps(seed=1), maps(seed=2)
    b = b + a
    expected = [
        structural_similarity(x, y, win_size=window, data_range=data_range)
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    value = ssim(a, b, window=window, data_range=data_range)
    np.testing.assert_allclose(value, expected, atol=1e-10)


def test_gaussian_ssim_is_that_of_scikit_image():
    a, b = maps(seed=1), maps(seed=2)
    expected = [
        structural_similarity(x, y, gaussian_weights=True, data_range=2.0)
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    value = ssim(a, b, window=11, data_range=2.0, kernel="gaussian")
    np.testing.assert_allclose(value, expected, atol=1e-10)


def test_ssim_of_color_images_averages_the_channels():
    a, b = maps(6, seed=1).reshape(2, 3, 17, 14), maps(6, seed=2).reshape(2, 3, 17, 14)
    expected = [
        structural_similarity(x, y, channel_axis=0, data_range=2.0)
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b, window=7, data_range=2.0), expected, atol=1e-10)


def test_ssim_takes_a_data_range_for_each_sample():
    a, b = maps(2, seed=1), maps(2, seed=2)
    value = ssim(a, b, window=5, data_range=torch.tensor([1.0, 0.0]))
    assert value[0] == ssim(a, b, window=5, data_range=1.0)[0]
    assert value[1].isnan()


def test_ssim_is_differentiable():
    a = maps(1, 6, 6, seed=1).requires_grad_()
    b = maps(1, 6, 6, seed=2)
    assert torch.autograd.gradcheck(lambda x: ssim(x, b, window=3, data_range=2.0), (a,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4, "data_range": 1.0}, "odd window"),
        ({"window": 19, "data_range": 1.0}, "got 17x14"),
        ({"window": 5, "data_range": 0.0}, "positive, finite data range"),
        ({"window": 5, "data_range": float("nan")}, "positive, finite data range"),
        ({"window": 5, "data_range": torch.ones(7)}, "one data range or 3"),
        ({"window": 5, "data_range": 1.0, "kernel": "box"}, "'box'"),
    ],
)
def test_ssim_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ssim(maps(), maps(), **options)


@pytest.mark.parametrize("metric", [pearson, spearman, cosine, mse])
def test_refuses_different_shapes_and_other_types(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric(maps(2), maps(3))
    with pytest.raises(TypeError, match="ndarray"):
        metric(maps(2), maps(2).numpy())


def test_correlations_are_those_of_scipy():
    a, b = maps(seed=1), maps(seed=2).round()
    rows = list(zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True))
    np.testing.assert_allclose(pearson(a, b), [stats.pearsonr(x, y)[0] for x, y in rows], atol=1e-12)
    np.testing.assert_allclose(spearman(a, b), [stats.spearmanr(x, y)[0] for x, y in rows], atol=1e-12)
    np.testing.assert_allclose(mse(a, b), [np.mean((x - y) ** 2) for x, y in rows], atol=1e-12)


def test_closed_forms():
    a = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert pearson(a, 5 - 2 * a).item() == pytest.approx(-1.0)
    assert spearman(a, a.exp()).item() == pytest.approx(1.0)
    assert cosine(a, torch.tensor([[[4.0, -3.0], [2.0, -1.0]]])).item() == pytest.approx(0.0)
    assert mse(a, a + 2).item() == 4.0


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e200])
def test_correlations_do_not_depend_on_the_scale(scale):
    a, b = maps(seed=1), maps(seed=2)
    torch.testing.assert_close(pearson(a * scale, b), pearson(a, b))
    torch.testing.assert_close(cosine(a * scale, b), cosine(a, b))


def test_constant_and_unmeasured_maps_are_nan():
    a, b = maps(3), maps(3, seed=5)
    b[0], b[1, 0, 0] = 0.1, float("nan")
    for metric in (pearson, spearman):
        assert metric(a, b).isnan().tolist() == [True, True, False]
    b[0] = 0
    assert cosine(a, b).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["sixt2020", "adebayo2018", "plain"])
def test_protocols_score_equal_maps_one_and_constant_maps_nan(name):
    a = maps()
    a[1] = 3.0
    values = map_similarity(a, a, name).values
    assert values[[0, 2]].tolist() == pytest.approx([1.0, 1.0])
    assert values[1].isnan()


def test_sixt2020_is_the_coded_formula():
    a, b = maps(seed=1), maps(seed=2)
    b = b + a

    def inverted(x):
        top, bottom = np.percentile(x, 99.5), np.percentile(x, 0.5)
        return np.clip((x - top) / (bottom - top), 0, 1)

    def score(x, y):
        return structural_similarity(inverted(x), inverted(y), win_size=5, data_range=2)

    expected = [max(score(x, y), score(x, -y)) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(map_similarity(a, b, "sixt2020").values, expected, atol=1e-10)


def test_swapped_percentiles_invert_the_map():
    a = maps()
    coded, plain = normalize(a, protocol("sixt2020")), normalize(a, protocol("sixt2020", swapped=False))
    torch.testing.assert_close(coded, 1 - plain)


def test_the_sign_flip_is_found_and_reported():
    a = maps()
    same, mirrored = map_similarity(a, 2 * a), map_similarity(a, -3 * a)
    torch.testing.assert_close(same.values, mirrored.values)
    assert same.flipped.tolist() == [False] * 3
    assert mirrored.flipped.tolist() == [True] * 3
    assert not map_similarity(a, -a, "plain").flipped.any()
    assert (map_similarity(a, -a, protocol("sixt2020", flip=False)).values < 0).all()


def test_plain_uses_the_joint_range():
    a, b = maps(seed=1), maps(seed=2) * 3
    wide = [max(x.max(), y.max()) - min(x.min(), y.min()) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    expected = [
        structural_similarity(x, y, data_range=r) for x, y, r in zip(a.numpy(), b.numpy(), wide, strict=True)
    ]
    np.testing.assert_allclose(map_similarity(a, b, "plain").values, expected, atol=1e-10)


def test_protocol_errors():
    with pytest.raises(ValueError, match="did you mean sixt2020"):
        protocol("sixt2021")
    with pytest.raises(ValueError, match="percentile above 50"):
        protocol("sixt2020", percentile=1.0)
    with pytest.raises(ValueError, match="normalization"):
        protocol("plain", normalization="max")
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        map_similarity(maps()[None], maps()[None])
