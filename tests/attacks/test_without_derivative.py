"""Methods whose maps carry no derivative: refused with the reason, or attacked by calls, which is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import veridical as vd
from networks import Residual, Sequential, images, seeded
from veridical.attacks import ManipulationSettings, manipulate
from veridical.attacks.loss import Problem
from veridical.attacks.slope import first_slope, slope

EXACT = ManipulationSettings(steps=2, lr=0.01, factors=(1e6, 1e2), rescale=False, every=2)
ESTIMATED = ManipulationSettings(
    steps=2, lr=0.01, factors=(1e6, 1e2), rescale=False, every=2, gradient="estimated", directions=4,
    radius=0.02,
)  # fmt: skip


def product(model, inputs):
    """Gradient times input, detached."""
    x = inputs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).amax(1).sum(), x)
    return (gradient * x).detach()


def detached(model, inputs, target=None):
    return product(model, inputs)


def without_grad(model, inputs, target=None):
    with torch.no_grad():
        return model(inputs).softmax(1).amax(1)[:, None, None, None] * inputs.square()


def signs(model, inputs, target=None):
    """Attached to the image, and constant nearly everywhere."""
    return torch.sign(inputs - inputs.mean()) + 0.0 * inputs


def through_numpy(model, inputs, target=None):
    return torch.from_numpy(np.abs(inputs.numpy()) * product(model, inputs).numpy())


def stepped(model, inputs, target=None):
    """As the one before, in large steps."""
    return torch.round(50 * product(model, inputs).abs()) + 1.0


def attacked(explainer, settings):
    clean, other = images(2, seed=3).split(1)
    model = seeded(Sequential)
    goal = other.abs().sum(1)
    return manipulate(model, clean, goal, explainer=explainer, settings=settings)


@pytest.mark.parametrize(
    ("explainer", "reason"),
    [
        (detached, "map of detached to change.*no requires_grad.*gradient='estimated'"),
        (without_grad, "map of without_grad to change.*no requires_grad.*gradient='estimated'"),
        (vd.smoothgrad(detached, 2), "no requires_grad.*gradient='estimated'"),
        (vd.beta_smooth(detached, 2.0), "no requires_grad.*gradient='estimated'"),
    ],
    ids=["detached", "no_grad", "averaged", "smoothed"],
)
def test_a_plain_callable_is_refused_at_the_first_step(explainer, reason):
    with pytest.raises(ValueError, match=reason):
        attacked(explainer, EXACT)


@pytest.mark.parametrize("settings", [EXACT, vd.attacks.preset(), replace(EXACT, smoothing="off")])
def test_a_map_that_is_constant_nearly_everywhere_is_refused(settings):
    with pytest.raises(ValueError, match="map of signs to change.*exactly 0.*gradient='estimated'"):
        attacked(signs, settings)


def test_deconvnet_without_max_pooling_is_refused_by_default():
    clean, other = images(2, seed=3).split(1)
    with pytest.raises(ValueError, match="map of deconvnet to change.*exactly 0"):
        vd.manipulate(seeded(Residual), clean, other.abs().sum(1), method="deconvnet")


def test_the_first_step_alone_costs_a_second_backward_pass():
    model, calls = seeded(Sequential), []

    def explain(given, inputs, target=None):
        relevance = vd.method("gradient")(given, inputs, target)
        if relevance.requires_grad:
            relevance.register_hook(lambda _: calls.append("map"))
        return relevance

    forward = []
    model.register_forward_hook(lambda *_: forward.append(1))
    clean, other = images(2, seed=3).split(1)
    settings = replace(EXACT, every=100)
    counts = []
    for steps in (1, 2, 3):
        forward.clear()
        calls.clear()
        manipulate(
            model, clean, other.abs().sum(1), explainer=explain, settings=replace(settings, steps=steps)
        )
        counts.append((len(forward), len(calls)))
    # The map is differentiated once a step, the first one included, and no forward pass is added.
    assert [count[1] for count in counts] == [1, 2, 3]
    assert counts[1][0] - counts[0][0] == counts[2][0] - counts[1][0]


def test_the_terms_of_the_first_step_sum_to_the_gradient_of_the_loss():
    model, clean = seeded(Sequential), images(2, seed=3)
    logits = model(clean).detach()
    goal = clean.flip(2).abs().sum(1)
    goal = goal / goal.sum((1, 2), keepdim=True)
    task = Problem(model, vd.method("gradient"), logits.argmax(1), goal, logits, EXACT, smooth=True)
    x = clean.clone().requires_grad_(True)
    losses, gradient = slope(task, x, EXACT.span(clean), 0)
    first = first_slope(task, x, EXACT.span(clean))
    torch.testing.assert_close(first.losses, losses)
    torch.testing.assert_close(first.gradient, gradient)
    assert not bool(first.still.any())
    assert bool((task.terms(x, task.beta(0))[1] > 0).all())  # softplus logits are not those of the ReLUs


@pytest.mark.parametrize(
    "explainer",
    [
        detached,
        without_grad,
        through_numpy,
        stepped,
        vd.smoothgrad(detached, 2),
        vd.beta_smooth(detached, 2.0),
    ],
    ids=["detached", "no_grad", "numpy", "stepped", "averaged", "smoothed"],
)
def test_a_plain_callable_is_attacked_by_calls_which_the_result_says(explainer):
    result = attacked(explainer, ESTIMATED)
    assert result.gradient == "estimated" and result.calls.tolist() == [2 * 2 * 4]
    assert bool(result.inputs.isfinite().all())


def test_a_callable_that_leaves_torch_is_refused_in_the_words_of_torch():
    with pytest.raises(RuntimeError, match="requires grad"):
        attacked(through_numpy, EXACT)


def test_a_callable_with_a_derivative_is_attacked_as_a_built_in_method_is():
    def explain(model, inputs, target=None) -> Tensor:
        return vd.method("gradient-x-input")(model, inputs, target)

    own, built_in = (attacked(one, EXACT) for one in (explain, vd.method("gradient-x-input")))
    assert own.gradient == "exact"
    torch.testing.assert_close(own.inputs, built_in.inputs)


def test_the_public_function_takes_the_same_choice():
    clean = images(1, seed=3)
    model = seeded(Sequential)
    goal = images(1, seed=4).abs().sum(1)
    with pytest.raises(ValueError, match="no requires_grad"):
        vd.manipulate(model, clean, goal, method=detached, steps=2)
    result = vd.manipulate(
        model, clean, goal, method=detached, steps=2, gradient="estimated", directions=2, lr=0.01
    )
    assert result.gradient == "estimated"


@pytest.mark.peer
def test_methods_of_captum_are_refused_and_can_be_attacked_by_calls():
    captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    explainer = vd.from_captum(captum.Saliency)
    with pytest.raises(ValueError, match='got captum.Saliency; .*gradient="estimated"'):
        attacked(explainer, EXACT)
    with pytest.raises(ValueError, match='captum.Saliency.*gradient="estimated"'):
        attacked(vd.smoothgrad(explainer, 2), EXACT)
    result = attacked(explainer, ESTIMATED)
    assert result.gradient == "estimated" and result.step.item() <= 2


@pytest.mark.peer
def test_methods_of_zennit_are_attacked_where_they_have_a_derivative():
    try:
        from zennit.attribution import Gradient, Occlusion
        from zennit.canonizers import SequentialMergeBatchNorm
        from zennit.composites import EpsilonPlus
    except (ImportError, RuntimeError):  # a torchvision that does not fit torch fails so
        pytest.skip("needs zennit (make peers)")
    assert attacked(vd.from_zennit(EpsilonPlus), EXACT).gradient == "exact"
    canonized = vd.from_zennit(EpsilonPlus, canonizers=[SequentialMergeBatchNorm()])
    for explainer in (
        canonized,
        vd.from_zennit(None, attributor=Occlusion, start="value", window=4, stride=4),
    ):
        with pytest.raises(ValueError, match='got zennit.*gradient="estimated"'):
            attacked(explainer, EXACT)
    assert attacked(canonized, ESTIMATED).gradient == "estimated"
    assert attacked(vd.from_zennit(None, attributor=Gradient), EXACT).gradient == "exact"
