"""The comparison of several methods under the same attack."""

import math
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
import torch
from torch import nn

from networks import images, seeded
from veridical.attacks import (
    ManipulationSettings,
    Robustness,
    compare_robustness,
    manipulate,
    smoothing_variants,
)
from veridical.attacks.loss import saliency_map
from veridical.attributions import method
from veridical.metrics import share_interval
from veridical.smoothing import BetaSmoothed, NoiseAveraged, beta_smooth

GRADIENT = method("gradient")
SETTINGS = ManipulationSettings(steps=20, lr=0.03, factors=(1e6, 1e3), rescale=False, every=10)
METHODS = smoothing_variants(GRADIENT, beta=0.5, samples=3)
ONE = {"plain": GRADIENT}
TWO = {name: METHODS[name] for name in ("plain", "beta-smoothed")}


@dataclass(frozen=True)
class Detached:
    name: str = "detached"
    differentiable: bool = False

    def __call__(self, model, inputs, target=None):
        return GRADIENT(model, inputs, target).detach()


def network():
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 4),
        )
    )  # fmt: skip


def goals(count=3):
    maps = torch.full((count, 8, 8), 0.05, dtype=torch.float64)
    for index in range(count):
        maps[index, index : index + 4, 2:6] = 1.0
    return maps


def run(**options):
    options = {"explainers": METHODS, "settings": SETTINGS, **options}
    return compare_robustness(network(), images(3), options.pop("target_maps", goals()), **options)


@pytest.fixture(scope="module")
def compared():
    return run()


def test_each_method_gets_the_same_attack(compared):
    for name, explainer in METHODS.items():
        alone = manipulate(network(), images(3), goals(), explainer=explainer, settings=SETTINGS)
        torch.testing.assert_close(compared.methods[name].outcome.inputs, alone.inputs)
        assert compared.methods[name].explainer == explainer
    assert compared.settings == SETTINGS and not compared.interrupted


def test_the_smoothed_method_withstands_better(compared):
    found = compared.farther("beta-smoothed", "plain")
    assert (found.estimate, found.n) == (1.0, 3)
    assert 0 < found.low < found.high == 1.0
    assert compared.farther("plain", "beta-smoothed").estimate == 0.0


def test_the_result_does_not_depend_on_the_batch(compared):
    for name, one in run(batch=2).methods.items():
        whole = compared.methods[name].outcome.measurements()
        for key, value in one.outcome.measurements().items():
            torch.testing.assert_close(value, whole[key], rtol=1e-6, atol=1e-9)


def test_within_the_change_that_the_plain_method_needed(compared):
    given = replace(SETTINGS, keep="last")
    bounded = run(settings=given, explainers=dict(reversed(TWO.items())), batch=2, within="plain")
    plain, smoothed = (bounded.methods[name].outcome for name in TWO)
    reached = plain.image_change.l2
    assert list(bounded.methods) == list(reversed(TWO))
    assert bool((smoothed.image_change.l2 <= reached * (1 + 1e-9)).all())
    free = run(settings=given, explainers=TWO).methods
    torch.testing.assert_close(plain.inputs, free["plain"].outcome.inputs)
    assert bool((free["beta-smoothed"].outcome.image_change.l2 > reached).any())
    assert plain.settings == bounded.settings == given
    assert smoothed.settings == replace(given, max_l2=reached)
    assert bounded.farther("beta-smoothed", "plain").estimate == 1.0


def test_within_an_attack_that_changed_nothing_a_pair_does_not_count():
    net, given = network(), replace(SETTINGS, steps=2, every=1)
    maps = goals()
    # Nothing is nearer to its own map, so that the clean image is the best iterate.
    maps[1] = saliency_map(GRADIENT, net, images(3), net(images(3)).argmax(1))[1]
    found = run(target_maps=maps, settings=given, explainers=TWO, within="plain")
    change = {name: one.outcome.image_change.l2 for name, one in found.methods.items()}
    assert change["plain"][1] == 0 == change["beta-smoothed"][1]
    assert bool((change["plain"][[0, 2]] > 0).all())
    assert found.farther("beta-smoothed", "plain").n == 2
    assert run(target_maps=maps, settings=given, explainers=TWO).farther("beta-smoothed", "plain").n == 3


