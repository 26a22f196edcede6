"""Each method against its definition; names, options and conventions."""

import pytest
import torch
from torch.nn import functional as F

from networks import NETWORKS, Mobile, Residual, Sequential, images, seeded
from veridical.attributions import CONVENTIONS, explain, method, methods, saliency


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_equals_autograd_to_the_last_bit(network: str, dtype: torch.dtype) -> None:
    model, x = NETWORKS[network]().to(dtype), images(dtype=dtype)
    image = x.clone().requires_grad_()
    logits = model(image)
    expected = torch.autograd.grad(logits.gather(1, logits.argmax(1, keepdim=True)).sum(), image)[0]
    assert torch.equal(explain(model, x), expected)


@pytest.mark.parametrize("output", ["logit", "logit-value", "probability"])
def test_the_explained_score_can_be_chosen(output: str) -> None:
    model, x = seeded(Residual), images()
    image = x.clone().requires_grad_()
    logits = model(image)[:, 2]
    score = model(image).softmax(1)[:, 2] if output == "probability" else logits
    weight = logits.detach() if output == "logit-value" else torch.ones_like(logits)
    expected = torch.autograd.grad(score, image, weight)[0]
    torch.testing.assert_close(explain(model, x, 2, output=output), expected)
    torch.testing.assert_close(explain(model, x.clone().requires_grad_(), 2, output=output), expected)


def test_integrated_gradients_are_complete() -> None:
    model, x = seeded(Sequential), images(4)
    zero = model(torch.zeros_like(x))[:, 1]
    for nodes, tolerance in (("gauss-legendre", 2e-3), ("midpoint", 2e-3), ("right", 2e-2)):
        relevance = explain(model, x, 1, method="integrated-gradients", steps=300, nodes=nodes)
        assert (relevance.sum((1, 2, 3)) - (model(x)[:, 1] - zero)).abs().max() < tolerance


def test_integrated_gradients_do_not_depend_on_the_batch_size() -> None:
    model, x = seeded(Residual), images(3)
    results = [
        explain(model, x, 1, method="integrated-gradients", steps=7, batch=batch) for batch in (1, 6, 100)
    ]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_integrated_gradients_by_hand() -> None:
    model, x = seeded(Residual), images()
    options = {"steps": 4, "nodes": "right", "baseline": 0.25}
    points = [0.25 + j / 4 * (x - 0.25) for j in range(1, 5)]
    mean = torch.stack([explain(model, point, 1) for point in points]).mean(0)
    averaged = method("integrated-gradients", multiply_by_input=False, **options)
    torch.testing.assert_close(averaged(model, x, 1), mean)
    torch.testing.assert_close(method("integrated-gradients", **options)(model, x, 1), mean * (x - 0.25))


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    model, x = seeded(Residual), images()
    torch.testing.assert_close(explain(model, x, 1, method="smoothgrad", noise=0.0), explain(model, x, 1))


def test_guided_backprop_and_deconvnet_by_hand() -> None:
    model, x = seeded(Mobile), images()
    z1 = model.norm(model.expand(x)) * 3
    z2 = model.depthwise(F.relu6(z1))
    start = model.head.weight[1].view(1, -1, 1, 1).expand(2, -1, 8, 8) / 64
    for name in ("guided-backprop", "deconvnet"):

        def rectified(r, z, name=name):
            return r.clamp(min=0) * (((z > 0) & (z < 6)) if name == "guided-backprop" else 1)

        r = F.conv_transpose2d(start, model.project.weight)
        r = F.conv_transpose2d(rectified(r, z2), model.depthwise.weight, padding=1, groups=6)
        scale = model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)
        r = rectified(r, z1) * 3 * scale.view(1, -1, 1, 1)
        expected = start + F.conv_transpose2d(r, model.expand.weight)
        torch.testing.assert_close(explain(model, x, 1, method=name), expected)


@pytest.mark.parametrize("network", ["sequential", "residual", "mobile", "shared"])
def test_guided_backprop_is_never_the_silent_gradient(network: str) -> None:
    model, x = NETWORKS[network](), images()
    gradient = explain(model, x, 1)
    for name in ("guided-backprop", "deconvnet"):
        relative = (explain(model, x, 1, method=name) - gradient).norm() / gradient.norm()
        assert relative > 0.01


