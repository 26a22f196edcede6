"""Several targets and several methods: the same relevance as one by one, from one forward pass."""

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from fitted import ready
from networks import NETWORKS, Sequential, images, seeded
from veridical.attributions import explain_several, method, methods
from veridical.attributions.several import FromTrace
from veridical.rules import record

OPTIONS = {
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
    "rectgrad": {"percentile": 60.0},
}


def every_method(network: str) -> dict:
    model = NETWORKS[network]()
    return {
        name: method(name, **OPTIONS[name]) if name in OPTIONS else ready(name, model) for name in methods()
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_as_one_by_one(network: str) -> None:
    model, x = NETWORKS[network](), images(2)
    targets = [1, torch.tensor([3, 0]), None]
    explainers = every_method(network)
    found = explain_several(model, x, explainers, targets)
    assert list(found) == methods()
    for name, explainer in explainers.items():
        alone = torch.stack([explainer(model, x, target) for target in targets])
        torch.testing.assert_close(found[name], alone)
        assert not found[name].requires_grad


def test_the_results_are_differentiable_where_the_images_are() -> None:
    model, x = seeded(Sequential), images(2)
    explainers = {name: method(name) for name in ("gradient-x-input", "lrp-zplus", "deeplift-rescale")}
    image = x.clone().requires_grad_()
    for name, relevance in explain_several(model, image, explainers, [1, 2]).items():
        (together,) = torch.autograd.grad(relevance.square().sum(), image, retain_graph=True)
        single = x.clone().requires_grad_()
        parts = [explainers[name](model, single, target).square().sum() for target in (1, 2)]
        torch.testing.assert_close(together, torch.autograd.grad(sum(parts), single)[0])


class Counting(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.network(x)


def test_one_forward_pass_serves_all_methods_that_need_no_other() -> None:
    model, x = Counting(seeded(Sequential)).eval(), images(2)
    shared = {
        name: method(name)
        for name in methods()
        if isinstance(method(name), FromTrace) and not name.startswith(("deeplift", "pattern"))
    }
    assert len(shared) > 15
    explain_several(model, x, shared, [0, 1, 2, 3, None])
    assert model.passes == 1


def test_a_callable_of_ones_own_is_called_once_with_the_images_repeated() -> None:
    model, x, calls = seeded(Sequential), images(2), []

    def constant(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        calls.append((len(inputs), target.tolist()))
        return inputs * target.view(-1, 1, 1, 1)

    found = explain_several(model, x, {"constant": constant}, [1, 2])
    assert calls == [(4, [1, 1, 2, 2])]
    torch.testing.assert_close(found["constant"], torch.stack([x, 2 * x]))


def test_what_is_missing_or_wrong_is_named() -> None:
    model, x = seeded(Sequential), images(2)
    with pytest.raises(ValueError, match="at least one method and one target, got 0 and 1"):
        explain_several(model, x, {})
    with pytest.raises(ValueError, match="at least one method and one target, got 1 and 0"):
        explain_several(model, x, {"gradient": method("gradient")}, [])
    with pytest.raises(ValueError, match=r"0..3, got 4"):
        explain_several(model, x, {"gradient": method("gradient")}, [0, 4])
    with pytest.raises(TypeError, match="can be called|callable"):
        explain_several(model, x, {"gradient": "gradient"})


@pytest.mark.parametrize("network", ["sequential", "residual"])
def test_one_method_alone_takes_its_trace_apart_and_gives_the_same(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the vectors part on the way, side by side, because no value is small enough."""
    model, x, targets = NETWORKS[network](), images(2), [1, torch.tensor([3, 0]), None]
    explainers = every_method(network)
    together = explain_several(model, x, explainers, targets)
    monkeypatch.setattr(import_module("veridical.rules.propagate"), "_MANY", 100)
    for name, explainer in explainers.items():
        alone = explain_several(model, x, {name: explainer}, targets)
        torch.testing.assert_close(alone[name], together[name])


def test_one_method_alone_frees_the_pass_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    monkeypatch.setattr(
        "veridical.attributions.several.record",
        lambda *args, **options: traces.append(record(*args, **options)) or traces[-1],
    )
    model, x = seeded(Sequential), images(2)
    explain_several(model, x, {"gradient": method("gradient")}, [0, 1])
    explain_several(model, x, {name: method(name) for name in ("gradient", "lrp-zplus")}, [0, 1])
    explain_several(model, x.requires_grad_(), {"gradient": method("gradient")}, [0, 1])
    assert [bool(trace.operations) for trace in traces] == [False, True, True]