def test_limits_of_each_image_go_with_their_part():
    limits = (0.05, 0.2, 0.1)
    settings = replace(SETTINGS, max_l2=limits, keep="last")
    found = run(settings=settings, explainers=ONE, batch=2).methods["plain"].outcome
    assert found.image_change.l2.tolist() == pytest.approx(limits)
    assert found.settings == settings


def test_cost_counts_forward_passes(compared):
    passes = {name: one.cost.map_passes.tolist() for name, one in compared.methods.items()}
    assert passes == {"plain": [1.0] * 3, "beta-smoothed": [1.0] * 3, "smoothgrad": [3.0] * 3}
    for one in compared.methods.values():
        steps = SETTINGS.steps * one.cost.map_passes
        assert bool((one.cost.attack_passes >= steps).all())
        assert bool((one.cost.attack_passes <= 2.5 * steps + 20).all())
        assert bool((one.cost.map_seconds > 0).all() and (one.cost.attack_seconds > 0).all())
    again = run(batch=1, explainers=ONE).methods["plain"].cost
    assert bool((again.map_passes == 1).all())


def fabricated(compared, values, **changes):
    """Two methods with given distances to the target."""
    methods = {}
    for name, value in values.items():
        one = compared.methods["plain"]
        metric = {metric: torch.tensor(value) for metric in ("pcc", "ssim", "mse")} | changes
        similarity = replace(one.outcome.similarity.to_target, **metric)
        outcome = replace(one.outcome, similarity=replace(one.outcome.similarity, to_target=similarity))
        methods[name] = replace(one, outcome=outcome)
    return Robustness(methods, SETTINGS, False)


def test_farther_is_lower_correlation_and_higher_error(compared):
    made = fabricated(compared, {"robust": [0.1, 0.5, 0.3], "plain": [0.2, 0.4, 0.3]})
    for metric in ("pcc", "ssim"):
        assert made.farther("robust", "plain", metric, level=0.9) == share_interval([1, 0, 0], level=0.9)
    assert made.farther("robust", "plain", "mse") == share_interval([0, 1, 0])


def test_what_was_not_measured_does_not_count(compared):
    made = fabricated(compared, {"robust": [0.1, math.nan, 0.3], "plain": [0.2, 0.4, math.nan]})
    assert made.farther("robust", "plain").n == 1


def test_records_and_tables_are_tidy(compared):
    records = compared.records()
    assert len(records) == 9
    assert pa.Table.from_pylist(records).column_names[:2] == ["method", "pair"]
    row = next(r for r in records if r["method"] == "smoothgrad" and r["pair"] == 2)
    assert row["mse_to_target"] == compared.methods["smoothgrad"].outcome.similarity.to_target.mse[2].item()
    assert row["map_passes"] == 3.0
    table = compared.table(level=0.9)
    assert {row["method"] for row in table} == set(METHODS)
    assert pa.Table.from_pylist(table).num_rows == len(table)


def test_every_method_can_have_its_own_target(compared):
    own = {"plain": goals(), "beta-smoothed": goals().flip(1)}
    found = run(target_maps=own, explainers=TWO)
    torch.testing.assert_close(
        found.methods["plain"].outcome.inputs, compared.methods["plain"].outcome.inputs
    )
    aimed = found.methods["beta-smoothed"].outcome.target_map
    torch.testing.assert_close(aimed, goals().flip(1) / goals().sum((1, 2), keepdim=True))