@pytest.mark.parametrize("activation", [torch.nn.SiLU, torch.nn.GELU, torch.nn.ReLU6, torch.nn.Hardswish])
def test_guided_backprop_acts_on_every_activation(activation) -> None:
    model = seeded(Sequential)
    model.features[1] = activation()
    model.eval()
    x = images()
    difference = explain(model, x, 1, method="guided-backprop") - explain(model, x, 1)
    assert difference.norm() > 0.01 * explain(model, x, 1).norm()


def test_relevance_starts_with_the_logit_or_with_one() -> None:
    model, x = seeded(Residual), images()
    with torch.no_grad():
        model.head.bias[1] -= model(x)[:, 1].mean()  # one logit above zero, one below
    logits = model(x)[:, 1].view(-1, 1, 1, 1)
    one, value = (explain(model, x, 1, method="lrp-zplus", seed=seed) for seed in ("one", "value"))
    torch.testing.assert_close(one * logits, value)
    for positive in (True, False):  # a negative start selects the opposite evidence under a rectifying rule
        one, value = (explain(model, x, 1, method="guided-backprop", seed=seed) for seed in ("one", "value"))
        chosen = (logits > 0).flatten() == positive
        close = torch.isclose(one * logits, value).flatten(1).all(1)
        assert close[chosen].all() if positive else not close[chosen].any()


def test_saliency() -> None:
    relevance = images(3)
    for reduction in ("sum-abs", "max-abs", "abs-sum"):
        maps = saliency(relevance, reduction)
        assert maps.shape == (3, 8, 8) and (maps >= 0).all()
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3, dtype=maps.dtype))
    assert torch.equal(saliency(torch.zeros(1, 3, 4, 4)), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="sum-abs"):
        saliency(relevance, "mean")
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        saliency(relevance[:, 0])


def test_names_and_options_are_checked() -> None:
    assert methods() == sorted(methods())
    with pytest.raises(ValueError, match="did you mean lrp-zplus"):
        method("lrp-z-plus")
    with pytest.raises(TypeError, match="got step; known: .*steps"):
        method("integrated-gradients", step=3)
    with pytest.raises(ValueError, match="steps and batch of at least 1, got 0"):
        method("integrated-gradients", steps=0)
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        method("lrp-alpha2-beta1", beta=2.0)
    with pytest.raises(ValueError, match="low < high"):
        method("deep-taylor", bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="epsilon of 0 or more"):
        method("lrp-epsilon", epsilon=-1.0)
    choices = {
        "lrp-zplus": ("bias", "seed"), "deep-taylor": ("first",), "lrp-z": ("seed",), "deconvnet": ("seed",),
        "guided-backprop": ("seed",), "gradient": ("output",), "gradient-x-input": ("output",),
        "smoothgrad": ("output",), "integrated-gradients": ("output", "nodes"),
    }  # fmt: skip
    for name, option in ((name, option) for name, options in choices.items() for option in options):
        with pytest.raises(ValueError, match=f"expected {option} to be one of .*, got 'half'"):
            method(name, **{option: "half"})
    with pytest.raises(ValueError, match="the override of relu to be one of gradient, pass, got 'half'"):
        method("lrp-z", overrides=(("relu", "half"),))(seeded(Residual), images())


def test_conventions_set_what_the_papers_code_did() -> None:
    assert method("integrated-gradients", convention="dombrowski2019") == method(
        "integrated-gradients", steps=30, nodes="right", output="probability"
    )
    assert method("lrp-zplus", convention="sixt2020", bias="none").bias == "none"
    for paper, table in CONVENTIONS.items():
        for name in table:
            assert method(name, convention=paper).name in (name, "lrp-epsilon")
    with pytest.raises(ValueError, match="did you mean sixt2020"):
        method("gradient", convention="sixt")
    with pytest.raises(ValueError, match="bordt2023 ran, got deconvnet"):
        method("deconvnet", convention="bordt2023")
