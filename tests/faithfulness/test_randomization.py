"""Random networks and random classes: coverage, independence, and nothing left behind."""

import numpy as np
import pytest
import torch
from torch import nn

from veridical.attributions import fit_patterns, method
from veridical.faithfulness import (
    cascading_randomization,
    default_reduction,
    random_logit,
    randomizable,
    reduce_channels,
)
from veridical.faithfulness._weights import copy_of, random_states, units
from veridical.faithfulness.maps import explained_each
from veridical.metrics import bootstrap_interval, compare_maps, map_similarity
from veridical.smoothing import smoothgrad
from veridical.values import for_any_weights


class Block(nn.Module):
    """Equal layers, a normalization, raw parameters and buffers, and a holder that is never called."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 1)
        self.register_buffer("deviation", torch.full((3, 1, 1), 0.5))
        self.register_buffer("order", torch.arange(4))
        self.holder = nn.Module()
        self.holder.gain = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 3)
        self.double().eval()
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(1, 2)
            self.norm.weight.uniform_(1, 2)
            self.norm.bias.uniform_(1, 2)

    def forward(self, x):
        x = self.norm(self.first(x / self.deviation)).relu()
        x = self.third(self.second(x).relu()).relu() * self.scale * self.holder.gain
        return self.head(x.mean(dim=(2, 3)))


def images(count=2, side=12, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed)).double()


def gradient(model, inputs, target=None):
    x = inputs.detach().requires_grad_()
    with torch.enable_grad():
        score = model(x).gather(1, target[:, None]).sum()
        return torch.autograd.grad(score, x)[0]


def randomized(initialization="glorot", seed=0):
    model = copy_of(Block())
    ordered = units(model, images(1))
    draw = random_states(ordered, initialization, seed)
    return model, {id(tensor): value for unit in ordered for tensor, value in draw(unit)}


ORDER = ["head", "third", "second", "norm", "first", "(model)"]


def test_order_is_that_of_execution_from_the_top():
    names = randomizable(Block(), images())
    assert [name for name in names if name != "holder"] == ORDER
    assert set(names) == {*ORDER, "holder"}


@pytest.mark.parametrize("initialization", ["glorot", "module"])
def test_every_parameter_and_buffer_is_new(initialization):
    model, values = randomized(initialization)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert {id(tensor) for tensor in tensors.values()} == set(values)
    kept = {name for name, tensor in tensors.items() if torch.equal(tensor, values[id(tensor)])}
    assert kept == {"order", "norm.num_batches_tracked"}
    assert all(value.isfinite().all() for value in values.values())
    assert (values[id(model.deviation)] > 0).all()


def test_glorot_is_that_of_keras():
    model, values = randomized()
    weight = values[id(model.second.weight)]
    bound = np.sqrt(6 / (36 + 36))
    assert weight.abs().max() <= bound and weight.abs().max() > 0.9 * bound
    assert (values[id(model.second.bias)] == 0).all()
    normal = [values[id(t)] for t in (model.norm.weight, model.norm.running_var)]
    assert all((value == 1).all() for value in normal)
    assert (values[id(model.norm.running_mean)] == 0).all() and (values[id(model.norm.bias)] == 0).all()


@pytest.mark.parametrize("initialization", ["glorot", "module"])
def test_equal_layers_get_different_weights(initialization):
    model, values = randomized(initialization)
    second, third = values[id(model.second.weight)], values[id(model.third.weight)]
    assert (second != third).all()


def test_shared_parameters_stay_shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    network = copy_of(model)
    ordered = units(network, torch.randn(1, 4))
    draw = random_states(ordered, "glorot", 0)
    values = [value for unit in ordered for tensor, value in draw(unit) if tensor is network[0].weight]
    assert len(values) == 2 and values[0] is values[1]


def test_cascade():
    model, x = Block(), images()
    result = cascading_randomization(model, x, gradient)
    assert [name for name in result.layers if name != "holder"] == ORDER
    assert result.similarity.shape == (7, 2) and result.maps.shape == (7, 2, 12, 12)
    assert result.flipped.dtype == torch.bool
    torch.testing.assert_close(result.original, gradient(model, x, result.target).sum(1))
    again = map_similarity(result.original, result.maps[0])
    torch.testing.assert_close(again.values, result.similarity[0])
    assert (result.similarity[-1] < 0.9).all()
    assert torch.equal(result.target, model(x).argmax(1))


def test_only_the_first_maps_are_kept_where_wished():
    model, x = Block(), images()
    whole = cascading_randomization(model, x, gradient)
    for kept in (0, 1):
        found = cascading_randomization(model, x, gradient, kept=kept)
        assert torch.equal(found.maps, whole.maps[:, :kept])
        assert torch.equal(found.similarity, whole.similarity)
    with pytest.raises(ValueError, match="got -1; None keeps all"):
        cascading_randomization(model, x, gradient, kept=-1)


def test_a_map_that_ignores_the_network_scores_one():
    result = cascading_randomization(Block(), images(), lambda model, x, target=None: x.clone())
    torch.testing.assert_close(result.similarity, torch.ones_like(result.similarity))


def test_steps_are_stations_of_one_cascade():
    model, x = Block(), images()
    whole = cascading_randomization(model, x, gradient)
    few = cascading_randomization(model, x, gradient, steps=3)
    assert (few.layers[0], few.layers[-1]) == (whole.layers[0], whole.layers[-1])
    named = cascading_randomization(model, x, gradient, steps=["head", "second"])
    for result in (few, named):
        for name, maps in zip(result.layers, result.maps, strict=True):
            assert torch.equal(maps, whole.maps[whole.layers.index(name)])
    assert torch.equal(cascading_randomization(model, x, gradient, steps=1).maps[0], whole.maps[-1])


def test_containers_are_steps():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), nn.Flatten(), nn.Linear(128, 3)
    ).double()
    result = cascading_randomization(model.eval(), images(), gradient, steps=("2", "0"))
    assert result.layers == ("2", "0")


def test_other_orders():
    model, x = Block(), images()
    down = cascading_randomization(model, x, gradient)
    up = cascading_randomization(model, x, gradient, order="bottom-up")
    alone = cascading_randomization(model, x, gradient, order="independent")
    assert up.layers == down.layers[::-1]
    assert torch.equal(up.maps[-1], down.maps[-1])
    assert torch.equal(alone.maps[0], down.maps[0])
    assert torch.equal(alone.maps[-1], up.maps[0])


@pytest.mark.parametrize("name", ["patternnet", "pattern-attribution"])
def test_patterns_stay_those_of_the_network_as_it_is(name):
    model, x = Block().eval(), images()
    patterns = fit_patterns(model, images(8, seed=5))
    explain = method(name, patterns=patterns)
    found = cascading_randomization(model, x, explain, steps=3)
    kept = cascading_randomization(model, x, method(name, patterns=patterns, any_weights=True), steps=3)
    assert torch.equal(found.maps, kept.maps) and not torch.equal(found.maps[-1], found.original)
    averaged = cascading_randomization(model, x, smoothgrad(explain, samples=2), steps=1)
    assert torch.isfinite(averaged.maps).all()
    with pytest.raises(ValueError, match="the weights that the patterns were fitted for"):
        cascading_randomization(Block(seed=1).eval(), x, explain, steps=1)
    assert for_any_weights(gradient) is gradient and for_any_weights(method("lrp-z")) == method("lrp-z")


def test_batches_seeds_and_reductions():
    model, x = Block(), images(3)
    whole = cascading_randomization(model, x, gradient, steps=2, seed=5)
    parts = cascading_randomization(model, x, gradient, steps=2, seed=5, batch=2)
    other = cascading_randomization(model, x, gradient, steps=2, seed=6)
    torch.testing.assert_close(whole.similarity, parts.similarity)
    assert not torch.equal(whole.maps, other.maps)
    largest = cascading_randomization(model, x, method("gradient"), steps=1)
    assert largest.reduction == "max-abs" and (largest.original >= 0).all()
    assert cascading_randomization(model, x, gradient, steps=1, reduction="sum-abs").reduction == "sum-abs"


@pytest.mark.parametrize("initialization", ["glorot", "module"])
@pytest.mark.parametrize("fails", [False, True])
def test_model_and_random_state_are_as_before(initialization, fails):
    model, x, calls = Block(), images(), []
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]

    def explain(network, inputs, target=None):
        calls.append(network)
        if fails and len(calls) == 3:
            raise RuntimeError("in the middle")
        return gradient(network, inputs, target)

    try:
        cascading_randomization(model, x, explain, initialization=initialization)
    except RuntimeError:
        assert fails
    assert len(calls) == (3 if fails else 8)
    assert all(network is not model for network in calls)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_mode_is_reported_and_put_back():
    model = Block()
    model.head.train()
    with pytest.warns(UserWarning, match="training mode"):
        cascading_randomization(model, images(), gradient, steps=1)
    assert model.head.training and not model.first.training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": "top-down"}, ValueError, "top-down"),
        ({"initialization": "he"}, ValueError, "'he'"),
        ({"steps": "head"}, TypeError, "tuple of names"),
        ({"steps": 0}, ValueError, "at least one step"),
        ({"steps": ()}, ValueError, "empty tuple"),
        ({"steps": ("haed",)}, ValueError, "did you mean head"),
        ({"steps": ("second", "head")}, ValueError, "order of randomization"),
        ({"protocol": "ssim"}, ValueError, "similarity protocol"),
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"batch": 0}, ValueError, "at least one image"),
        ({"target": 3}, ValueError, "target in 0..2"),
        ({"sed": 1}, TypeError, "sed"),
        ({"measures": ("psnr",)}, ValueError, "name of a measure"),
        ({"measures": "pcc"}, TypeError, "tuple of names"),
        ({"relevance": torch.zeros(2, 3, 4, 4)}, ValueError, "shape"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        cascading_randomization(Block(), images(), gradient, **options)


def test_refuses_models_and_methods():
    with pytest.raises(ValueError, match="without"):
        cascading_randomization(nn.Sequential(nn.Flatten()).eval(), images(), gradient)
    with pytest.raises(ValueError, match="shape of the inputs"):
        cascading_randomization(Block(), images(), lambda m, x, target=None: x.sum(1))
    with pytest.raises(TypeError, match="veridical.method"):
        cascading_randomization(Block(), images(), "gradient")
    model = Block()
    model.lock = (n for n in range(3))
    with pytest.raises(ValueError, match="deepcopy"):
        cascading_randomization(model, images(), gradient)


def test_reductions():
    relevance = torch.tensor([[[[1.0]], [[-3.0]]]])
    assert [reduce_channels(relevance, how).item() for how in ("sum", "max-abs", "sum-abs")] == [-2, 3, 4]
    assert default_reduction("guided-backprop") == "max-abs"
    assert default_reduction("lrp-z") == "sum"
    assert default_reduction(method("smoothgrad")) == "max-abs"
    assert default_reduction(gradient) == "sum"


def test_random_logit():
    model, x = Block(), images(4)
    result = random_logit(model, x, gradient, target=1)
    assert (result.other_target != result.target).all()
    torch.testing.assert_close(result.relevance, gradient(model, x, result.target))
    torch.testing.assert_close(result.other_relevance, gradient(model, x, result.other_target))
    expected = map_similarity(result.relevance.sum(1), result.other_relevance.sum(1))
    torch.testing.assert_close(result.similarity, expected.values)
    assert torch.equal(result.flipped, expected.flipped)


def test_random_logit_of_a_class_blind_method_is_one():
    result = random_logit(Block(), images(), lambda model, x, target=None: x.clone())
    torch.testing.assert_close(result.similarity, torch.ones(2, dtype=torch.float64))


def test_two_opposite_logits_differ_by_a_flip():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 2)).double().eval()
    with torch.no_grad():
        model[1].weight[1] = -model[1].weight[0]
    result = random_logit(model, images(), gradient)
    assert result.flipped.all()
    torch.testing.assert_close(result.similarity, torch.ones(2, dtype=torch.float64))


def test_other_classes_are_uniform_and_depend_on_the_index_alone():
    model, x = Block(), images(1).expand(300, -1, -1, -1)
    blind = {"method": lambda m, y, target=None: y.clone(), "target": 0, "seed": 4}
    before = torch.get_rng_state()
    drawn = random_logit(model, x, **blind).other_target
    assert torch.equal(before, torch.get_rng_state())
    assert 110 < (drawn == 1).sum() < 190 and (drawn != 0).all()
    tail = random_logit(model, x[100:110], **blind, first_index=100).other_target
    assert torch.equal(tail, drawn[100:110])


def test_random_logit_refuses():
    one = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 1)).double().eval()
    with pytest.raises(ValueError, match="two classes"):
        random_logit(one, images(), gradient)
    with pytest.raises(ValueError, match="non-negative"):
        random_logit(Block(), images(), gradient, first_index=-1)


ALL = ("ssim", "pcc", "abs-pcc", "spearman", "mse", "ssim-plain")


def test_measures_are_taken_of_the_maps_of_one_run():
    model, x, calls = Block(), images(3), []

    def explain(network, inputs, target=None):
        calls.append(len(inputs))
        return gradient(network, inputs, target)

    found = cascading_randomization(model, x, explain, steps=2, measures=list(ALL))
    assert len(calls) == 3 and tuple(found.measures) == ALL
    assert torch.equal(found.measures["ssim"], found.similarity)
    for step in range(2):
        _, expected = compare_maps(found.original, found.maps[step], "sixt2020", ALL)
        for name in ALL:
            torch.testing.assert_close(found.measures[name][step], expected[name])
    other = random_logit(model, x, gradient, measures=ALL)
    _, expected = compare_maps(other.maps, other.other_maps, "sixt2020", ALL)
    for name in ALL:
        torch.testing.assert_close(other.measures[name], expected[name])


def test_relevance_that_is_known_is_not_computed_again():
    model, x, calls = Block(), images(), []

    def explain(network, inputs, target=None):
        calls.append(network)
        return gradient(network, inputs, target)

    whole = cascading_randomization(model, x, gradient, steps=2)
    known = gradient(model, x, whole.target)
    found = cascading_randomization(model, x, explain, relevance=known, steps=2)
    assert len(calls) == 2 and torch.equal(found.similarity, whole.similarity)


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x):
        self.calls += 1
        return self.model(x)


@pytest.mark.parametrize("name", ["gradient", "gradient-x-input", "lrp-zplus", "guided-backprop"])
def test_both_classes_of_the_random_logit_come_from_one_forward_pass(name):
    model, x = Counted(Block()).eval(), images(3)
    explain = method(name)
    found = random_logit(model, x, explain)
    assert model.calls == 1
    assert torch.equal(found.target, model(x).argmax(1))
    for relevance, target in ((found.relevance, found.target), (found.other_relevance, found.other_target)):
        torch.testing.assert_close(relevance, explain(model, x, target))
        alone, _ = explained_each(model, x, explain, lambda _, rows, target=target: [target[rows]])
        # To the last bit: what one test has explained another may use.
        assert torch.equal(relevance, alone[0])
    model.calls = 0
    parts = random_logit(model, x, explain, batch=2)
    assert model.calls == 2
    torch.testing.assert_close(parts.similarity, found.similarity)


def test_a_wrong_target_of_a_late_batch_is_found_before_the_first_map():
    calls = []

    def explain(network, inputs, target=None):
        calls.append(network)
        return inputs

    for test in (random_logit, cascading_randomization):
        with pytest.raises(ValueError, match="target in 0..2, got 7"):
            test(Block(), images(4), explain, target=torch.tensor([0, 0, 0, 7]), batch=1)
    assert calls == []


def test_tables_hold_medians_and_sign_flips_with_intervals():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 2)).double().eval()
    with torch.no_grad():
        model[1].weight[1] = -model[1].weight[0]
    found = random_logit(model, images(20), gradient, measures=("ssim", "pcc", "abs-pcc"))
    rows = {(row["measure"], row["statistic"]): row for row in found.table(resamples=100)}
    assert rows["flipped", "share"]["estimate"] == rows["pcc", "share negative"]["estimate"] == 1
    assert rows["flipped", "share"]["low"] < 1 and rows["flipped", "share"]["n"] == 20
    assert rows["ssim", "median"]["estimate"] == pytest.approx(1.0)
    assert rows["pcc", "median"]["estimate"] == pytest.approx(-1.0)
    assert rows["abs-pcc", "median"]["low"] == pytest.approx(1.0)
    plain = random_logit(model, images(2), gradient, protocol="plain")
    assert plain.flips.isnan().all()
    assert [row["statistic"] for row in plain.table(resamples=10)] == ["median"]


def test_rows_of_the_cascade_are_those_of_its_steps():
    found = cascading_randomization(Block(), images(4), gradient, steps=3, measures=("ssim", "mse"), seed=2)
    rows = found.table()
    assert [row["layer"] for row in rows] == [layer for layer in found.layers for _ in range(3)]
    assert {row["level"] for row in rows} == {0.99}
    interval = bootstrap_interval(found.measures["mse"][1].numpy(), seed=2)
    row = next(row for row in rows if row["layer"] == found.layers[1] and row["measure"] == "mse")
    assert (row["estimate"], row["low"], row["high"], row["n"], row["missing"]) == (*interval, 0)


def test_constant_maps_are_missing_in_every_row():
    def explain(network, inputs, target=None):
        return torch.cat([inputs[:1], torch.ones_like(inputs[1:])])

    found = cascading_randomization(Block(), images(3), explain, steps=1, measures=ALL)
    for row in found.table(resamples=10):
        assert (row["n"], row["missing"]) == (1, 2)
    assert found.flips.isnan().tolist() == [[False, True, True]]


def test_progress_is_told_after_each_step():
    told = []
    found = cascading_randomization(Block(), images(), gradient, progress=lambda *where: told.append(where))
    steps = len(found.layers)
    assert steps > 1 and told == [(done, steps) for done in range(1, steps + 1)]
