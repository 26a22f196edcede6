"""Captum's attributions as methods: the same to the bit, and the model as it was."""

import sys

import pytest
import torch
from torch import Tensor, nn

import veridical as vd
from adapters.states import fingerprint
from networks import Residual, Sequential, images, seeded

captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
from veridical.adapters import CaptumMethod, from_captum  # noqa: E402
from veridical.faithfulness import default_reading, default_reduction  # noqa: E402

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Setting .*hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require:UserWarning"),
]

TARGET = torch.tensor([1, 2])


class Plain(nn.Module):
    """What every attribution of Captum understands: modules, each used once, a functional flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.pool, self.second = nn.MaxPool2d(2), nn.Conv2d(4, 6, 3)
        self.act, self.head = nn.ReLU(), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.pool(self.relu(self.first(x)))))
        return self.head(x.flatten(1))


@pytest.fixture
def model() -> nn.Module:
    return seeded(Plain)


CASES = {
    "Saliency": {},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 7, "method": "riemann_right"},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "DeepLift": {"eps": 1e-6},
    "LRP": {},
    "Occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)},
    "FeatureAblation": {"feature_mask": (torch.arange(64).reshape(1, 1, 8, 8) // 16)},
    "GradientShap": {"baselines": torch.zeros(2, 3, 8, 8, dtype=torch.float64), "n_samples": 3},
}


def split(kind, options):
    """The options by hand: those of the constructor, those of `attribute`."""
    constructor = {"eps"} if kind is captum.DeepLift else set()
    return [
        {name: value for name, value in options.items() if (name in constructor) == wanted}
        for wanted in (True, False)
    ]


@pytest.mark.parametrize(("name", "options"), CASES.items(), ids=CASES)
def test_the_same_to_the_bit_as_captum_itself(name, options, model) -> None:
    kind, x, before = getattr(captum, name), images(), fingerprint(model)
    explain = from_captum(kind, **options)
    found = explain(model, x, TARGET)
    assert fingerprint(model) == before and x.grad is None and not x.requires_grad
    constructor, attribute = split(kind, options)
    torch.manual_seed(0)
    __import__("numpy").random.seed(0)
    direct = kind(seeded(Plain), **constructor).attribute(
        images().requires_grad_(), target=TARGET, **attribute
    )
    assert torch.equal(found, direct.detach())
    assert not found.requires_grad and explain.differentiable is False
    assert explain.name == f"captum.{name}"
    again = from_captum(name, **options)
    assert again == explain and hash(again) == hash(explain) and repr(again) == repr(explain)
    assert repr(explain).startswith(f"from_captum({name}") and " at 0x" not in repr(explain)


def test_guided_grad_cam_takes_its_layer_by_name(model) -> None:
    x = images()
    found = from_captum(captum.GuidedGradCam, layer="second", interpolate_mode="bilinear")(model, x, TARGET)
    direct = captum.GuidedGradCam(model, model.second).attribute(
        images().requires_grad_(), target=TARGET, interpolate_mode="bilinear"
    )
    assert torch.equal(found, direct.detach())


def test_the_map_of_a_layer_is_spread_over_the_image(model) -> None:
    x = images()
    found = from_captum(captum.LayerGradCam, layer="second")(model, x, TARGET)
    direct = captum.LayerGradCam(model, model.second).attribute(x, target=TARGET).detach()
    wide = nn.functional.interpolate(direct, size=(8, 8), mode="bilinear", align_corners=False)
    assert found.shape == x.shape and torch.allclose(found.sum(1, keepdim=True), wide)
    assert torch.equal(found[:, 0], found[:, 2])


def test_a_layer_is_found_in_a_copy_and_in_a_wrapped_model(model) -> None:
    explain = from_captum(captum.LayerGradCam, layer="second")
    smooth = vd.beta_smooth(explain, beta=5.0)
    assert smooth(model, images(), TARGET).shape == (2, 3, 8, 8)
    result = vd.cascading_randomization(model, images(), explain, steps=3)
    assert result.similarity.shape == (3, 2)


class OwnSaliency(captum.Saliency):
    """A subclass of the user's."""


