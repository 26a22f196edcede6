import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import veridical as vd
from networks import Sequential, images, seeded
from veridical.attacks import ManipulationSettings, manipulate
from veridical.attacks.estimated import GradientEstimate
from veridical.attacks.loss import saliency_map
from veridical.attributions import method
from veridical.smoothing import smoothgrad

SETTINGS = ManipulationSettings(
    steps=30, lr=0.02, factors=(1e6, 1e2), rescale=False, every=10, gradient="estimated",
    directions=16, radius=0.01, seed=3,
)  # fmt: skip


class Detached:
    """Gradient x input without a derivative, which counts the images that it explains."""

    name = "detached"
    differentiable = False

    def __init__(self):
        self.images = 0
        self.reached = None

    def __call__(self, model, inputs, target=None):
        self.images += len(inputs)
        if self.reached is not None and len(inputs) > 1:
            self.reached.append(inputs.detach())
        return method("gradient-x-input")(model, inputs.detach(), target).detach()


def pair(count=2):
    model = seeded(Sequential)
    clean, other = images(2 * count, seed=3).split(count)
    return model, clean, saliency_map(Detached(), model, other, model(other).argmax(1))


def test_the_map_of_a_method_without_a_derivative_moves_to_the_target():
    model, clean, goal = pair()
    explainer = Detached()
    result = manipulate(model, clean, goal, explainer=explainer, settings=SETTINGS)
    similar = result.similarity
    assert bool((similar.to_target.pcc > similar.before.pcc + 0.05).all())
    assert bool(result.output_change.class_kept.all())
    assert result.gradient == "estimated"
    assert math.isinf(result.history[-1].beta)


def test_the_cost_is_told():
    model, clean, goal = pair()
    explainer = Detached()
    # all pairs at once: how many fit in memory need not be measured
    result = manipulate(model, clean, goal, explainer=explainer, settings=SETTINGS, memory_gib=math.inf)
    assert result.calls.tolist() == [30 * 2 * 16] * 2
    looks = len(result.history) + 2  # and the clean and the kept image at the end
    assert explainer.images == 2 * (30 * 2 * 16 + looks)
    few = ManipulationSettings(steps=3, lr=0.01, factors=(1e6, 1e3), rescale=False)
    exact = manipulate(model, clean, goal, explainer=method("gradient"), settings=few)
    assert exact.gradient == "exact"
    assert exact.calls.tolist() == [3, 3]
    assert exact.settings == few


def test_it_is_refused_without_the_fallback_and_says_how_to_ask_for_it():
    model, clean, goal = pair()
    with pytest.raises(ValueError, match='detached.*gradient="estimated"'):
        manipulate(model, clean, goal, explainer=Detached(), settings=ManipulationSettings(steps=2))
    with pytest.raises(ValueError, match="detached"):
        manipulate(model, clean, goal, explainer=smoothgrad(Detached()), settings=ManipulationSettings())

    def silent(model, inputs, target=None):
        return Detached()(model, inputs, target)

    with pytest.raises(ValueError, match="gradient='estimated'"):
        manipulate(model, clean, goal, explainer=silent, settings=ManipulationSettings(steps=2))


def test_a_constant_map_is_refused_here_too():
    model, clean, goal = pair()
    settings = ManipulationSettings(steps=2, gradient="estimated")
    with pytest.raises(ValueError, match="first order"):
        manipulate(model, clean, goal, explainer=lambda m, x, t=None: torch.ones_like(x), settings=settings)


def test_a_batch_equals_its_images_one_by_one():
    model, clean, goal = pair(3)
    settings = ManipulationSettings(
        steps=4, lr=0.02, factors=(1e6, 1e3), rescale=False, every=2, gradient="estimated", lr_unit="range"
    )
    together = manipulate(model, clean, goal, explainer=Detached(), settings=settings)
    for index in range(3):
        one = slice(index, index + 1)
        alone = manipulate(model, clean[one], goal[one], explainer=Detached(), settings=settings)
        torch.testing.assert_close(together.inputs[one], alone.inputs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("changes", [{"bounds": (-6.0, 6.0)}, {}], ids=["bounds", "own range"])
def test_the_radius_is_a_share_of_the_range_whatever_the_unit_of_the_rate(changes):
    model, clean, goal = pair(1)
    settings = replace(SETTINGS, steps=1, radius=0.01, **changes)
    reached = {}
    for unit in ("input", "range"):
        explainer = Detached()
        seen = explainer.reached = []
        manipulate(model, clean, goal, explainer=explainer, settings=replace(settings, lr_unit=unit))
        reached[unit] = max((images - clean).abs().max().item() for images in seen[:1])
    span = settings.span(clean).item()
    assert reached["input"] == pytest.approx(0.01 * span) == reached["range"]
    seen.clear()
    vd.manipulate(model, clean, goal, method=explainer, steps=1, gradient="estimated", lr=0.02, **changes)
    assert (seen[0] - clean).abs().max().item() == pytest.approx(0.01 * span)
    table = vd.attacks.preset("table1-gradient", (-6.0, 6.0))
    assert replace(table, lr=1e-3, lr_unit="range").radius == table.radius == vd.attacks.preset().radius


def test_model_and_generator_are_as_before():
    model, clean, goal = pair()
    random = torch.get_rng_state()
    manipulate(model, clean, goal, explainer=Detached(), settings=SETTINGS)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def quadratic(weights):
    """A loss with the gradient 2 w x, of copies of a batch."""
    return lambda moved, count: (weights * moved.square()).flatten(1).sum(1)


def test_the_estimate_tends_to_the_gradient():
    x = images(2, size=4)
    weights = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x[0].shape)
    unit = torch.tensor([1.0, 3.0], dtype=x.dtype).reshape(2, 1, 1, 1)
    exact, errors = 2 * weights * x, []
    for directions in (16, 1024):
        found, losses = GradientEstimate(directions, 0.01, seed=0)(quadratic(weights), x, unit, 0)
        errors.append(((found - exact).norm() / exact.norm()).item())
        # the mean over the moved images: (r unit)^2 sum w more than at x, and here the weights sum to 0
        torch.testing.assert_close(losses, (weights * x.square()).flatten(1).sum(1))
    # the noise falls with the square root of the number of directions: by 8
    assert errors[1] < 0.35
    assert 4 < errors[0] / errors[1] < 16


def test_directions_are_seeded_and_differ_from_step_to_step():
    x = images(1)
    first, again = (GradientEstimate(4, 0.1, 0).signs(x, 0) for _ in range(2))
    assert torch.equal(first, again)
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    for other in (GradientEstimate(4, 0.1, 0).signs(x, 1), GradientEstimate(4, 0.1, 1).signs(x, 0)):
        assert not torch.equal(first, other)


def test_networks_with_batch_norm_see_the_same_statistics():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model = model.double().eval()
    model(images())
    mean = model[1].running_mean.clone()
    goal = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = ManipulationSettings(steps=2, gradient="estimated", factors=(1e4, 1.0), rescale=False)
    manipulate(model, images(), goal, explainer=Detached(), settings=settings)
    assert torch.equal(model[1].running_mean, mean)
