"""The compiled step: recorded with all its derivatives, and the same as the eager one."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from networks import Residual, Sequential, images, seeded
from veridical.attacks import ManipulationSettings, manipulate
from veridical.attacks.compiled import AGREES, compiled_slope
from veridical.attacks.loss import Problem, needs_smoothing
from veridical.attacks.slope import slope
from veridical.attributions import fit_patterns, method
from veridical.smoothing import beta_smooth, smoothgrad
from veridical.values import explainer_name

SETTINGS = ManipulationSettings(steps=10, factors=(1e6, 1e3), rescale=False, lr=0.01, every=4)
METHODS = [
    "contrastive-lrp", "deep-taylor", "deeplift-reveal-cancel", "gradient", "guided-backprop",
    "guided-grad-cam", "lrp-alpha2-beta1", "pattern-attribution", "rectgrad",
]  # fmt: skip
"""Of each kind of rule one; the rest, much alike, with the slow tests."""
ALIKE = [
    "contrastive-excitation-backprop", "deconvnet", "deeplift-ablation", "deeplift-rescale",
    "excitation-backprop", "grad-cam", "gradient-x-input", "lrp-alpha1-beta0", "lrp-alpha5-beta4",
    "lrp-cmp-alpha1", "lrp-cmp-alpha2", "lrp-epsilon", "lrp-z",
    "lrp-zplus", "patternnet",
]  # fmt: skip


@pytest.fixture
def recorded(monkeypatch):
    """The graph as it was recorded: what `torch.compile` makes of it is the slow test's."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)


def goals(count=3, size=8):
    maps = torch.rand(count, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return maps / maps.sum((1, 2), keepdim=True)


def problem(explainer, model=None, count=3, settings=SETTINGS):
    model = seeded(Residual) if model is None else model
    x = images(count)
    with torch.no_grad():
        logits = model(x)
    smooth = settings.gradient == "exact" and needs_smoothing(explainer)
    return Problem(model, explainer, logits.argmax(1), goals(count), logits, settings, smooth)


def moved(x):
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    return (x + 0.1 * step).requires_grad_()


def agree(explainer, model=None):
    """Recorded at the first step, compared at another image and beta, and for fewer pairs."""
    task = problem(explainer, model)
    x = images(3)
    span = SETTINGS.span(x)
    found = compiled_slope(task, x.clone().requires_grad_(), span)
    y = moved(x)
    assert found.gap(task, y, span, 9) < 1e-9
    assert found.gap(task.part(slice(0, 2)), y[:2].detach().requires_grad_(), span[:2], 5) < 1e-9
    losses, gradient = found(task, y, span, 9)
    eager = slope(task, y, span, 9)
    torch.testing.assert_close(losses, eager[0])
    torch.testing.assert_close(gradient, eager[1], rtol=1e-6, atol=1e-9 * float(eager[1].abs().amax()))
    assert not losses.requires_grad and not gradient.requires_grad


@pytest.mark.parametrize("name", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in ALIKE)])
def test_the_recorded_step_is_the_eager_one(name, recorded) -> None:
    model = seeded(Residual)
    options = {"patterns": fit_patterns(model, [images(8)])} if name.startswith("pattern") else {}
    agree(method(name, **options), model)


@pytest.mark.parametrize(
    "explainer",
    [
        method("integrated-gradients", steps=3, output="probability"),
        beta_smooth(method("gradient"), 2.0),
        smoothgrad(method("gradient"), 3, 0.1),
        smoothgrad(beta_smooth(method("lrp-zplus"), 2.0), 2, 0.1),
    ],
    ids=explainer_name,
)
def test_so_is_that_of_a_wrapped_method(explainer, recorded) -> None:
    agree(explainer, seeded(Sequential))


