"""How far a manipulation may move an image."""

import math
from dataclasses import asdict

import pytest
import torch

from networks import Residual, images, seeded
from veridical.attacks import ManipulationSettings, manipulate, preset
from veridical.attacks.budget import Budget
from veridical.attributions import method, saliency

EXPLAIN = method("gradient")
PAIRS = 4
BOUNDS = ((-1.0, -2.0, -0.5), (3.0, 1.0, 1.5))
WIDTH = torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)[:, None, None]


def clean():
    return images(PAIRS, 12).clamp(-0.4, 0.9)


def attack(callback=None, **changes):
    model, x = seeded(Residual), clean()
    goal = saliency(EXPLAIN(model, x.roll(1, 0))).detach()
    settings = ManipulationSettings(
        **{"steps": 15, "lr": 0.05, "rescale": False, "keep": "last", "every": 5, "bounds": BOUNDS} | changes
    )
    return manipulate(model, x, goal, explainer=EXPLAIN, settings=settings, callback=callback)


def size(result, width=WIDTH):
    change = ((result.inputs - clean()) / width).flatten(1)
    return change.abs().amax(1), change.norm(dim=1)


def test_without_a_budget_the_attack_goes_farther():
    linf, l2 = size(attack())
    assert bool((linf > 0.05).all()) and bool((l2 > 0.3).all())


def test_no_value_moves_farther_than_allowed():
    result = attack(max_linf=0.02)
    assert size(result)[0].tolist() == pytest.approx([0.02] * PAIRS)
    assert result.image_change.linf.tolist() == pytest.approx([0.02] * PAIRS)
    assert bool((result.similarity.to_target.pcc > result.similarity.before.pcc).all())


def test_each_image_keeps_its_own_norm():
    limits = (0.3, 0.0, 0.1, 0.2)
    result = attack(max_l2=limits)
    assert size(result)[1].tolist() == pytest.approx(limits)
    assert result.image_change.l2.tolist() == pytest.approx(limits)
    assert torch.equal(result.inputs[1], clean()[1])


def test_a_result_can_be_the_budget_of_another_attack():
    first = attack(lr=0.01)
    second = attack(max_l2=first.image_change.l2)
    assert bool((second.image_change.l2 <= first.image_change.l2 * (1 + 1e-9)).all())
    assert second.settings.max_l2 == tuple(first.image_change.l2.tolist())


def test_both_limits_and_the_bounds_hold_together():
    result = attack(max_linf=0.03, max_l2=0.25, bounds=((-0.41,) * 3, (0.91,) * 3))
    linf, l2 = size(result, 1.32)
    assert bool((linf <= 0.03 + 1e-9).all()) and bool((l2 <= 0.25 + 1e-9).all())
    assert result.inputs.min() >= -0.41 and result.inputs.max() <= 0.91


def test_without_bounds_the_unit_is_that_of_the_input():
    assert size(attack(bounds=None, max_linf=0.07), 1.0)[0].tolist() == pytest.approx([0.07] * PAIRS)
    assert size(attack(bounds=None, max_l2=0.2), 1.0)[1].tolist() == pytest.approx([0.2] * PAIRS)


def test_an_ample_budget_changes_nothing():
    assert torch.equal(attack(max_linf=10.0, max_l2=100.0).inputs, attack().inputs)


@pytest.mark.parametrize("gradient", ["exact", "estimated"])
def test_the_budget_does_not_depend_on_the_parts(gradient, monkeypatch):
    limits = (0.3, 0.2, 0.1, 0.2)
    whole = attack(max_l2=limits, gradient=gradient, directions=2)
    monkeypatch.setattr("veridical.attacks.manipulation.pairs_together", lambda *_: 3)  # two and two
    parts = attack(max_l2=limits, gradient=gradient, directions=2)
    torch.testing.assert_close(parts.inputs, whole.inputs, rtol=0, atol=1e-10)
    assert parts.settings.max_l2 == limits


def test_an_interrupted_attack_has_the_limits_of_what_it_returns(monkeypatch):
    def stop(done, losses):
        if not losses.isnan().any():  # the second part is at work
            raise KeyboardInterrupt

    monkeypatch.setattr("veridical.attacks.manipulation.pairs_together", lambda *_: 3)  # two and two
    found = attack(max_l2=(0.3, 0.2, 0.1, 0.2), callback=stop)
    assert found.interrupted and len(found.inputs) == 2
    assert found.settings.max_l2 == (0.3, 0.2)


def test_every_iterate_that_is_looked_at_is_within():
    seen = []

    def watched(model, inputs, target=None):
        seen.append(inputs.detach())
        return EXPLAIN(model, inputs, target)

    model, x = seeded(Residual), clean()
    goal = saliency(EXPLAIN(model, x.roll(1, 0))).detach()
    settings = ManipulationSettings(steps=4, lr=0.5, rescale=False, max_linf=0.01)
    manipulate(model, x, goal, explainer=watched, settings=settings, memory_gib=math.inf)
    assert len(seen) > 5
    assert max(float((one - x).abs().max()) for one in seen) == pytest.approx(0.01)


def test_single_precision_keeps_the_norm_to_rounding():
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = Budget(l2=torch.full((3,), 1.5, dtype=torch.float64)).within(moved, x, 1.0)
    assert found.dtype == torch.float32
    assert (found - x).flatten(1).double().norm(dim=1).tolist() == pytest.approx([1.5] * 3, rel=1e-5)


def test_settings_with_a_budget_compare_and_hash():
    one = ManipulationSettings(max_l2=torch.tensor([0.5, 0.25]), max_linf=0.125)
    assert one == ManipulationSettings(max_l2=(0.5, 0.25), max_linf=0.125)
    assert hash(one) == hash(ManipulationSettings(max_l2=[0.5, 0.25], max_linf=0.125))
    assert asdict(one)["max_l2"] == (0.5, 0.25)
    assert ManipulationSettings(max_l2=(0.5,)).max_l2 == 0.5


def test_settings_of_some_images_have_their_limits():
    one = ManipulationSettings(max_l2=(0.5, 0.25, 0.125), max_linf=0.1)
    assert one.for_pairs(slice(1, 3)) == ManipulationSettings(max_l2=(0.25, 0.125), max_linf=0.1)
    assert preset().for_pairs(slice(0, 1)) == preset()


@pytest.mark.parametrize("limit", [-0.1, math.nan, math.inf, (0.1, -1.0), ()])
@pytest.mark.parametrize("name", ["max_linf", "max_l2"])
def test_wrong_limits(name, limit):
    with pytest.raises(ValueError, match=f"expected {name} of 0 or more"):
        ManipulationSettings(**{name: limit})


@pytest.mark.parametrize("name", ["max_linf", "max_l2"])
def test_a_limit_for_another_number_of_images(name):
    with pytest.raises(ValueError, match=f"expected {name} of 1 or 4 numbers, got 3"):
        attack(**{name: (0.1, 0.2, 0.3)})
