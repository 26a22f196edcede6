import math
from dataclasses import dataclass, fields, is_dataclass, replace

import pytest
import torch
from torch import nn

from veridical.attacks import ManipulationSettings, manipulate
from veridical.attacks import chunks as chunks_module
from veridical.attacks.chunks import (
    BLOCK,
    GIB,
    LivePeak,
    _left_in_container,
    free_memory,
    growth,
    pairs_together,
    step_meter,
)
from veridical.attacks.loss import Problem
from veridical.attacks.parts import even_parts
from veridical.attacks.slope import first_slope
from veridical.attributions import method
from veridical.values import FixedTensor

FAST = ManipulationSettings(steps=12, lr=0.01, factors=(1e6, 1e3), rescale=False, every=4)
COUNT = 7


def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        parts = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        parts += [
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 5),
        ]
        return nn.Sequential(*parts).double().eval()


def images(count=COUNT):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 2, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1


def goals(count=COUNT):
    generator = torch.Generator().manual_seed(6)
    return torch.rand(count, 8, 8, generator=generator, dtype=torch.float64)


def problem(explainer, count=COUNT, settings=FAST):
    net, x = network(), images(count)
    with torch.no_grad():
        logits = net(x)
    goal = goals(count) / goals(count).sum((1, 2), keepdim=True)
    smooth = settings.gradient == "exact"
    return Problem(net, explainer, logits.argmax(1), goal, logits, settings, smooth)


def split(task, clean, memory_gib):
    return even_parts(len(clean), pairs_together(task, clean, memory_gib))


def budget(explainer, pairs, settings=FAST):
    """A budget in GiB that holds exactly that many pairs, or for an estimate pairs times directions."""
    task = problem(explainer, settings=settings)
    if settings.gradient == "estimated":
        one, two = (step_meter(task.part(slice(0, 1)), images(1), n).peak for n in (1, 2))
    else:
        one, two = (step_meter(task.part(slice(0, n)), images(n)).peak for n in (1, 2))
    return chunks_module.MARGIN * (one + (pairs - 1 + 0.5) * (two - one)) / GIB


def attack(explainer, memory_gib=None, settings=FAST, **options):
    return manipulate(
        network(), images(), goals(), explainer=explainer, settings=settings, memory_gib=memory_gib, **options
    )


