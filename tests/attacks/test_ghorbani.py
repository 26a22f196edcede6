import math
from importlib import import_module

import pytest
import torch

from networks import Residual, Sequential, images, seeded
from veridical.attacks import (
    GhorbaniSettings,
    ManipulationSettings,
    compare_with_ghorbani,
    ghorbani,
    join,
)
from veridical.attacks.ghorbani import mass_center, top_mask
from veridical.attacks.loss import saliency_map
from veridical.attributions import method
from veridical.smoothing import beta_smooth

WIDE = (-6.0, 6.0)


def fast(attack, **options):
    given = {"steps": 20, "lr": 0.002, "epsilon": 0.02, "top": 0.1, "every": 5, "bounds": WIDE} | options
    return GhorbaniSettings(attack, **given)


def corner(count=3):
    region = torch.zeros(count, 8, 8, dtype=torch.float64)
    region[:, :4, :4] = 1
    return region


def run(attack, name="gradient", count=3, **options):
    region = corner(count) if attack == "region" else None
    return ghorbani(
        seeded(Sequential), images(count), explainer=method(name), region=region,
        settings=fast(attack, **options),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["gradient", "lrp-zplus", "integrated-gradients"])
@pytest.mark.parametrize(("attack", "sign"), [("top-k", -1), ("mass-center", 1), ("region", 1)])
def test_the_quantity_moves_within_the_budget_and_the_class_stays(attack, sign, name):
    result = run(attack, name)
    moved = sign * (result.after - result.before)
    assert bool((moved >= 0).all())
    assert moved.mean() > 0.01
    assert bool(result.output_change.class_kept.all())
    assert result.image_change.linf.max() <= 0.02 + 1e-9
    assert result.image_change.linf.max() > 0.002
    assert not result.interrupted
    assert bool((result.to_original.pcc <= 1).all())


def test_quantities_are_measured_on_the_unmodified_network():
    model, result = seeded(Sequential), run("region")
    maps = saliency_map(method("gradient"), model, result.inputs, model(result.inputs).argmax(1))
    torch.testing.assert_close(result.saliency, maps)
    torch.testing.assert_close(result.after, maps[:, :4, :4].sum((1, 2)))
    top, original = run("top-k"), result.original_saliency
    for index in range(3):
        largest = original[index].flatten().topk(7).indices  # 10 % of 64, rounded up
        assert top.before[index] == pytest.approx(original[index].flatten()[largest].sum().item())
        assert top.after[index] == pytest.approx(top.saliency[index].flatten()[largest].sum().item())
    center = run("mass-center")
    distance = (mass_center(center.saliency) - mass_center(original)).norm(dim=1)
    torch.testing.assert_close(center.after, distance, rtol=0, atol=2e-3)
    assert bool((center.before < 2e-3).all())


@pytest.mark.parametrize("attack", ["top-k", "mass-center", "region"])
def test_a_batch_equals_its_images_one_by_one(attack):
    together = run(attack, count=2, steps=6, every=3)
    model, x = seeded(Sequential), images(2)
    for index in range(2):
        region = corner(1) if attack == "region" else None
        alone = ghorbani(
            model, x[index : index + 1], explainer=method("gradient"), region=region,
            settings=fast(attack, steps=6, every=3),
        )  # fmt: skip
        torch.testing.assert_close(together.inputs[index], alone.inputs[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together.after[index], alone.after[0], rtol=0, atol=1e-9)


def test_parts_are_joined():
    whole = run("top-k")
    parts = [
        ghorbani(seeded(Sequential), some, explainer=method("gradient"), settings=fast("top-k"))
        for some in (images(3)[:1], images(3)[1:])
    ]
    joined = join(parts)
    torch.testing.assert_close(joined.inputs, whole.inputs, rtol=0, atol=1e-9)
    torch.testing.assert_close(joined.after, whole.after)
    assert joined.settings == whole.settings and not joined.interrupted


def test_every_step_has_the_same_size():
    result = run("region", steps=1, every=1, keep="last", bounds=None)
    x = images(3)
    width = x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)
    moved = ((result.inputs - x) / width).abs()
    assert bool(((moved - 0.002).abs().lt(1e-9) | (moved == 0)).all())
    assert bool((moved > 0).any())


