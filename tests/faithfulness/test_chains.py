"""Chains of random matrices: the simulation of Sixt et al. 2020, figure 7, and known limits."""

import math

import numpy as np
import pytest
import torch

from veridical.faithfulness import simulate_chains, simulate_given
from veridical.faithfulness.chains import VARIANTS, VGG16_WIDTHS, ChainSettings, row_complements

SMALL = (40, 30, 20, 20, 10)
ALPHAS = (2.0, 3.0, 4.0, 5.0, 10.0)
STEPS = (2, 4, 6, 8, 12, 16)
# Measured once, independently, with 5 repetitions: 1 - mean with the diagonal, 1 - median without. Values at
# the limit of 1 - cos in double precision (1e-14 and below) are left out: there only ours has digits.
REFERENCE = {
    "vanilla": (["0.91", "0.88", "0.87", "0.86", "0.81", "0.42"],
                ["0.97", "0.95", "0.93", "0.92", "0.87", "0.42"]),
    "relu": (["0.47", "0.32", "0.20", "0.15", "0.11", "0.19"],
             ["0.50", "0.34", "0.21", "0.16", "0.12", "0"]),
    "stochastic": (["1e-2", "2e-9"], ["4e-4", "6e-11"]),
    "positive": (["3.5e-3", "5e-10"], ["3e-4", "5e-11"]),
    "non-negative": (["8e-2", "3e-7", "5e-12"], ["6e-3", "1e-8", "2.5e-13"]),
    "alpha 2 beta 1": (["0.31", "7e-4", "6e-7", "5e-10"], ["0.23", "3e-5", "3e-8", "2e-11"]),
    "alpha 3 beta 2": (["0.54", "1e-2", "8e-5", "4e-7", "1e-10", "5e-12"], ["0.54", "1e-3", "6e-6", "3e-8"]),
    "alpha 4 beta 3": (["0.69", "9e-2", "2e-2", "6e-4", "2e-6", "9e-7"],
                       ["0.77", "1e-2", "3e-4", "7e-6", "2e-8", "2e-9"]),
    "alpha 5 beta 4": (["0.83", "0.18", "5e-2", "1e-2", "4e-4", "2e-4"],
                       ["0.90", "0.07", "4e-3", "3e-4", "6e-6", "5e-6"]),
    "alpha 10 beta 9": (["0.91", "0.83", "0.79", "0.74", "0.69", "0.44"],
                        ["0.97", "0.91", "0.88", "0.83", "0.76", "0.45"]),
}  # fmt: skip


def rounding(printed):
    """Half a unit of the last printed digit."""
    mantissa, _, exponent = printed.partition("e")
    digits = len(mantissa.partition(".")[2])
    return 0.5 * 10.0 ** (int(exponent or 0) - digits)


@pytest.mark.slow
def test_the_table_of_the_reference_is_reproduced():
    """Every number lies between the smallest and the largest of 20 repetitions, up to its printed digits."""
    found = simulate_chains(alphas=ALPHAS)
    assert set(found.variants) == set(REFERENCE)
    for measure, column in (("coded", 0), ("worded", 1)):
        low, high = found.range(measure)
        for row, variant in enumerate(found.variants):
            for step, printed in zip(STEPS, REFERENCE[variant][column], strict=False):
                value, half = float(printed), rounding(printed)
                assert low[row, step] - half <= value <= high[row, step] + half, (variant, measure, step)
    middle = found.median("coded")
    for variant in ("positive", "stochastic", "non-negative"):
        row = found.variants.index(variant)
        assert middle[row, 7] < 1e-13  # "after 7 iterations", where the first product is counted
        slopes = np.diff(np.log10(middle[row, 3:9].numpy()))
        assert slopes.max() / slopes.min() > 0.6  # straight on a logarithmic axis
    assert found.nan_fraction[found.variants.index("relu"), :, -1].max() > 0.5


