"""Lean traces: the same relevance in less memory."""

import gc
import inspect
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fitted import ready
from networks import NETWORKS, Residual, images, seeded
from veridical.attributions import method, methods
from veridical.rules import class_start, propagate, record
from veridical.rules.operations import OVERWRITING

LEAN = [name for name in methods() if getattr(getattr(method(name), "rules", None), "lean", False)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", LEAN)
def test_a_lean_trace_gives_the_same_relevance_to_the_last_bit(name: str, network: str) -> None:
    model, x = NETWORKS[network](), images(2)
    rules = ready(name, model).rules
    results = []
    for lean in (False, True):
        trace = record(model, x, lean=lean)
        start = class_start(trace, torch.tensor([[1, 2], [0, 3]]), rules.seed)
        results.append(propagate(trace, rules, start).inputs)
    assert torch.equal(*results)


def test_what_the_model_overwrites_is_not_kept_but_can_be_computed_again() -> None:
    model, x = seeded(Residual), images(2)
    full, lean = record(model, x), record(model, x, lean=True)
    gone = {op.name for op in lean.operations if id(op.output) in op.lost}
    assert gone == {"norm", "second", ":add"}  # `+=` behind the second convolution, ReLU in place elsewhere
    for one, other in zip(full.operations, lean.operations, strict=True):
        torch.testing.assert_close(one.value, other.value)
        for a, b in zip(one.values, other.values, strict=True):
            torch.testing.assert_close(a, b)


def test_a_differentiable_trace_keeps_everything() -> None:
    trace = record(seeded(Residual), images(2).requires_grad_(), lean=True)
    assert not trace.lean
    assert not any(op.lost for op in trace.operations)


def test_a_lean_trace_frees_each_operation_and_serves_once() -> None:
    model, x = seeded(Residual), images(2)
    rules = method("lrp-zplus").rules
    trace = record(model, x, lean=True)
    start = class_start(trace, torch.tensor([1, 2]), "one")
    alive = [weakref.ref(operation) for operation in trace.operations]
    gc.disable()  # reference cycles would keep the activations until some later collection
    try:
        propagate(trace, rules, start)
        assert not any(reference() for reference in alive)
    finally:
        gc.enable()
    with pytest.raises(ValueError, match="a trace that can still be used, got a lean one"):
        propagate(trace, rules, start)


def test_rules_that_need_kept_values_refuse_a_lean_trace() -> None:
    model, x = seeded(Residual), images(2)
    start = torch.ones(1, 2, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="got those of deeplift-reveal-cancel; record without lean=True"):
        propagate(record(model, x, lean=True), method("deeplift-reveal-cancel").rules, start)
    with pytest.raises(ValueError, match="got those of deeplift-rescale with layers to keep"):
        propagate(record(model, x, lean=True), method("deeplift-rescale").rules, start, keep=("stem",))


def test_recording_leaves_no_reference_cycle_behind() -> None:
    model, x = seeded(Residual), images(2)
    gc.collect()
    gc.disable()
    try:
        trace = record(model, x)
        values = [weakref.ref(operation.output) for operation in trace.operations]
        del trace
        assert not any(reference() is not None for reference in values)
    finally:
        gc.enable()


class InPlace(nn.Module):
    """One function in its in-place form behind a convolution, and its result behind another."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 4)
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        side = self.second(F.avg_pool2d(x[:, :1], 3, 1).expand(-1, 4, -1, -1))
        if self.base in ("add", "sub"):
            getattr(y, f"{self.base}_")(side)
        else:
            function = getattr(F, self.base, None) or getattr(torch, f"{self.base}_")
            in_place = "inplace" in str(inspect.signature(function)) if function.__module__ else False
            y = function(y, inplace=True) if in_place else getattr(torch, f"{self.base}_")(y)
        return self.head((self.second(y) + side).mean([2, 3]))


@pytest.mark.parametrize("base", sorted(OVERWRITING))
def test_what_runs_in_place_has_the_derivative_of_its_out_of_place_form(base: str) -> None:
    model, x = seeded(lambda: InPlace(base)), images(2)
    lean = record(model, x, lean=True)
    assert lean.operation("first").output.data_ptr() in {
        op.output.data_ptr() for op in lean.operations if op.base == base
    }
    torch.testing.assert_close(lean.logits, model(x))
    for name in ("guided-backprop", "lrp-epsilon", "lrp-alpha2-beta1"):
        rules = method(name, overrides=((base, "gradient"),)).rules
        if base in ("add", "sub"):
            rules = method(name).rules
        results = []
        for slim in (True, False):
            trace = record(model, x, lean=slim)
            start = class_start(trace, torch.tensor([[1, 2], [0, 3]]), rules.seed)
            results.append(propagate(trace, replace(rules, changed=frozenset()), start).inputs)
        torch.testing.assert_close(
            *results, rtol=1e-12, atol=1e-15
        )  # elu's derivative is taken of its result