def test_clamping_and_the_last_iterate():
    x = images(2).clamp(-1, 1)
    result = ghorbani(
        seeded(Sequential), x, explainer=method("gradient"), region=corner(2),
        settings=fast("region", steps=4, lr=0.1, epsilon=0.5, bounds=(-1.0, 1.0), keep="last"),
    )  # fmt: skip
    assert result.inputs.abs().max() <= 1
    assert result.step.tolist() == [4, 4]


def test_interruption_returns_what_was_reached():
    def stop(done, quantity):
        assert quantity.shape == (3,)
        if done == 12:
            raise KeyboardInterrupt

    result = ghorbani(
        seeded(Sequential), images(3), explainer=method("gradient"), region=corner(),
        settings=fast("region"), callback=stop,
    )  # fmt: skip
    assert result.interrupted
    assert result.step.max() <= 10


@pytest.fixture
def two_at_once(monkeypatch):
    # by name `veridical.attacks.ghorbani` is the function
    module = import_module("veridical.attacks.ghorbani")
    monkeypatch.setattr(module, "together", lambda *_: 2)


@pytest.mark.parametrize("attack", ["top-k", "mass-center", "region"])
def test_the_result_does_not_depend_on_the_parts(attack, monkeypatch, request):
    whole = run(attack, count=5)
    request.getfixturevalue("two_at_once")
    seen = []
    model, region = seeded(Sequential), corner(5) if attack == "region" else None
    parts = ghorbani(
        model, images(5), explainer=method("gradient"), region=region, settings=fast(attack),
        callback=lambda done, values: seen.append((done, int(values.isnan().sum()))),
    )  # fmt: skip
    torch.testing.assert_close(parts.inputs, whole.inputs, rtol=0, atol=1e-10)
    torch.testing.assert_close(parts.after, whole.after, rtol=0, atol=1e-10)
    torch.testing.assert_close(parts.to_original.ssim, whole.to_original.ssim)
    assert torch.equal(parts.step, whole.step)
    assert not parts.interrupted
    assert seen[-1] == (20, 0)
    assert seen[0] == (0, 4) and len(seen) == 60


def test_a_budget_decides_how_many_go_together(monkeypatch):
    called = []

    def watched(model, inputs, target=None):
        called.append(len(inputs))
        return method("gradient")(model, inputs, target)

    def attack(memory_gib):
        called.clear()
        ghorbani(
            seeded(Sequential), images(6), explainer=watched, settings=fast("top-k"), memory_gib=memory_gib
        )
        return max(called)

    assert attack(math.inf) == attack(None) == 6
    monkeypatch.setattr("veridical.attacks.chunks.BLOCK", 1)
    assert attack(None) == 2  # what was measured
    with pytest.raises(ValueError, match="memory_gib of at least"):
        attack(1e-7)
    with pytest.raises(ValueError, match="memory_gib above 0"):
        attack(0.0)


def test_interruption_keeps_the_finished_parts(two_at_once):
    def stop(done, quantity):
        if done == 12:  # in the second of three parts
            raise KeyboardInterrupt

    result = ghorbani(
        seeded(Sequential), images(5), explainer=method("gradient"), region=corner(5),
        settings=fast("region"), callback=stop,
    )  # fmt: skip
    assert result.interrupted
    torch.testing.assert_close(
        result.inputs, run("region", count=5).inputs[: len(result.inputs)], rtol=0, atol=1e-10
    )
    assert len(result.inputs) == 1


def test_what_cannot_work_is_said_before_the_first_part(two_at_once):
    seen = []

    def broken(model, inputs, target=None):
        found = method("gradient")(model, inputs, target)
        return found * torch.where((inputs.detach() == images(5)[4]).flatten(1).all(1).any(), math.nan, 1.0)

    with pytest.raises(ValueError, match=r"image\(s\) \[3, 4\]"):
        ghorbani(
            seeded(Sequential), images(5), explainer=broken, settings=fast("top-k"),
            callback=lambda *_: seen.append(1),
        )  # fmt: skip
    assert not seen


def test_a_map_that_cannot_move_is_refused():
    with pytest.raises(ValueError, match="first order"):
        ghorbani(
            seeded(Residual),
            images(2),
            explainer=method("deconvnet"),
            region=corner(2),
            settings=fast("region"),
        )


def test_smoothed_methods_run_without_growth():
    result = ghorbani(
        seeded(Sequential), images(2), explainer=beta_smooth(method("gradient"), 2.0), region=corner(2),
        settings=fast("region"),
    )  # fmt: skip
    assert bool((result.after > result.before).any())