@pytest.mark.parametrize(
    ("kind", "options", "slope"),
    [
        ("Saliency", {}, True),
        ("Deconvolution", {}, True),
        ("GuidedBackprop", {}, True),
        (OwnSaliency, {"abs": False}, True),
        ("IntegratedGradients", {"multiply_by_inputs": False}, True),
        ("IntegratedGradients", {"multiply_by_inputs": True}, False),
        ("InputXGradient", {}, False),
        ("DeepLift", {}, False),
        (lambda model: captum.Saliency(model), {}, False),
    ],
)
def test_gradients_are_read_as_slopes(kind, options, slope) -> None:
    explain = from_captum(kind, **options)
    for one in (explain, vd.smoothgrad(explain)):
        assert default_reading(one) == ("slope" if slope else "contribution")
        assert default_reduction(one) == ("max-abs" if slope else "sum")


def test_a_function_of_the_model_can_nest_attributions(model) -> None:
    def tunnel(network):
        return captum.NoiseTunnel(captum.Saliency(network))

    explain = from_captum(tunnel, nt_samples=3, stdevs=0.1, abs=False, seed=3)
    state = torch.get_rng_state()
    found = explain(model, images(), TARGET)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(found, explain(model, images(), TARGET))
    torch.manual_seed(3)
    direct = tunnel(model).attribute(
        images().requires_grad_(), target=TARGET, nt_samples=3, stdevs=0.1, abs=False
    )
    assert torch.equal(found, direct.detach()) and explain.name == "captum.tunnel"
    assert not torch.equal(
        found, from_captum(tunnel, nt_samples=3, stdevs=0.1, abs=False)(model, images(), 1)
    )


def test_the_predicted_class_is_the_default(model) -> None:
    explain, x = from_captum(captum.Saliency), images()
    predicted = model(x).argmax(1)
    assert torch.equal(explain(model, x), explain(model, x, predicted))
    assert torch.equal(explain(model, x, 1), explain(model, x, torch.tensor([1, 1])))


def test_options_go_to_all_that_have_a_parameter_of_that_name(model) -> None:
    seen = {}

    class Both:
        def __init__(self, network, size=1, depth=1):
            seen["constructor"] = (size, depth)

        def attribute(self, inputs, target=None, size=1, width=1):
            seen["attribute"] = (size, width)
            return inputs * 2.0

    from_captum(Both, size=5, depth=6, width=7)(model, images())
    assert seen == {"constructor": (5, 6), "attribute": (5, 7)}


def test_an_attribution_without_a_class_ignores_it(model) -> None:
    explain = from_captum(captum.LayerActivation, layer="first")
    assert torch.equal(explain(model, images(), 0), explain(model, images(), 1))


