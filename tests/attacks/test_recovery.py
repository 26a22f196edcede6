"""Undoing an attack: the curves, and where they cross."""

import math

import pytest
import torch
from torch import nn

from networks import images, seeded
from veridical.attacks import (
    AttackedPairs,
    ManipulationSettings,
    RecoveryCurve,
    RecoverySettings,
    manipulate,
    undo,
)
from veridical.attributions import method
from veridical.metrics import box, pearson
from veridical.smoothing import beta_smooth, smoothgrad
from veridical.tensors import sum_normalize

GRADIENT = method("gradient")
LEVELS = {"betas": (3.0, 30.0), "noises": (0.1, 0.02), "samples": 3, "seed": 4}


def network():
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 4),
        )
    )  # fmt: skip


def goals(count=4):
    maps = torch.full((count, 8, 8), 0.05, dtype=torch.float64)
    for index in range(count):
        maps[index, index : index + 4, 2:6] = 1.0
    return maps


@pytest.fixture(scope="module")
def attacked():
    settings = ManipulationSettings(steps=120, lr=0.02, factors=(1e6, 1e3), rescale=False, every=20)
    return manipulate(network(), images(4), goals(), explainer=GRADIENT, settings=settings)


def run(attacked, *, target=None, callback=None, **changes):
    pairs = AttackedPairs(images(4), attacked.inputs, goals(), target)
    settings = RecoverySettings(**{**LEVELS, **changes})
    return undo(network(), pairs, GRADIENT, settings=settings, callback=callback)


def curve(kind, levels, ahead):
    """A curve whose correlations with the original are ahead of those with the target by `ahead` (L, N)."""
    ahead = torch.tensor(ahead, dtype=torch.float64)
    return RecoveryCurve(kind, levels, torch.zeros_like(ahead), ahead, ahead * math.nan, None)


def test_an_attacked_gradient_map_is_recovered_at_small_beta(attacked):
    found = run(attacked, betas=(1000.0, 10.0, 1.0, 0.1)).beta
    assert bool((found.to_target[0] > found.to_smoothed[0]).all())
    assert bool((found.to_smoothed[-1] > 0.99).all())
    assert bool((found.to_smoothed[-1] > found.to_target[-1]).all())
    crossing = found.crossing()
    assert bool(((crossing.values >= 0.1) & (crossing.values <= 1000)).all())
    assert crossing.share.estimate == 1.0 and crossing.summary.n == 4
    assert not bool((crossing.already | crossing.never).any())


def test_the_curves_begin_with_the_unmodified_method(attacked):
    found = run(attacked)
    for one in (found.beta, found.noise):
        torch.testing.assert_close(one.to_target[0], attacked.similarity.to_target.pcc)
        torch.testing.assert_close(one.to_smoothed[0], attacked.similarity.to_original.pcc)
        assert torch.equal(one.to_smoothed[0], one.to_plain[0])
    assert found.beta.levels == (math.inf, 30.0, 3.0)
    assert found.noise.levels == (0.0, 0.02, 0.1)


def maps(explainer, x):
    net = network()
    return sum_normalize(explainer(net, x, net(x).argmax(1)).abs().sum(1)).detach()


def test_every_level_is_the_smoothed_method_against_each_reference(attacked):
    found = run(attacked, keep_maps=True)
    cases = (
        (found.beta, 2, beta_smooth(GRADIENT, 3.0)),
        (found.noise, 1, smoothgrad(GRADIENT, 3, 0.02, seed=4)),
    )
    for one, level, explainer in cases:
        changed, clean = maps(explainer, attacked.inputs), maps(explainer, images(4))
        torch.testing.assert_close(one.maps[level], changed)
        torch.testing.assert_close(one.to_target[level], pearson(changed, goals()))
        torch.testing.assert_close(one.to_smoothed[level], pearson(changed, clean))
        torch.testing.assert_close(one.to_plain[level], pearson(changed, maps(GRADIENT, images(4))))


def test_the_result_does_not_depend_on_the_batch(attacked):
    together, alone = run(attacked), run(attacked, batch=1)
    for name in ("to_target", "to_smoothed", "to_plain"):
        for kind in ("beta", "noise"):
            one, two = (getattr(getattr(found, kind), name) for found in (together, alone))
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


def test_one_class_can_be_explained(attacked):
    target = torch.tensor([0, 1, 2, 3])
    found = run(attacked, target=target, noises=(), batch=3, keep_maps=True)
    expected = sum_normalize(GRADIENT(network(), attacked.inputs, target).abs().sum(1))
    torch.testing.assert_close(found.beta.maps[0], expected)
    assert found.noise.levels == (0.0,)


def test_the_settings_travel_with_the_result(attacked):
    found = run(attacked, range=2.0)
    assert found.method == "gradient"
    assert found.settings == RecoverySettings((3.0, 30.0), (0.1, 0.02), samples=3, range=2.0, seed=4)
    assert not found.interrupted and found.beta.maps is None


def test_levels_are_kept_in_the_order_of_growing_smoothing():
    settings = RecoverySettings([1.0, 10.0, 1.0], [0.2, 0.1])
    assert (settings.betas, settings.noises) == ((10.0, 1.0), (0.1, 0.2))
    assert settings == RecoverySettings((10.0, 1.0), (0.1, 0.2))
    assert hash(settings) == hash(RecoverySettings((10.0, 1.0), (0.1, 0.2)))


