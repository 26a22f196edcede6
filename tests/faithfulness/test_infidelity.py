"""Infidelity: 0 for what predicts the output exactly, known elsewhere, and that of Captum."""

import pytest
import torch
from torch import nn

from networks import Sequential, images, seeded
from veridical.attributions import method
from veridical.faithfulness import (
    InfidelitySettings,
    default_reading,
    default_reduction,
    infidelity,
    perturbations,
)
from veridical.manifold import TangentPart
from veridical.smoothing import beta_smooth, smoothgrad

PERTURBATIONS = ("gaussian", "square")


class Linear(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)
        self.sizes = []
        self.eval()

    def forward(self, x):
        self.sizes.append(len(x))
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([score + 1, torch.zeros_like(score)], 1)


def exact(model, inputs, target):
    return model.weight.expand_as(inputs)


def contributions(model, inputs, target):
    return model.weight * inputs


def doubled(model, inputs, target):
    return 2 * exact(model, inputs, target)


def nothing(model, inputs, target):
    return torch.zeros_like(inputs)


@pytest.fixture
def model(generator):
    return Linear(torch.randn(3, 6, 6, generator=generator, dtype=torch.float64))


@pytest.fixture
def x():
    return images(3, 6)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_the_gradient_of_a_linear_network_is_exact(kind, model, x):
    result = infidelity(model, x, exact, target=0, perturbation=kind)
    assert result.values.max() < 1e-24 and (result.output_change > 0).all()
    assert result.unexplained.max() < 1e-24 and result.scale.eq(1).all()


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_map_of_twice_the_size_is_wrong_by_the_change_itself_and_right_when_scaled(kind, model, x):
    plain = infidelity(model, x, doubled, target=0, perturbation=kind)
    torch.testing.assert_close(plain.values, plain.output_change)
    scaled = infidelity(model, x, doubled, target=0, perturbation=kind, scaled=True)
    torch.testing.assert_close(scaled.scale, torch.full((3,), 0.5, dtype=torch.float64))
    assert scaled.values.max() < 1e-24


@pytest.mark.parametrize("baseline", ["zero", (0.3, -0.2, 0.1)])
def test_contributions_to_a_linear_network_add_up_to_what_is_removed(baseline, model, x):
    settings = {"target": 0, "perturbation": "square", "baseline": baseline, "reading": "contribution"}
    result = infidelity(model, x, contributions, **settings)
    if baseline == "zero":
        assert result.values.max() < 1e-24
        torch.testing.assert_close(result.explained, torch.ones(3, dtype=torch.float64))
    else:
        assert (result.values > 1e-3).all()
    slopes = infidelity(model, x, contributions, **settings | {"reading": "slope"})
    assert (slopes.values > result.values).all()


def test_a_map_of_the_wrong_sign_explains_nothing_at_any_scale(model, x):
    for kind in PERTURBATIONS:
        wrong = infidelity(model, x, lambda *given: -exact(*given), target=0, perturbation=kind, scaled=True)
        assert wrong.explained.eq(0).all() and wrong.scale.lt(0).all() and wrong.values.max() < 1e-24
        right = infidelity(model, x, doubled, target=0, perturbation=kind)
        torch.testing.assert_close(right.explained, torch.ones(3, dtype=torch.float64))


def test_what_is_explained_is_what_the_best_scale_leaves(x):
    found = infidelity(seeded(Sequential), x, method("lrp-zplus"), scaled=True, samples=30, shuffles=2)
    right = found.scale > 0
    assert right.any()
    torch.testing.assert_close(found.explained[right], (1 - found.unexplained)[right])
    assert found.explained[~right].eq(0).all()


def test_shuffled_maps_explain_by_chance_what_is_known(generator):
    """An unrelated direction has the squared cosine 1 / S on average; half of them are of the wrong sign."""
    weight = torch.randn(1, 48, 48, generator=generator, dtype=torch.float64)
    model, x = Linear(weight - weight.mean()), torch.zeros(2, 1, 48, 48, dtype=torch.float64)
    found = infidelity(model, x, exact, target=0, samples=20, shuffles=400)
    assert found.chance.mean() == pytest.approx(1 / 40, rel=0.15)
    assert infidelity(model, x, exact, target=0, samples=20).chance.isnan().all()
    flat = infidelity(model, x, lambda _, inputs, target: torch.ones_like(inputs), target=0, shuffles=3)
    torch.testing.assert_close(flat.chance, flat.explained)


