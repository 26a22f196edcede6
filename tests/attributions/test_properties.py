"""What every method promises on every network: one table, and a test that no method is forgotten."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fitted import Ready, needs_patterns
from networks import NETWORKS, Residual, Sequential, images, seeded
from veridical.attributions import method, methods
from veridical.smoothing import beta_smooth, smoothgrad

OPTIONS = {
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
    "rectgrad": {"percentile": 60.0},
}
EXPLAINERS = {name: method(name, **OPTIONS.get(name, {})) for name in methods()}
EXPLAINERS |= {name: Ready(name) for name in methods() if needs_patterns(name)}
EXPLAINERS |= {
    "beta-smoothed gradient": beta_smooth(method("gradient"), 2.0),
    "beta-smoothed guided-backprop": beta_smooth(method("guided-backprop"), 2.0),
    "beta-smoothed lrp-zplus": beta_smooth(method("lrp-zplus"), 2.0),
    "smoothgrad of lrp-epsilon": smoothgrad(method("lrp-epsilon"), 3, 0.1),
    "deeplift-rescale from a blur": method("deeplift-rescale", reference="blur", blur=1.0),
    "deeplift-reveal-cancel of sixt2020": method("deeplift-reveal-cancel", convention="sixt2020"),
    "deeplift-ablation by the text": method("deeplift-ablation", chains="text"),
    "raw grad-cam of the probability": method(
        "grad-cam", relu=False, upsampling="bicubic", output="probability"
    ),
    "beta-smoothed rectgrad": beta_smooth(method("rectgrad", percentile=60.0), 2.0),
}
EVERY_METHOD = pytest.mark.parametrize("explainer", EXPLAINERS.values(), ids=EXPLAINERS)
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS)


def test_no_method_is_forgotten() -> None:
    assert set(methods()) <= set(EXPLAINERS)


@EVERY_NETWORK
@EVERY_METHOD
def test_a_batch_equals_its_images_one_by_one(explainer, network: str) -> None:
    model, x, target = NETWORKS[network](), images(3), torch.tensor([0, 1, 3])
    together = explainer(model, x, target)
    alone = torch.cat([explainer(model, x[i : i + 1], target[i : i + 1]) for i in range(3)])
    assert together.shape == x.shape and together.dtype == x.dtype
    torch.testing.assert_close(together, alone)


@EVERY_NETWORK
@EVERY_METHOD
def test_the_relevances_own_gradient_agrees_with_central_differences(explainer, network: str) -> None:
    model, x = NETWORKS[network](), images(2)
    weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    image = x.clone().requires_grad_()
    relevance = explainer(model, image, 1)
    torch.testing.assert_close(relevance.detach(), explainer(model, x, 1))
    # deconvnet drops the forward masks: without max pooling it does not depend on the image at all
    (derivative,) = torch.autograd.grad((relevance * weights).sum(), image, materialize_grads=True)
    for seed in range(3):
        direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        step = 1e-6
        ends = [(explainer(model, x + k * step * direction, 1) * weights).sum() for k in (-2, -1, 1, 2)]
        expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        scale = max(1.0, abs(expected.item()))
        assert abs((derivative * direction).sum() - expected).item() <= 1e-6 * scale


def state(model: nn.Module) -> tuple:
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [module.training for module in model.modules()],
        [
            len(vars(module)[h])
            for module in model.modules()
            for h in sorted(vars(module))
            if h.endswith("_hooks")
        ],
        [sorted(vars(module)) for module in model.modules()],
        torch.get_rng_state(),
    )


def assert_same(before: tuple, after: tuple) -> None:
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:5] == after[1:5]
    assert torch.equal(before[5], after[5])


@EVERY_METHOD
def test_the_model_and_the_inputs_are_left_as_they_were(explainer) -> None:
    model, x = seeded(Residual), images()
    model.head.weight.requires_grad_(False)
    before, original = state(model), x.clone()
    explainer(model, x)
    explainer(model, x.clone().requires_grad_(), 1)
    assert_same(before, state(model))
    assert torch.equal(x, original) and not x.requires_grad and x.grad is None
    assert not torch.overrides._get_current_function_mode_stack()


class Bomb(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("bang")


@EVERY_METHOD
def test_an_exception_in_the_middle_leaves_nothing_behind(explainer) -> None:
    model = seeded(Sequential)
    model.classifier.insert(2, Bomb())
    model.eval()
    before = state(model)
    with pytest.raises(RuntimeError, match="bang"):
        explainer(model, images(), 1)
    assert_same(before, state(model))
    assert not torch.overrides._get_current_function_mode_stack()


@EVERY_METHOD
def test_training_mode_is_said_and_put_back(explainer) -> None:
    model = seeded(Residual)
    expected = explainer(model, images(), 1)
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        relevance = explainer(model, images(), 1)
    assert all(module.training for module in model.modules())
    assert torch.equal(relevance, expected)


@EVERY_METHOD
def test_the_same_call_gives_the_same_bits(explainer) -> None:
    model, x = seeded(Residual), images()
    assert torch.equal(explainer(model, x), explainer(copy.deepcopy(model), x))


@EVERY_METHOD
@pytest.mark.parametrize("target", [4, -1])
def test_a_target_out_of_range_is_named(explainer, target: int) -> None:
    with pytest.raises(ValueError, match=f"0..3, got {target}"):
        explainer(seeded(Sequential), images(), target)


class EditsInput(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5))


@EVERY_METHOD
def test_a_model_that_edits_its_input_is_refused(explainer) -> None:
    x = images()
    before = x.clone()
    with pytest.raises(ValueError, match="in place on the input"):
        explainer(seeded(EditsInput), x, 1)
    assert torch.equal(x, before)


@EVERY_METHOD
def test_nan_inputs_are_refused(explainer) -> None:
    x = images()
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in image\(s\) \[1\]"):
        explainer(seeded(Sequential), x)


@EVERY_METHOD
def test_no_target_means_the_predicted_class(explainer) -> None:
    model, x = seeded(Sequential), images(4)
    torch.testing.assert_close(explainer(model, x), explainer(model, x, model(x).argmax(1)))


@EVERY_METHOD
def test_a_method_is_a_value(explainer) -> None:
    assert explainer == copy.deepcopy(explainer) and hash(explainer) == hash(copy.deepcopy(explainer))
    assert "object at" not in repr(explainer) and explainer.name