class Unsupported(Plain):
    """LRP of Captum has no rule for the sigmoid, and stops after it has changed the other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Softsign()


def test_the_model_is_as_it_was_after_captum_failed() -> None:
    model = seeded(Unsupported)
    model.second.weight.requires_grad_(False)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    before = fingerprint(model)
    with pytest.raises(TypeError, match="has no rule"):
        captum.LRP(seeded(Unsupported)).attribute(images().requires_grad_(), target=0)
    with pytest.raises(TypeError, match="has no rule"):
        from_captum(captum.LRP)(model, images(), 0)
    assert fingerprint(model) == before


def test_rules_that_the_user_has_set_are_kept_and_stay_empty() -> None:
    from captum.attr._utils.lrp_rules import GammaRule

    model = seeded(Plain)
    model.first.rule = rule = GammaRule()
    before = dict(vars(rule))
    explain = from_captum(captum.LRP)
    first = explain(model, images(), TARGET)
    assert model.first.rule is rule and vars(rule) == before
    assert torch.equal(first, explain(model, images(), TARGET))
    assert vd.cascading_randomization(model, images(), explain, steps=2).similarity.shape == (2, 2)


def test_whatever_an_attribution_does_is_undone(model) -> None:
    class Vandal:
        def __init__(self, network):
            self.network = network

        def attribute(self, inputs, target=None):
            network = self.network
            network.first.weight.data.mul_(2)
            network.second.weight.data = torch.zeros_like(network.second.weight)
            network.head.bias.grad = torch.ones_like(network.head.bias)
            network.first.weight.grad.add_(1)
            network.head.requires_grad_(False)
            network.train()
            network.register_forward_hook(lambda *_: None)
            network.relu.register_full_backward_hook(lambda *_: None)
            network.extra = nn.Linear(1, 1)
            del network.pool
            torch.rand(1)
            raise ArithmeticError("half-way")

    model.first.weight.grad = torch.ones_like(model.first.weight)
    before, state = fingerprint(model), torch.get_rng_state()
    with pytest.raises(ArithmeticError):
        from_captum(Vandal)(model, images(), 0)
    assert fingerprint(model) == before and torch.equal(torch.get_rng_state(), state)


def test_training_mode_is_named_and_put_back(model) -> None:
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        from_captum(captum.Saliency)(model, images())
    assert all(module.training for module in model.modules())


class Returns:
    def __init__(self, network, what="tuple"):
        self.what = what

    def attribute(self, inputs, target=None):
        return {"tuple": (inputs, inputs), "rows": inputs.flatten(1), "none": None, "one": inputs[:1]}[
            self.what
        ]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("tuple", TypeError, r"one tensor from captum.Returns, got tuple \(Tensor, Tensor\)"),
        ("none", TypeError, "got NoneType"),
        ("rows", ValueError, r"got \(2, 192\); choose a layer"),
        ("one", ValueError, r"got \(1, 3, 8, 8\)"),
    ],
)
def test_a_bad_result_is_named(what, error, message, model) -> None:
    with pytest.raises(error, match=message):
        from_captum(Returns, what=what)(model, images())


class Bare:
    pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: from_captum(captum.Saliency, absolute=False),
            TypeError,
            "got absolute; known: abs, additional",
        ),
        (lambda: from_captum(captum.Saliency, target=1), TypeError, "got target, which each call sets"),
        (
            lambda: from_captum(captum.IntegratedGradients, return_convergence_delta=True),
            TypeError,
            "convergence",
        ),
        (lambda: from_captum(captum.LayerGradCam, layer=nn.ReLU()), TypeError, "dotted name .* got ReLU"),
        (lambda: from_captum(captum.Saliency(nn.ReLU())), TypeError, "got Saliency; give the class itself"),
        (lambda: from_captum(Bare), TypeError, "a class with a method `attribute`, got Bare"),
        (lambda: from_captum(3), TypeError, "got int"),
        (lambda: from_captum(captum.DataLoaderAttribution), TypeError, "attribution of images"),
        (lambda: from_captum("Salience"), ValueError, "did you mean Saliency"),
        (lambda: from_captum(captum.Saliency, seed=-1), ValueError, "seed from 0"),
        (
            lambda: from_captum(captum.Lime, similarity_func={}),
            TypeError,
            "hashed for similarity_func, got dict",
        ),
    ],
)
def test_wrong_arguments_are_named_before_any_work(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("explain", "error", "message"),
    [
        (from_captum(captum.LayerGradCam, layer="secnd"), ValueError, "did you mean second"),
        (from_captum(lambda model: nn.ReLU()), TypeError, "return an attribution of Captum, got ReLU"),
        (from_captum(lambda model: captum.Saliency(model), ab=1), TypeError, "got ab; known: abs"),
    ],
)
def test_wrong_arguments_are_named_by_the_call(explain, error, message, model) -> None:
    before = fingerprint(model)
    with pytest.raises(error, match=message):
        explain(model, images())
    assert fingerprint(model) == before


def test_images_and_classes_are_checked(model) -> None:
    explain = from_captum(captum.Saliency)
    with pytest.raises(ValueError, match="0..3, got 4"):
        explain(model, images(), 4)
    with pytest.raises(ValueError, match="NaN"):
        explain(model, images() * torch.nan)
    with pytest.raises(ValueError, match="it fits one.second, two.second"):
        both = nn.ModuleDict({"one": seeded(Plain), "two": seeded(Plain)})
        both.forward = lambda x: both["one"](x)
        from_captum(captum.LayerGradCam, layer="second")(both.eval(), images())


def test_methods_are_values() -> None:
    baseline = torch.zeros(1, 3, 8, 8)
    one = from_captum(captum.DeepLift, baselines=baseline)
    assert one == from_captum(captum.DeepLift, baselines=baseline.clone())
    assert one != from_captum(captum.DeepLift, baselines=baseline + 1) and "sha256=" in repr(one)
    assert from_captum(captum.Saliency, abs=False) != from_captum(captum.Saliency)
    assert repr(from_captum(captum.Saliency, abs=False, seed=2)) == "from_captum(Saliency, abs=False, seed=2)"
    listed = from_captum(captum.Occlusion, sliding_window_shapes=(3, 2, 2), strides=[1, (2,)])
    assert repr(listed) == "from_captum(Occlusion, sliding_window_shapes=(3, 2, 2), strides=[1, (2,)])"
    assert isinstance(listed, CaptumMethod) and len({one, listed, listed}) == 2


def test_a_wrong_derivative_is_never_handed_out(model) -> None:
    explain, x = from_captum(captum.InputXGradient), images(1).requires_grad_()
    assert not explain(model, x, 0).requires_grad
    ran = []
    for method in (
        explain,
        vd.smoothgrad(explain),
        vd.beta_smooth(explain),
        vd.smoothgrad(vd.beta_smooth(explain)),
    ):
        with pytest.raises(
            ValueError, match=r"differentiable method, got .*captum.InputXGradient.*no derivative"
        ):
            vd.manipulate(lambda *_: ran.append(1), images(1), torch.ones(1, 8, 8), method=method, steps=2)
    assert ran == []


def test_the_tests_of_explanations_take_it() -> None:
    model, x = seeded(Residual), images(2, 16)
    explain = from_captum(captum.InputXGradient)
    ours = vd.method("gradient-x-input")
    for test in (vd.random_logit, vd.cascading_randomization):
        torch.testing.assert_close(test(model, x, explain).similarity, test(model, x, ours).similarity)
    smooth = vd.smoothgrad(from_captum(captum.Saliency, abs=False), samples=3)
    torch.testing.assert_close(smooth(model, x), vd.smoothgrad(vd.method("gradient"), samples=3)(model, x))
    with pytest.raises(ValueError, match=r"propagation rules, got from_captum\(InputXGradient\)"):
        vd.cosine_convergence(model, x, explain)
    with pytest.raises(ValueError, match="propagation rules"):
        vd.coverage(model, x, explain)


def test_beta_smooth_is_captum_on_the_smoothed_network() -> None:
    model, x = seeded(Sequential), images()
    smooth = vd.beta_smooth(from_captum(captum.Saliency, abs=False), beta=3.0)
    torch.testing.assert_close(smooth(model, x), vd.beta_smooth(vd.method("gradient"), beta=3.0)(model, x))


def test_without_captum_a_name_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match="Captum to be installed.*pip install --no-deps captum"):
        from_captum("Saliency")
    with pytest.raises(TypeError, match="the class Saliency; make one of it: veridical.from_captum"):
        vd.random_logit(seeded(Plain), images(), captum.Saliency)