def test_perturbed_images_are_predicted_once_for_all_methods(model, x):
    first = infidelity(model, x, exact, target=0, samples=10, shuffles=1)
    asked = sum(model.sizes)
    second = infidelity(model, x, doubled, target=0, samples=10, reuse=first, scaled=True)
    assert sum(model.sizes) == asked + 3
    alone = infidelity(model, x, doubled, target=0, samples=10, scaled=True)
    assert torch.equal(alone.values, second.values) and torch.equal(alone.changes, second.changes)
    with pytest.raises(ValueError, match="expected to reuse a result for .*samples=11.*leave out reuse"):
        infidelity(model, x, exact, target=0, samples=11, reuse=first)
    for wrong in ({"target": 1}, {"inputs": x + 1}):
        given = {"inputs": x, "target": 0} | wrong
        with pytest.raises(ValueError, match="the same model, images and target"):
            infidelity(model, given["inputs"], exact, target=given["target"], samples=10, reuse=first)


def test_relevance_that_is_known_is_not_asked_for(model, x):
    def never(model, inputs, target):
        raise AssertionError

    given = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    found = infidelity(model, x, never, target=0, relevance=given, samples=5)
    alone = infidelity(model, x, lambda *_: given, target=0, samples=5)
    assert torch.equal(found.values, alone.values)
    with pytest.raises(ValueError, match="relevance of shape"):
        infidelity(model, x, never, target=0, relevance=given[:, :1], samples=5)


def test_slopes_are_told_from_contributions():
    for name in ("gradient", "guided-backprop", "deconvnet", "rectgrad", "smoothgrad"):
        assert default_reading(name) == default_reading(method(name)) == "slope"
    for name in ("gradient-x-input", "lrp-zplus", "integrated-gradients", "grad-cam", "deeplift-rescale"):
        assert default_reading(name) == default_reading(method(name)) == "contribution"
    assert default_reading(method("integrated-gradients", multiply_by_input=False)) == "slope"
    assert default_reading(exact) == "contribution"


@pytest.mark.parametrize(
    "wrap",
    [
        smoothgrad,
        beta_smooth,
        lambda inner: TangentPart(inner, None),
        lambda inner: smoothgrad(beta_smooth(inner)),
    ],
)
def test_a_wrapped_method_is_read_as_the_method_itself(wrap):
    for name in ("gradient", "guided-backprop"):
        wrapped = wrap(method(name))
        assert (default_reading(wrapped), default_reduction(wrapped)) == ("slope", "max-abs")
    for name in ("gradient-x-input", "lrp-zplus"):
        wrapped = wrap(method(name))
        assert (default_reading(wrapped), default_reduction(wrapped)) == ("contribution", "sum")
    bare = wrap(method("integrated-gradients", multiply_by_input=False))
    assert (default_reading(bare), default_reduction(bare)) == ("slope", "max-abs")


def test_what_a_method_says_of_itself_comes_first():
    def own(model, inputs, target=None):
        return inputs

    own.slope = True
    assert (default_reading(own), default_reduction(own)) == ("slope", "max-abs")
    own.name, own.slope = "gradient", False
    assert (default_reading(own), default_reduction(own)) == ("contribution", "sum")


def test_the_scale_is_the_best_one():
    model, x = seeded(Sequential), images(2)
    explain = method("gradient")
    best = infidelity(model, x, explain, scaled=True)
    for factor in (0.9, 1.1):

        def other(model, inputs, target, factor=factor):
            return best.scale.reshape(-1, 1, 1, 1) * factor * explain(model, inputs, target)

        assert (infidelity(model, x, other).values > best.values).all()
    assert (best.values <= infidelity(model, x, explain).values).all() and (best.unexplained <= 1).all()


def test_a_map_of_zeros_explains_nothing_and_a_constant_network_needs_no_explanation(model, x):
    for scaled in (False, True):
        result = infidelity(model, x, nothing, target=0, scaled=scaled)
        assert torch.equal(result.values, result.output_change) and result.unexplained.eq(1).all()
        assert result.scale.eq(not scaled).all()
    still = infidelity(Linear(torch.zeros(3, 6, 6, dtype=torch.float64)), x, nothing, target=0)
    assert still.values.eq(0).all() and still.unexplained.isnan().all()


def test_the_mean_change_under_noise_is_known(model, x):
    """E (I^T w)^2 = noise^2 |w|^2."""
    result = infidelity(model, x, nothing, target=0, samples=4000, noise=0.1, batch=1000)
    expected = 0.01 * model.weight.square().sum().expand(3)
    torch.testing.assert_close(result.values, expected, rtol=0.1, atol=0)