def tensors(value):
    """All tensors of a result, at any depth."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in tensors(getattr(value, field.name))]
    return [tensor for part in value for tensor in tensors(part)] if isinstance(value, tuple) else []


METHODS = {
    "gradient": method("gradient"),
    "lrp-zplus": method("lrp-zplus"),
    "integrated-gradients": method("integrated-gradients", steps=30, output="probability"),
}


@pytest.mark.parametrize("name", METHODS)
def test_result_does_not_depend_on_the_split(name):
    explainer = METHODS[name]
    whole = attack(explainer, math.inf)
    parts = attack(explainer, budget(explainer, 3))
    found = list(zip(tensors(whole), tensors(parts), strict=True))
    assert len(found) > 30
    for one, other in found:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, equal_nan=True)
    assert parts.settings == whole.settings
    assert not parts.interrupted


@pytest.mark.parametrize("pairs", [1, 2, 3, 7])
def test_a_budget_is_kept(pairs):
    explainer = METHODS["integrated-gradients"]
    memory = budget(explainer, pairs)
    found = split(problem(explainer), images(), memory)
    largest = max(part.stop - part.start for part in found)
    assert largest <= pairs
    assert len(found) == -(-COUNT // pairs)
    task = problem(explainer).part(found[0])
    assert step_meter(task, images()[found[0]]).peak <= memory * GIB


def test_without_a_budget_half_of_the_free_memory_is_taken(monkeypatch):
    explainer = METHODS["gradient"]
    memory = budget(explainer, 2)
    monkeypatch.setattr(chunks_module, "free_memory", lambda device: 2 * memory * GIB)
    assert [part.stop for part in split(problem(explainer), images(), None)] == [1, 3, 5, 7]
    monkeypatch.setattr(chunks_module, "free_memory", lambda device: 0)
    assert len(split(problem(explainer), images(), None)) == COUNT
    monkeypatch.undo()
    assert split(problem(explainer), images(), None) == [slice(0, COUNT)]


def test_on_a_cpu_no_tensor_that_grows_with_the_pairs_is_larger_than_a_block(monkeypatch):
    task = problem(METHODS["gradient"])
    largest = growth(*(step_meter(task.part(slice(0, n)), images(n)) for n in (1, 2)))
    assert largest == 6 * 64 * 8  # the first layer's output, in double precision
    assert BLOCK // largest > COUNT
    monkeypatch.setattr(chunks_module, "BLOCK", 3 * largest)
    assert [part.stop for part in split(task, images(), None)] == [2, 4, 7]
    assert [part.stop for part in split(task, images(), 1.0)] == [2, 4, 7]
    monkeypatch.setattr(chunks_module, "BLOCK", largest // 2)
    assert len(split(task, images(), None)) == COUNT
    assert split(task, images(), math.inf) == [slice(0, COUNT)]


def test_the_first_step_of_the_parts_is_not_taken_twice():
    def count(memory):
        calls = []

        def counted(model, inputs, target=None):
            calls.append(len(inputs) if inputs.requires_grad else 0)
            return METHODS["gradient"](model, inputs, target)

        attack(counted, memory)
        return sum(calls)

    assert count(math.inf) == COUNT * FAST.steps
    assert count(budget(METHODS["gradient"], 3)) == COUNT * FAST.steps + 1 + 2  # measured on one and on two


def test_one_pair_and_an_infinite_budget_measure_nothing():
    def never(model, inputs, target=None):
        raise AssertionError("called")

    assert split(problem(never, 1), images(1), None) == [slice(0, 1)]
    assert split(problem(never), images(), math.inf) == [slice(0, COUNT)]


def test_estimated_gradient_is_split_too():
    settings = ManipulationSettings(
        steps=2, lr=0.01, factors=(1e6, 1e3), rescale=False, gradient="estimated", directions=2
    )
    explainer = METHODS["gradient"]
    parts = attack(explainer, budget(explainer, 3, settings), settings)
    whole = attack(explainer, math.inf, settings)
    torch.testing.assert_close(parts.inputs, whole.inputs, rtol=0, atol=1e-10)
    assert bool((parts.calls == 8).all())


@pytest.mark.parametrize("pairs", [1, 3, 10])
def test_an_estimate_keeps_the_budget_in_every_call(pairs):
    settings = ManipulationSettings(
        steps=1, factors=(1e6, 1e3), rescale=False, gradient="estimated", directions=5
    )
    seen = []

    def watched(model, inputs, target=None):
        seen.append(len(inputs))
        return METHODS["gradient"](model, inputs, target)

    memory = budget(watched, pairs, settings)
    task = problem(watched, settings=settings)
    assert pairs_together(task, images(), memory) == pairs
    part = even_parts(COUNT, pairs)[0]
    x, span = images()[part], settings.span(images()[part])
    seen.clear()
    with LivePeak() as meter:
        first_slope(replace(task.part(part), folded=pairs), x, span)
    assert meter.peak <= memory * GIB
    assert max(seen) <= 2 * pairs
    seen.clear()
    attack(watched, memory, settings)
    assert max(seen) <= max(2 * pairs, 4)  # two directions of one pair were measured


def test_an_estimate_for_one_pair_is_measured_too(monkeypatch):
    settings = ManipulationSettings(factors=(1e6, 1e3), rescale=False, gradient="estimated", directions=5)
    task, memory = problem(METHODS["gradient"], settings=settings), budget(METHODS["gradient"], 2, settings)
    monkeypatch.setattr(chunks_module, "free_memory", lambda device: 2 * memory * GIB)
    assert pairs_together(task.part(slice(0, 1)), images(1), None) == 2
    monkeypatch.undo()
    assert pairs_together(task.part(slice(0, 1)), images(1), None) > 5


def test_progress_is_that_of_all_pairs():
    seen = []
    explainer = METHODS["gradient"]
    attack(explainer, budget(explainer, 3), callback=lambda done, losses: seen.append((done, losses)))
    steps = [done for done, _ in seen]
    assert len(seen) == 3 * FAST.steps
    assert steps == sorted(steps)
    assert steps[-1] == FAST.steps
    assert max(steps[: FAST.steps]) == 2 * FAST.steps // COUNT
    first, last = seen[0][1], seen[-1][1]
    assert first.isnan().tolist() == [False] * 2 + [True] * 5
    assert bool(last.isfinite().all())


def interrupting(after):
    calls = []

    def callback(done, losses):
        calls.append(done)
        if len(calls) == after:
            raise KeyboardInterrupt

    return callback


def test_interrupt_returns_the_finished_pairs():
    explainer = METHODS["gradient"]
    memory = budget(explainer, 3)
    whole = attack(explainer, memory)
    part = attack(explainer, memory, callback=interrupting(FAST.steps + 5))
    assert part.interrupted
    assert len(part.inputs) == 2
    assert torch.equal(part.inputs, whole.inputs[:2])
    assert [entry.step for entry in part.history] == [entry.step for entry in whole.history]


def test_interrupt_in_the_first_part_returns_it_as_far_as_it_came():
    explainer = METHODS["gradient"]
    part = attack(explainer, budget(explainer, 3), callback=interrupting(5))
    assert part.interrupted
    assert part.calls.tolist() == [4, 4] or part.calls.tolist() == [5, 5]
    assert [entry.step for entry in part.history] == [0, 4]


def test_interrupt_before_anything_is_known_goes_to_the_caller():
    calls = []

    def impatient(model, inputs, target=None):
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack(impatient, math.inf)


@dataclass(frozen=True)
class Broken:
    """The gradient, not finite for one image."""

    name: str = "gradient"

    def __call__(self, model, inputs, target=None):
        found = METHODS["gradient"](model, inputs, target)
        return found * torch.where((inputs.detach() == images()[5]).all(), math.nan, 1.0)


def test_what_cannot_work_is_said_before_the_first_part():
    seen = []
    with pytest.raises(ValueError, match=r"image\(s\) \[5\]"):
        attack(Broken(), budget(METHODS["gradient"], 1), callback=lambda *_: seen.append(1))
    assert not seen


@pytest.mark.parametrize("memory", [math.inf, None])
def test_a_pair_that_does_not_move_is_named_and_no_error(memory):
    def gated(model, inputs, target=None):
        gate = (inputs.detach() != images()[2]).any((1, 2, 3), keepdim=True).to(inputs)
        return METHODS["gradient"](model, inputs, target) * gate + (1 - gate)

    settings = ManipulationSettings(steps=2, factors=(1e6, 1e3), rescale=False)
    with pytest.warns(UserWarning, match=r"map of gated.*exactly 0 for image\(s\) \[2\]"):
        found = attack(gated, memory or budget(METHODS["gradient"], 1), settings)
    assert len(found.inputs) == COUNT


def test_a_budget_below_one_pair_is_refused():
    with pytest.raises(ValueError, match="memory_gib of at least"):
        attack(METHODS["gradient"], 1e-6)


@pytest.mark.parametrize("memory", [0.0, -1.0, math.nan])
def test_wrong_budgets(memory):
    with pytest.raises(ValueError, match="memory_gib above 0"):
        attack(METHODS["gradient"], memory)


def test_a_method_that_belongs_to_the_batch_is_not_split():
    tied = method("deeplift-rescale", reference=FixedTensor(images() / 2))
    assert split(problem(tied), images(), None) == [slice(0, COUNT)]
    with pytest.raises(ValueError, match=r"reference.*part of the batch.*math\.inf"):
        split(problem(tied), images(), 1.0)


def test_a_method_without_a_derivative_keeps_its_own_reason():
    def detached(model, inputs, target=None):
        return METHODS["gradient"](model, inputs, target).detach()

    with pytest.raises(ValueError, match="no requires_grad") as caught:
        attack(detached, 1.0)
    assert "math.inf" not in str(caught.value)


def test_parts_are_few_and_even():
    assert even_parts(7, 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert even_parts(8, 8) == [slice(0, 8)]
    assert even_parts(3, 100) == [slice(0, 3)]


def test_live_peak_counts_what_is_alive_at_once():
    x = torch.zeros(1000)
    with LivePeak() as meter:
        for _ in range(5):
            y = x + 1
            y = y.view(10, 100).exp()
        del y
        x[:250].clone()
    assert meter.peak == 2 * 4000
    with LivePeak() as meter:
        x.view(10, 100)
        x.mul_(2)
    assert meter.peak == 0


def test_need_grows_with_pairs_and_nodes():
    few, many = (method("integrated-gradients", steps=steps) for steps in (10, 30))
    one, two, long = (
        step_meter(problem(explainer).part(slice(0, n)), images(n)).peak
        for explainer, n in ((few, 1), (few, 2), (many, 1))
    )
    assert 1.4 * one < two < 2.2 * one
    assert 1.5 * one < long < 3.5 * one


def test_free_memory():
    assert GIB / 100 < free_memory(torch.device("cpu")) < 2**50


def test_limit_of_a_container(tmp_path):
    assert _left_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert _left_in_container(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_container(tmp_path) is None