@pytest.mark.parametrize(
    ("attack", "region", "message"),
    [
        ("region", None, "without"),
        ("top-k", corner(), "with one"),
        ("region", corner()[:2], r"\(3, 8, 8\)"),
        ("region", corner() * 2, "0 and 1"),
        ("region", corner() * 0, "zeros"),
    ],
)
def test_wrong_regions(attack, region, message):
    with pytest.raises(ValueError, match=message):
        ghorbani(
            seeded(Sequential), images(3), explainer=method("gradient"), region=region, settings=fast(attack)
        )


def test_a_region_that_is_no_tensor():
    with pytest.raises(TypeError, match="tensor"):
        ghorbani(seeded(Sequential), images(3), explainer=method("gradient"), region=[1])


@pytest.mark.parametrize(
    "options",
    [
        {"attack": "center"}, {"steps": 0}, {"lr": 0.0}, {"epsilon": 0.0}, {"top": 0.0}, {"top": 1.5},
        {"keep": "first"}, {"bounds": (1.0, 0.0)}, {"smoothing": "yes"}, {"beta": (0.0, 1.0)}, {"every": 0},
    ],
)  # fmt: skip
def test_wrong_settings(options):
    with pytest.raises(ValueError, match="expected"):
        GhorbaniSettings(**options)


def test_settings_are_values():
    first, second = GhorbaniSettings(bounds=(0, 1)), GhorbaniSettings(bounds=(0.0, torch.tensor(1.0)))
    assert first == second
    assert hash(first) == hash(second)
    assert "object at" not in repr(first)


def test_top_and_center_in_closed_form():
    maps = torch.tensor([[[0.5, 0.0], [0.3, 0.2]]])
    assert top_mask(maps, 0.5).tolist() == [[[1, 0], [1, 0]]]
    assert top_mask(maps, 0.26).sum() == 2
    torch.testing.assert_close(mass_center(maps), torch.tensor([[0.5, 0.2]]))


def compared(**options):
    model = seeded(Sequential)
    clean, other = images(6, seed=3).split(3)
    goal = saliency_map(method("gradient"), model, other, model(other).argmax(1)).detach()
    settings = ManipulationSettings(
        steps=30, lr=0.02, factors=(1e6, 1e3), rescale=False, bounds=WIDE, every=10
    )
    return goal, compare_with_ghorbani(
        model, clean, goal, explainer=method("gradient"), settings=settings, **options
    )


def test_both_attacks_on_the_same_pairs():
    goal, result = compared()
    values, intervals = result.measurements(), result.intervals()
    assert set(values) == set(intervals)
    assert result.ghorbani.settings.bounds == ((-6.0,), (6.0,))
    torch.testing.assert_close(result.region, top_mask(goal, 0.1))
    torch.testing.assert_close(
        values["pcc_to_target_difference"],
        values["pcc_to_target_manipulation"] - values["pcc_to_target_ghorbani"],
    )
    assert intervals["pcc_to_target_difference"].estimate > 0
    assert intervals["pcc_to_target_manipulation"].n == 3
    change = result.ghorbani.output_change.probability_change.abs()
    torch.testing.assert_close(values["probability_change_ghorbani"], change)


@pytest.mark.parametrize("calls", [5, 45])
def test_half_a_comparison_is_none(calls, monkeypatch):
    count = []

    def impatient(model, inputs, target=None):
        count.append(1)
        if len(count) == calls:
            raise KeyboardInterrupt
        return method("gradient")(model, inputs, target)

    model, goal = seeded(Sequential), corner(3)
    with pytest.raises(KeyboardInterrupt):
        compare_with_ghorbani(
            model, images(3), goal, explainer=impatient, memory_gib=math.inf,
            settings=ManipulationSettings(steps=30, every=10, bounds=WIDE), ghorbani_settings=fast("region"),
        )  # fmt: skip
    assert len(count) <= calls + 3  # measured, and no second attack


def test_a_comparison_needs_a_target():
    with pytest.raises(ValueError, match="region"):
        compared(ghorbani_settings=fast("top-k"))
    with pytest.raises(ValueError, match="region_share"):
        compared(region_share=0.0)
    with pytest.raises(ValueError, match="same bounds"):
        compared(ghorbani_settings=fast("region", bounds=(-7.0, 7.0)))
