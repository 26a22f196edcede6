"""Lean traces: the same relevance in less memory."""

import gc
import weakref

import pytest
import torch

from fitted import ready
from networks import NETWORKS, Residual, images, seeded
from veridical.attributions import method, methods
from veridical.rules import class_start, propagate, record

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
