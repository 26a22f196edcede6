"""Measures beside SSIM: closed forms, sign flips, and maps that cannot be measured."""

import numpy as np
import pytest
import torch
from skimage.feature import hog

from veridical.metrics import (
    MEASURES,
    compare_maps,
    hog_similarity,
    map_error,
    map_similarity,
    mse,
    pearson,
    protocol,
    spearman,
)
from veridical.metrics.protocols import mirrored, normalize


def maps(count=3, side=48, seed=0):
    return torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_measure_is_what_its_name_says():
    a, b = maps(seed=1), maps(seed=2) - maps(seed=1)
    similarity, found = compare_maps(a, b, "sixt2020", MEASURES)
    assert tuple(found) == MEASURES
    assert torch.equal(found["ssim"], similarity.values)
    assert torch.equal(found["ssim"], found["ssim-sixt2020"])
    for name in ("adebayo2018", "plain"):
        torch.testing.assert_close(found[f"ssim-{name}"], map_similarity(a, b, name).values)
    torch.testing.assert_close(found["pcc"], pearson(a, b))
    torch.testing.assert_close(found["spearman"], spearman(a, b))
    assert (found["pcc"] < 0).all() and torch.equal(found["abs-pcc"], -found["pcc"])
    assert torch.equal(found["abs-spearman"], -found["spearman"])
    torch.testing.assert_close(found["hog-8"], hog_similarity(a, b, "hog-8"))
    plain = compare_maps(a, b, "plain", ("mse",))[1]["mse"]
    torch.testing.assert_close(plain, mse(a, b))


def test_a_pair_is_compared_as_if_alone():
    a, b = maps(9, 60, seed=1), maps(9, 60, seed=2) - maps(9, 60, seed=1)  # four at a time
    b[3] = 0.5
    together = compare_maps(a, b, "sixt2020", MEASURES)
    for index in range(9):
        similarity, found = compare_maps(a[index, None], b[index, None], "sixt2020", MEASURES)
        torch.testing.assert_close(similarity.values, together[0].values[index, None], equal_nan=True)
        assert torch.equal(similarity.flipped, together[0].flipped[index, None])
        for name in MEASURES:
            torch.testing.assert_close(found[name], together[1][name][index, None], equal_nan=True)
    assert together[1]["ssim"].isnan().tolist() == [index == 3 for index in range(9)]


@pytest.mark.parametrize("name", ["sixt2020", "adebayo2018", "plain"])
@pytest.mark.parametrize("swapped", [True, False])
def test_the_negative_maps_need_no_second_normalization(name, swapped):
    how, signed = protocol(name, swapped=swapped), maps()
    torch.testing.assert_close(
        mirrored(normalize(signed, how), how), normalize(-signed, how), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("name", ["hog", "hog-8"])
def test_hog_is_the_correlation_of_the_descriptors_of_scikit_image(name):
    a, b = maps(seed=1), maps(seed=2) + maps(seed=1)
    cell = {"hog": (16, 16), "hog-8": (8, 8)}[name]
    rows = [[hog(one / np.abs(one).max(), pixels_per_cell=cell) for one in maps_.numpy()] for maps_ in (a, b)]
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(*rows, strict=True)]
    np.testing.assert_allclose(hog_similarity(a, b, name), expected, atol=1e-12)
    assert hog_similarity(a, a, name).tolist() == pytest.approx([1.0] * 3)
    torch.testing.assert_close(hog_similarity(a, -1e-9 * a, name), torch.ones(3, dtype=torch.float64))


def test_the_error_is_that_of_the_normalized_maps():
    a, b = maps(seed=1), maps(seed=2)
    scaled = mse(a / a.abs().amax((1, 2), keepdim=True), b / b.abs().amax((1, 2), keepdim=True))
    torch.testing.assert_close(map_error(a, b, "adebayo2018"), scaled)
    torch.testing.assert_close(map_error(a, -2 * a), torch.zeros(3, dtype=torch.float64))
    unflipped = map_error(a, -2 * a, protocol("sixt2020", flip=False))
    assert (unflipped > 0.1).all() and (unflipped <= 1).all()
    swapped = map_error(a, b, protocol("sixt2020", swapped=False))
    torch.testing.assert_close(map_error(a, b), swapped)


def test_a_sign_flip_is_seen_by_the_signed_measures_alone():
    a = maps()
    similarity, found = compare_maps(a, -a, "sixt2020", MEASURES)
    assert similarity.flipped.all()
    for name in ("ssim", "abs-pcc", "abs-spearman", "hog", "hog-8"):
        assert found[name].tolist() == pytest.approx([1.0] * 3), name
    assert found["pcc"].tolist() == pytest.approx([-1.0] * 3) and found["mse"].abs().max() < 1e-20


@pytest.mark.parametrize("how", ["sixt2020", "adebayo2018", "plain"])
def test_constant_and_infinite_maps_are_measured_by_nothing(how):
    a, b = maps(4), maps(4, seed=5)
    b[0], b[1, 0, 0], b[2, 3, 3] = 0.25, torch.nan, torch.inf
    _, found = compare_maps(a, b, how, MEASURES)
    for name, values in found.items():
        assert values.isnan().tolist() == [True, True, True, False], name


def test_measures_of_a_pair_do_not_depend_on_the_batch():
    a, b = maps(3, seed=1), maps(3, seed=2)
    together = compare_maps(a, b, measures=MEASURES)[1]
    for index in range(3):
        alone = compare_maps(a[index : index + 1], b[index : index + 1], measures=MEASURES)[1]
        for name, values in alone.items():
            torch.testing.assert_close(values, together[name][index : index + 1])


def test_wrong_names_and_sizes_are_named():
    with pytest.raises(ValueError, match="did you mean spearman"):
        compare_maps(maps(), maps(), measures=("spearmen",))
    with pytest.raises(TypeError, match="a tuple of names"):
        compare_maps(maps(), maps(), measures="pcc")
    with pytest.raises(ValueError, match="name each once"):
        compare_maps(maps(), maps(), measures=("pcc", "pcc"))
    with pytest.raises(ValueError, match="at least 48x48 pixels for 'hog', got 32x32; use 'hog-8'"):
        hog_similarity(maps(side=32), maps(side=32))
    with pytest.raises(ValueError, match="HOG protocol"):
        hog_similarity(maps(), maps(), "hog-9")
    with pytest.raises(ValueError, match="reduce the channels"):
        hog_similarity(maps()[None], maps()[None])
    with pytest.raises(ValueError, match="reduce the channels"):
        map_error(maps()[None], maps()[None])