def test_squares_are_inside_and_remove_what_is_there(x):
    settings = InfidelitySettings(perturbation="square", side=0.5, baseline=(1.0, 2.0, 3.0), samples=200)
    color = torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)[:, None, None]
    sides = set()
    for drawn in perturbations(x, settings):
        gone = drawn[0, 0] != 0
        rows, columns = gone.any(1).sum().item(), gone.any(0).sum().item()
        assert rows == columns and gone.sum() == rows * columns
        assert torch.equal((x - drawn)[..., gone], color.expand_as(x)[..., gone]) or torch.allclose(
            (x - drawn)[..., gone], color.expand_as(x)[..., gone]
        )
        sides.add(rows)
    assert sides == {1, 2, 3}


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_batch_is_its_images_and_the_size_of_batches_does_not_matter(kind):
    model, x = seeded(Sequential), images(4)
    explain, settings = method("gradient"), {"perturbation": kind, "samples": 10}
    whole = infidelity(model, x, explain, **settings)
    for batch in (1, 3, 9):
        torch.testing.assert_close(
            infidelity(model, x, explain, batch=batch, **settings).values, whole.values
        )
    for index in range(4):
        alone = infidelity(model, x[index : index + 1], explain, **settings)
        torch.testing.assert_close(alone.values, whole.values[index : index + 1])


def test_batches_are_bounded(model, x):
    infidelity(model, x, exact, samples=10, batch=7)
    assert max(model.sizes) == 6 and sum(model.sizes) == 3 + 30


def test_nothing_is_left_behind():
    model, x = seeded(Sequential), images(2)
    state, given = torch.get_rng_state(), x.clone()
    first = infidelity(model, x, method("gradient"), samples=5)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, given)
    assert torch.equal(first.values, infidelity(model, x, method("gradient"), samples=5).values)
    assert not torch.equal(first.values, infidelity(model, x, method("gradient"), samples=5, seed=1).values)
    summary = first.summary()
    assert summary.n == 2 and summary.estimate == pytest.approx(first.values.mean().item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perturbation": "uniform"}, "perturbation to be one of gaussian, square, got 'uniform'"),
        ({"noise": 0.0}, "positive standard deviation of noise, got 0.0"),
        ({"side": 1.5}, "side above 0 and at most 1, got 1.5"),
        ({"baseline": "black"}, "baseline zero, mean, blur"),
        ({"baseline": (1.0,)}, "baseline of 3 numbers, got 1"),
        ({"samples": 0}, "at least one perturbation, got 0"),
        ({"shuffles": -1}, "number of shuffled maps, got -1"),
        ({"reading": "area"}, "reading to be one of slope, contribution, got 'area'"),
        ({"reading": "contribution"}, "expected squares for a map of contributions, got Gaussian noise"),
        ({"batch": 0}, "at least one image, got 0"),
        ({"target": 2}, r"target in 0..1, got 2"),
    ],
)
def test_wrong_settings_are_named(settings, message, model, x):
    with pytest.raises(ValueError, match=message):
        infidelity(model, x, exact, **settings)


def test_wrong_arguments_are_named(model, x):
    with pytest.raises(TypeError, match="speed"):
        infidelity(model, x, exact, speed=1)
    with pytest.raises(TypeError, match="method that can be called"):
        infidelity(model, x, 3)
    with pytest.raises(ValueError, match="relevance of shape"):
        infidelity(model, x, lambda model, inputs, target: inputs[:, :1])


@pytest.mark.peer
@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["gradient", "lrp-epsilon"])
def test_the_value_is_that_of_captum_for_the_same_perturbations(kind, scaled, name):
    captum = pytest.importorskip("captum.metrics", reason="needs captum (make peers)")
    model, x, target = seeded(Sequential), images(3), torch.tensor([1, 2, 0])
    settings = {"perturbation": kind, "samples": 20, "scaled": scaled}
    ours = infidelity(model, x, method(name), target=target, **settings)
    drawn = torch.stack(list(perturbations(x, InfidelitySettings(**settings)))).transpose(0, 1).flatten(0, 1)

    def perturb(inputs):
        return drawn, inputs - drawn

    relevance = method(name)(model, x, target)
    theirs = captum.infidelity(
        model, perturb, x, relevance, target=target, n_perturb_samples=20, normalize=scaled
    )
    assert theirs.abs().max() > 1e-6
    torch.testing.assert_close(ours.values, theirs, rtol=1e-5, atol=1e-12)


@pytest.mark.peer
def test_contributions_are_those_of_captum_for_the_same_squares():
    captum = pytest.importorskip("captum.metrics", reason="needs captum (make peers)")
    model, x, target = seeded(Sequential), images(3), torch.tensor([1, 2, 0])
    settings = {"perturbation": "square", "samples": 20, "reading": "contribution"}
    ours = infidelity(model, x, method("gradient-x-input"), target=target, **settings)
    drawn = torch.stack(list(perturbations(x, InfidelitySettings(**settings)))).transpose(0, 1).flatten(0, 1)

    @captum.infidelity_perturb_func_decorator(multiply_by_inputs=True)
    def perturb(inputs):
        return inputs - drawn

    relevance = method("gradient-x-input")(model, x, target)
    theirs = captum.infidelity(model, perturb, x, relevance, target=target, n_perturb_samples=20)
    assert theirs.abs().max() > 1e-6
    torch.testing.assert_close(ours.values, theirs, rtol=1e-5, atol=1e-12)