def test_target_maps_of_pairs_sum_to_one():
    pairs = AttackedPairs(images(4), images(4), goals())
    assert len(pairs) == 4 and len(pairs[1:3]) == 2
    torch.testing.assert_close(pairs.target_map, sum_normalize(goals()))
    torch.testing.assert_close(pairs[1:3].target_map, sum_normalize(goals())[1:3])


def test_bands_are_boxes(attacked):
    found = run(attacked)
    rows = found.noise.bands(level=0.9, seed=1)
    assert len(rows) == 3 * 3 and {row["kind"] for row in rows} == {"noise"}
    row = next(r for r in rows if r["smoothing"] == 0.1 and r["correlation_with"] == "plain original")
    expected = box(found.noise.to_plain[2], level=0.9, seed=1)
    assert (row["median"], row["q10"], row["q90"], row["n"]) == (
        expected.median, expected.q10, expected.q90, 4,
    )  # fmt: skip


def test_crossing_is_interpolated_in_log_beta():
    found = curve("beta", (math.inf, 100.0, 10.0), [[-1.0, -1.0], [-0.5, -0.25], [0.5, 0.75]]).crossing()
    assert found.values.tolist() == pytest.approx([10**1.5, 10**1.75])


def test_crossing_is_interpolated_in_noise():
    found = curve("noise", (0.0, 0.1, 0.2), [[-1.0], [-0.25], [0.75]]).crossing()
    assert found.values.tolist() == pytest.approx([0.125])
    assert curve("noise", (0.0, 0.1), [[-0.3], [0.1]]).crossing().values.item() == pytest.approx(0.075)


def test_above_the_first_beta_nothing_is_interpolated():
    assert curve("beta", (math.inf, 100.0), [[-0.5], [0.5]]).crossing().values.item() == 100.0


def test_pairs_without_a_crossing():
    ahead = [[0.2, -0.5, -0.5, math.nan], [-0.1, -0.4, 0.5, 0.1], [0.3, -0.3, -0.5, 0.2]]
    found = curve("noise", (0.0, 0.1, 0.2), ahead).crossing()
    assert found.values.isnan().tolist() == [True, True, False, True]
    assert found.already.tolist() == [True, False, False, False]
    assert found.never.tolist() == [False, True, False, False]
    assert (found.summary.n, found.summary.missing) == (1, 3)
    assert (found.share.estimate, found.share.n) == (0.5, 2)


def test_crossing_asks_for_a_known_reference():
    one = curve("noise", (0.0, 0.1), [[-1.0], [1.0]])
    assert math.isnan(one.crossing("plain").values.item())
    with pytest.raises(ValueError, match="reference"):
        one.crossing("relu")


def test_interruption_returns_what_is_measured(attacked):
    def stop(share):
        if share > 0.6:
            raise KeyboardInterrupt

    found = run(attacked, batch=2, callback=stop)
    assert found.interrupted
    assert bool(found.beta.to_target[:, :2].isfinite().all())
    assert bool(found.noise.to_target[-1, 2:].isnan().all())
    assert found.noise.bands()[-1]["missing"] == 2


def test_progress_ends_at_one(attacked):
    told = []
    run(attacked, callback=told.append, batch=3)
    assert told == sorted(told) and told[-1] == 1.0


def test_model_and_generator_are_as_before(attacked):
    state, net = torch.get_rng_state(), network()
    pairs = AttackedPairs(images(4), attacked.inputs, goals())
    undo(net, pairs, GRADIENT, settings=RecoverySettings(**LEVELS))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


WRONG = {
    "shape": ({"manipulated": images(3)}, r"shape \(4, 3, 8, 8\), got \(3, 3, 8, 8\)"),
    "map": ({"target_map": goals()[:2]}, "target_map of shape"),
    "negative map": ({"target_map": -goals()}, "non-negative"),
    "beta": ({"betas": (0.0,)}, "beta"),
    "noise": ({"noises": (-1.0,)}, "noise level"),
    "samples": ({"samples": 0}, "samples"),
    "batch": ({"batch": 0}, "batch"),
    "smoothed": ({"explainer": beta_smooth(GRADIENT)}, "plain method, got beta-smooth.*the method inside"),
    "wrapped": ({"explainer": smoothgrad(beta_smooth(GRADIENT))}, "plain method, got smoothgrad.*betas="),
    "target": ({"target": 9}, "0..3, got 9"),
    "targets": ({"target": torch.zeros(5, dtype=torch.long)}, r"shape \(4,\), got \(5,\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    changes, message = WRONG[name]
    given = {"clean": images(4), "manipulated": images(4), "target_map": goals(), "target": None, **LEVELS}
    given = {"explainer": GRADIENT, **given, **changes}
    names = ("clean", "manipulated", "target_map", "target", "explainer")
    clean, manipulated, maps, target, explainer = (given.pop(name) for name in names)
    with pytest.raises(ValueError, match=message):
        pairs = AttackedPairs(clean, manipulated, maps, target)
        undo(network(), pairs, explainer, settings=RecoverySettings(**given))


def test_a_network_without_relu_has_a_noise_curve_only():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = images(2)
    pairs = AttackedPairs(x, x + 0.1, goals(2))
    found = undo(net, pairs, GRADIENT, settings=RecoverySettings(betas=(), noises=(0.1,), samples=2))
    assert bool(found.noise.to_target.isfinite().all())
    with pytest.raises(ValueError, match="ReLU"):
        undo(net, pairs, GRADIENT, settings=RecoverySettings(betas=(1.0,)))