def test_the_shapes_are_those_of_vgg16():
    assert len(VGG16_WIDTHS) == 17
    assert VGG16_WIDTHS[:4] == (1000, 4096, 4096, 512)
    assert VGG16_WIDTHS[-3:] == (64, 64, 3)
    assert VGG16_WIDTHS.count(512) == 6


def test_both_measures_are_those_of_a_naive_loop():
    found = simulate_chains(widths=SMALL, variants=("vanilla",), vectors=5, repetitions=1, seed=3)
    source = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=seeded(3))))
    rows = torch.randn(5, 40, generator=source, dtype=torch.float64)
    for step, (a, b) in enumerate(zip((None, *SMALL), SMALL, strict=False)):
        if a is not None:
            rows = rows @ torch.randn(a, b, generator=source, dtype=torch.float64)
        cosines = np.abs(cosine_table(rows))
        low = cosines[np.tril_indices(5)]
        apart = cosines[np.tril_indices(5, -1)]
        assert found.coded[0, 0, step] == pytest.approx(1 - low.mean(), rel=1e-12)
        assert found.worded[0, 0, step] == pytest.approx(1 - np.median(apart), rel=1e-12)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def cosine_table(rows):
    unit = rows / rows.norm(dim=1, keepdim=True)
    return (unit @ unit.T).numpy()


@pytest.mark.parametrize(("variant", "transform"), [
    ("stochastic", lambda w: np.abs(w) / np.abs(w).sum(0)),
    ("positive", np.abs),
    ("non-negative", lambda w: np.maximum(w, 0)),
    ("alpha 3 beta 2", lambda w: 3 * np.maximum(w, 0) + 2 * np.minimum(w, 0)),
])  # fmt: skip
def test_each_variant_is_what_its_name_says(variant, transform):
    sweep = {"alphas": (3.0,), "variants": ()} if "alpha" in variant else {"variants": (variant,)}
    found = simulate_chains(widths=(12, 9, 7), vectors=4, repetitions=1, **sweep)
    source = seeded(int(torch.randint(2**62, (), generator=seeded(0))))
    draws = [torch.randn(a, b, generator=source, dtype=torch.float64) for a, b in ((4, 12), (12, 9), (9, 7))]
    rows = draws[0].numpy() @ transform(draws[1].numpy()) @ transform(draws[2].numpy())
    apart = np.abs(cosine_table(torch.from_numpy(rows)))[np.tril_indices(4, -1)]
    assert found.variants == (variant,)
    assert found.worded[0, 0, 2] == pytest.approx(1 - np.median(apart))


def test_alpha_1_is_non_negative_and_relu_spares_the_start():
    found = simulate_chains(
        widths=SMALL, variants=("non-negative", "vanilla", "relu"), alphas=(1.0,), repetitions=2
    )
    torch.testing.assert_close(found.coded[0], found.coded[3], rtol=1e-9, atol=0)
    assert torch.equal(found.coded[1, :, 0], found.coded[2, :, 0])
    assert (found.coded[2, :, 1] < found.coded[1, :, 1]).all()


def test_positive_chains_lose_their_digits_steadily():
    found = simulate_chains(widths=(64,) * 8, variants=("positive", "vanilla"), repetitions=5, vectors=8)
    positive, vanilla = found.median("worded")
    assert (positive[2:] < 0.05 * positive[1:-1]).all()
    assert positive[-1] < 1e-11
    assert (vanilla > 0.5).all()


def test_a_chain_of_rank_one_converges_in_one_step_and_a_rotation_never():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    flat = simulate_given([torch.outer(left, right)], vectors=6, repetitions=3)
    assert flat.coded[0, :, 1].max() < 1e-28
    assert flat.worded[0, :, 0].min() > 0.1
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    turned = simulate_given([rotation] * 20, vectors=6, repetitions=3, name="rotation")
    torch.testing.assert_close(turned.worded[0], turned.worded[0, :, :1].expand(-1, 21))
    assert turned.variants == ("rotation",)
    assert turned.settings.widths == (6,) * 21