def test_one_class_can_be_explained():
    target = torch.tensor([3, 2, 1])
    found = run(explainers=ONE, target=target, batch=2).methods["plain"].outcome
    alone = manipulate(network(), images(3), goals(), explainer=GRADIENT, settings=SETTINGS, target=target)
    torch.testing.assert_close(found.inputs, alone.inputs)


def test_the_variants_have_the_settings_of_the_paper():
    made = smoothing_variants(GRADIENT)
    assert made == {
        "plain": GRADIENT,
        "beta-smoothed": BetaSmoothed(GRADIENT, 0.8),
        "smoothgrad": NoiseAveraged(GRADIENT, samples=10, noise=0.1),
    }
    assert smoothing_variants(GRADIENT, beta=2.0, noise=0.2, range=4.76, seed=3)["smoothgrad"] == (
        NoiseAveraged(GRADIENT, 10, 0.2, seed=3, range=4.76)
    )


def test_interruption_returns_the_finished_pairs():
    def stop(share):
        if share > 0.9:
            raise KeyboardInterrupt

    found = run(batch=2, callback=stop, explainers=TWO)
    assert found.interrupted
    assert {len(one.outcome.inputs) for one in found.methods.values()} == {2}
    assert not any(one.outcome.interrupted for one in found.methods.values())


def test_interruption_before_the_first_pairs_goes_on():
    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(callback=stop, explainers=ONE)


def test_progress_ends_at_one():
    told = []
    run(batch=2, callback=told.append, explainers=TWO)
    assert told == sorted(told) and told[-1] == pytest.approx(1.0)


def test_the_model_is_left_as_it_was():
    net = network().train()
    with pytest.warns(UserWarning, match="training mode") as warned:
        compare_robustness(net, images(3), goals(), explainers=ONE, settings=SETTINGS)
    assert len(warned) == 1 and net.training
    assert not net._forward_pre_hooks
    assert all(p.grad is None for p in net.parameters())


def test_hooks_are_gone_after_an_error():
    def fails(model, inputs, target=None):
        raise RuntimeError("no map")

    net = network()
    with pytest.raises(RuntimeError, match="no map"):
        compare_robustness(net, images(3), goals(), explainers={"bad": fails}, settings=SETTINGS)
    assert not net._forward_pre_hooks


WRONG = {
    "no methods": ({"explainers": {}}, ValueError, "methods by name"),
    "no mapping": ({"explainers": GRADIENT}, ValueError, "methods by name"),
    "no method": ({"explainers": {"a": 3}}, TypeError, "method that can be called"),
    "no derivative": ({"explainers": {"a": Detached()}}, ValueError, "differentiable method"),
    "batch": ({"batch": 0}, ValueError, "batch"),
    "targets": ({"target": torch.zeros(4, dtype=torch.long), "batch": 1}, ValueError, "targets of shape"),
    "no map": ({"target_maps": None}, TypeError, "target_map"),
    "map": ({"target_maps": goals(2)}, ValueError, "target_map of shape"),
    "maps": ({"target_maps": {"plain": goals()}}, ValueError, "none for beta-smoothed, smoothgrad"),
    "within": ({"within": "plan"}, ValueError, "expected within to be one of .*got 'plan'"),
    "limits": (
        {"settings": replace(SETTINGS, max_l2=(0.1, 0.2))},
        ValueError,
        "max_l2 of 1 or 3 numbers, got 2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    changes, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        run(**changes)


def test_a_method_without_derivative_can_be_estimated():
    estimated = replace(SETTINGS, gradient="estimated", steps=2, every=2, directions=2)
    found = run(explainers={"a": Detached(), "b": beta_smooth(GRADIENT)}, settings=estimated)
    assert bool(found.methods["a"].outcome.similarity.to_target.pcc.isfinite().all())


def test_unknown_names(compared):
    with pytest.raises(ValueError, match="one of plain, beta-smoothed, smoothgrad, got 'smooth'"):
        compared.farther("smooth", "plain")
    with pytest.raises(ValueError, match="metric"):
        compared.farther("plain", "plain", "cosine")
