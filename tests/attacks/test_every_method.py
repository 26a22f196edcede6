"""Every built-in method under attack: as it is, on softplus activations, and averaged over noise."""

import pytest
import torch

from fitted import ready
from networks import Residual, Sequential, images, seeded
from veridical.attacks import ManipulationSettings, manipulate
from veridical.attacks.loss import FIRST_ORDER, needs_smoothing, saliency_map
from veridical.attributions import method, methods
from veridical.metrics import pearson
from veridical.smoothing import beta_smooth, smoothgrad

OPTIONS = {
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 2},
    "rectgrad": {"percentile": 30.0},
}
WRAPPERS = {
    "plain": lambda explainer: explainer,
    "beta-smoothed": lambda explainer: beta_smooth(explainer, 2.0),
    "averaged": lambda explainer: smoothgrad(explainer, samples=2, noise=0.05),
}
FAST = ManipulationSettings(steps=16, lr=0.015, lr_unit="range", factors=(1e6, 1e3), rescale=False, every=4)
# Its map depends on the image through the switches of max pooling alone.
HARDLY = "deconvnet"


def built(name, model):
    return ready(name, model, **OPTIONS.get(name, {}))


def attacked(name, wrapper, settings=FAST):
    """The PCC with another image's map before and after, the latter measured here once more; the class."""
    model = seeded(Sequential)
    clean, other = images(4, seed=3).split(2)
    explainer = WRAPPERS[wrapper](built(name, model))
    goal = saliency_map(explainer, model, other, model(other).argmax(1)).detach()
    result = manipulate(model, clean, goal, explainer=explainer, settings=settings)
    classes = model(result.inputs).argmax(1)
    relevance = explainer(model, result.inputs, classes).detach()
    after = pearson(relevance.abs().sum(1), goal)
    return result.similarity.before.pcc, after, torch.equal(classes, model(clean).argmax(1))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", [name for name in methods() if name != HARDLY])
def test_the_map_moves_to_the_target_and_the_class_stays(name, wrapper):
    before, after, kept = attacked(name, wrapper)
    assert kept
    assert bool((after >= before - 1e-9).all())
    # the share of the way to a correlation of 1
    assert (after - before).mean() > 0.1 * (1 - before).mean()


def test_a_map_that_does_not_change_with_the_image_is_refused():
    model, clean = seeded(Residual), images(2)
    goal = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for smoothing in ("off", "auto"):
        settings = ManipulationSettings(steps=2, factors=(1e6, 0.0), smoothing=smoothing)
        with pytest.raises(ValueError, match="deconvnet to change with the image to first order"):
            manipulate(model, clean, goal, explainer=method(HARDLY), settings=settings)


def derivative(name):
    """Of the map on a ReLU network, along a fixed weighting of its pixels, for two images."""
    model = seeded(Sequential)
    x = images(2, seed=3).requires_grad_()
    maps = saliency_map(built(name, model), model, x, torch.tensor([0, 1]))
    weights = torch.randn(maps.shape, dtype=maps.dtype, generator=torch.Generator().manual_seed(5))
    (found,) = torch.autograd.grad((maps * weights).sum(), x, materialize_grads=True)
    return found.abs().flatten(1).amax(1)


@pytest.mark.parametrize("name", methods())
def test_who_runs_on_the_network_as_it_is_has_a_derivative_there(name):
    moves = bool((derivative(name) > 1e-9).all())
    assert moves or needs_smoothing(method_of(name)), f"{name} has no derivative on a ReLU network"


def method_of(name):
    return built(name, seeded(Sequential))


def test_the_methods_without_growth_are_built_in_ones():
    assert set(methods()) >= FIRST_ORDER
    assert {method(name).name for name in FIRST_ORDER} == FIRST_ORDER