def test_given_matrices_with_relu_and_rows_that_die():
    killer = -torch.ones(3, 3)
    found = simulate_given([torch.eye(3).abs(), killer], rectified=True, vectors=4, repetitions=2)
    assert (found.nan_fraction[0, :, -1] == 1).all()
    assert found.coded[0, :, -1].isnan().all()
    assert found.worded[0, :, -1].isnan().all()
    assert found.median()[0, -1].isnan()


def test_rows_that_are_zero_are_left_out_of_both_measures():
    rows = torch.tensor([[1.0, 0], [0, 0], [2, 0], [0, 3]])
    pairs = row_complements(rows)
    assert pairs.isnan().sum() == 3
    assert sorted(pairs[~pairs.isnan()].tolist()) == pytest.approx([0, 1, 1])


def test_complements_do_not_cancel():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1e-10]], dtype=torch.float64)
    assert float(row_complements(rows)) == pytest.approx(0.5e-20, rel=1e-6)
    assert float(row_complements(1e300 * rows)) == pytest.approx(0.5e-20, rel=1e-6)


def test_long_chains_neither_overflow_nor_vanish():
    big = simulate_given([1e200 * torch.eye(4, dtype=torch.float64)] * 5, vectors=3, repetitions=1)
    assert big.coded.isfinite().all()
    tiny = simulate_given([1e-200 * torch.eye(4, dtype=torch.float64)] * 5, vectors=3, repetitions=1)
    torch.testing.assert_close(big.coded, tiny.coded)


def test_results_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one = simulate_chains(widths=SMALL, repetitions=5, batch=2, alphas=(2.0,))
    other = simulate_chains(widths=SMALL, repetitions=5, batch=5, alphas=(2.0,))
    torch.testing.assert_close(one.coded, other.coded, rtol=1e-9, atol=1e-30)
    torch.testing.assert_close(one.worded, other.worded, rtol=1e-9, atol=1e-30)
    assert torch.equal(torch.get_rng_state(), state)
    another = simulate_chains(widths=SMALL, repetitions=5, alphas=(2.0,), seed=1)
    assert not torch.equal(one.coded, another.coded)
    few = simulate_chains(widths=SMALL, repetitions=2, variants=("positive",))
    torch.testing.assert_close(few.coded[0], one.coded[VARIANTS.index("positive"), :2], rtol=1e-9, atol=1e-30)
    assert math.isclose(float(few.range()[0][0, 1]), float(few.coded[0, :, 1].min()))


@pytest.mark.parametrize(("settings", "message"), [
    ({"variants": ("negative",)}, "expected variant"),
    ({"variants": ()}, "expected at least one variant or alpha, got none"),
    ({"alphas": (0.5,)}, "expected alphas of 1 or more"),
    ({"widths": (3,)}, "expected two positive widths or more"),
    ({"widths": (3, 0)}, "expected two positive widths or more"),
    ({"vectors": 1}, "expected at least 2 vectors"),
    ({"repetitions": 0}, "expected one repetition"),
    ({"batch": 0}, "expected one repetition"),
])  # fmt: skip
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ChainSettings(**settings)


@pytest.mark.parametrize("matrices", [[], [torch.ones(3)], [torch.ones(3, 2), torch.ones(3, 2)]])
def test_given_matrices_must_fit(matrices):
    with pytest.raises(ValueError, match=r"expected matrices \(a, b\), \(b, c\)"):
        simulate_given(matrices)


def test_an_unknown_measure_or_setting():
    found = simulate_chains(widths=(4, 3), variants=("positive",), repetitions=1)
    with pytest.raises(ValueError, match="expected measure"):
        found.median("mean")
    with pytest.raises(TypeError):
        simulate_chains(width=3)