def test_relu6_and_relu_overwriting_their_input(recorded) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        parts = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(inplace=True), nn.Conv2d(6, 6, 3)]
        parts += [nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
        model = nn.Sequential(*parts).double().eval()
    for name in ("gradient", "guided-backprop", "lrp-zplus"):
        agree(method(name), model)


def test_a_method_that_looks_at_values(recorded) -> None:
    def scaled(model, inputs, target=None):
        found = method("gradient")(model, inputs, target)
        return found * (2.0 if float(found.detach().abs().amax()) > 0 else 1.0)

    agree(scaled)


def attack(explainer, **options):
    return manipulate(seeded(Residual), images(3), goals(), explainer=explainer, settings=SETTINGS, **options)


def test_the_attack_ends_where_the_eager_one_does(recorded, monkeypatch) -> None:
    eager, ours = (attack(method("gradient"), compiled=one) for one in (False, True))
    torch.testing.assert_close(ours.inputs, eager.inputs, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours.similarity.to_target.pcc, eager.similarity.to_target.pcc)
    assert not torch.equal(ours.inputs, images(3))
    monkeypatch.setattr("veridical.attacks.manipulation.pairs_together", lambda *_: 2)  # one and two
    parts = attack(method("gradient"), compiled=True)
    torch.testing.assert_close(parts.inputs, eager.inputs, rtol=0, atol=1e-8)


def test_noise_of_its_own_is_refused(recorded) -> None:
    def noisy(model, inputs, target=None):
        return method("gradient")(model, inputs + 0.5 * torch.randn_like(inputs), target)

    with torch.random.fork_rng(), pytest.raises(ValueError, match=r"agree.*noise of its own.*compiled=False"):
        attack(noisy, compiled=True)


def test_what_changes_later_is_noticed_at_the_end(recorded) -> None:
    calls = []

    def tiring(model, inputs, target=None):
        calls.append(1)
        found = method("gradient")(model, inputs, target)
        return found if len(calls) < 10 else found.square()

    with pytest.warns(UserWarning, match=r"compiled step to agree.*at step 9.*holds"):
        attack(tiring, compiled=True)
    assert len(calls) > 10


def test_what_leaves_torch_is_noticed_too(recorded) -> None:
    def foreign(model, inputs, target=None):
        found = method("gradient")(model, inputs, target)
        return found * torch.from_numpy(np.abs(found.detach().numpy()))

    with pytest.warns(UserWarning, match=r"compiled step to agree"):
        attack(foreign, compiled=True)


def test_an_estimate_is_not_compiled() -> None:
    def never(model, inputs, target=None):
        raise AssertionError("called")

    settings = ManipulationSettings(steps=2, gradient="estimated", directions=2)
    with pytest.raises(ValueError, match="exact gradient to compile"):
        manipulate(seeded(Residual), images(3), goals(), explainer=never, settings=settings, compiled=True)


def test_what_is_wrong_anyway_is_said_in_its_own_words(recorded) -> None:
    def detached(model, inputs, target=None):
        return method("gradient")(model, inputs, target).detach()

    with pytest.raises(ValueError, match="no requires_grad") as caught:
        attack(detached, compiled=True)
    assert "compiled" not in str(caught.value)


def test_nan_for_one_image_is_said_in_its_own_words(recorded) -> None:
    def broken(model, inputs, target=None):
        found = method("gradient")(model, inputs, target)
        return found * torch.tensor([1.0, 1.0, torch.nan])[: len(found), None, None, None]

    with pytest.raises(ValueError, match=r"image\(s\) \[2\]"):
        attack(broken, compiled=True, memory_gib=math.inf)


def test_an_interrupt_in_the_last_look_keeps_what_was_reached(recorded, monkeypatch) -> None:
    def impatient(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("veridical.attacks.compiled.CompiledSlope.check_last", impatient)
    found = attack(method("gradient"), compiled=True)
    assert not found.interrupted
    torch.testing.assert_close(found.inputs, attack(method("gradient")).inputs, rtol=0, atol=1e-8)


def test_no_memory_is_no_fault_of_the_recording(monkeypatch) -> None:
    def full(graph, **_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.OutOfMemoryError):
        attack(method("gradient"), compiled=True)


def test_a_failing_compiler_is_named(monkeypatch) -> None:
    def missing(graph, **_):
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ValueError, match="got: no working C"):
        attack(method("gradient"), compiled=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", ["gradient", "lrp-zplus"])
def test_compiled_indeed(name) -> None:
    task, x = problem(method(name), seeded(Sequential)), images(3)
    span = SETTINGS.span(x)
    found = compiled_slope(task, x.clone().requires_grad_(), span)
    assert found.gap(task, moved(x), span, 9) < AGREES
    eager, ours = (
        manipulate(
            seeded(Sequential), x, goals(), explainer=method(name), settings=SETTINGS, compiled=compiled
        )
        for compiled in (False, True)
    )
    torch.testing.assert_close(ours.inputs, eager.inputs, rtol=0, atol=1e-6)
