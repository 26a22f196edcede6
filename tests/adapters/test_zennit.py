"""Zennit's composites as methods: the same to the bit, rightly differentiable, and the model as it was."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import veridical as vd
from adapters.states import fingerprint
from networks import Sequential, images, seeded
from veridical.adapters import ZennitMethod, from_zennit
from veridical.faithfulness import default_reading, default_reduction

pytest.importorskip("torchvision", reason="needs torchvision, which Zennit imports (make peers)")
composites = pytest.importorskip("zennit.composites", reason="needs zennit (make peers)")
attribution = pytest.importorskip("zennit.attribution", reason="needs zennit (make peers)")
canonizers = pytest.importorskip("zennit.canonizers", reason="needs zennit (make peers)")

pytestmark = pytest.mark.peer

TARGET = torch.tensor([1, 2])
BOX = {"low": -5.0, "high": 5.0}
CASES = {
    "epsilon_plus": {},
    "epsilon_gamma_box": BOX,
    "epsilon_plus_flat": {"epsilon": 1e-3},
    "epsilon_alpha2_beta1": {},
    "epsilon_alpha2_beta1_flat": {},
    "guided_backprop": {},
    "deconvnet": {},
    "excitation_backprop": {},
    "beta_smooth": {"beta_smooth": 4.0},
}


class Smooth(nn.Module):
    """Batch normalization and a softplus, so that first derivatives of a gradient are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Conv2d(4, 4, 3, stride=2),
            nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def starting(logits: Tensor) -> Tensor:
    return F.one_hot(TARGET, logits.shape[1]).to(logits)


def direct(model, composite, start=starting, kind="Gradient", **options) -> Tensor:
    with getattr(attribution, kind)(model, composite, **options) as attributor:
        return attributor(images(), start)[1].detach()


@pytest.mark.parametrize(("name", "options"), CASES.items(), ids=CASES)
def test_the_same_to_the_bit_as_zennit_itself(name, options) -> None:
    model, kind = seeded(Sequential), composites.COMPOSITES[name]
    before, expected = fingerprint(model), direct(seeded(Sequential), kind(**options))
    for composite, given in ((name, options), (kind, options), (kind(**options), {})):
        explain = from_zennit(composite, **given)
        assert torch.equal(explain(model, images(), TARGET), expected)
        assert fingerprint(model) == before and explain.name == f"zennit.{kind.__name__}"
        assert " at 0x" not in repr(explain) and hash(explain) == hash(from_zennit(composite, **given))
    assert from_zennit(name, **options) == from_zennit(kind, **options)


def test_the_start_can_be_the_value_of_the_logit() -> None:
    model = seeded(Sequential)
    expected = direct(model, composites.EpsilonPlus(), lambda logits: starting(logits) * logits.detach())
    assert torch.equal(from_zennit("epsilon_plus", start="value")(model, images(), TARGET), expected)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("SmoothGrad", {"n_iter": 3, "noise_level": 0.2}), ("IntegratedGradients", {"n_iter": 4})],
)
def test_attributors_take_their_options(kind, options) -> None:
    model, state = seeded(Sequential), torch.get_rng_state()
    explain = from_zennit("epsilon_plus", kind, epsilon=1e-4, seed=7, **options)
    found = explain(model, images(), TARGET)
    assert torch.equal(torch.get_rng_state(), state) and explain.name == f"zennit.EpsilonPlus-{kind}"
    torch.manual_seed(7)
    expected = direct(model, composites.EpsilonPlus(epsilon=1e-4), kind=kind, **options)
    assert torch.equal(found, expected)


def test_without_a_composite_it_is_the_gradient() -> None:
    model, explain = seeded(Sequential), from_zennit()
    assert torch.equal(explain(model, images()), vd.method("gradient")(model, images()))
    assert explain.name == "zennit.Gradient"


@pytest.mark.parametrize(
    ("composite", "attributor", "slope"),
    [
        (None, None, True),
        (None, "SmoothGrad", True),
        ("guided_backprop", None, True),
        ("deconvnet", None, True),
        (composites.BetaSmooth(beta_smooth=4.0), None, True),
        (None, "IntegratedGradients", False),
        ("epsilon_plus", None, False),
        ("excitation_backprop", "SmoothGrad", False),
    ],
)
def test_gradients_are_read_as_slopes(composite, attributor, slope) -> None:
    explain = from_zennit(composite, attributor)
    assert default_reading(explain) == ("slope" if slope else "contribution")
    assert default_reduction(explain) == ("max-abs" if slope else "sum")


def test_occlusion_weighs_the_logit() -> None:
    model, options = seeded(Sequential), {"window": (3, 4, 4), "stride": (3, 4, 4)}
    explain = from_zennit(None, attribution.Occlusion, start="value", **options)
    expected = direct(model, None, lambda logits: starting(logits) * logits, "Occlusion", **options)
    assert torch.equal(explain(model, images(), TARGET), expected) and not explain.differentiable
    with pytest.raises(ValueError, match="start='value' with Occlusion, got 'one'"):
        from_zennit(None, "Occlusion")


def test_canonizers_are_undone_to_the_bit() -> None:
    model = seeded(Smooth)
    before = fingerprint(model)
    merged = from_zennit("epsilon_plus", canonizers=[canonizers.SequentialMergeBatchNorm()])
    found = merged(model, images(), TARGET)
    assert fingerprint(model) == before
    expected = direct(model, composites.EpsilonPlus(canonizers=[canonizers.SequentialMergeBatchNorm()]))
    assert torch.equal(found, expected)
    assert not merged.differentiable and not merged(model, images().requires_grad_(), TARGET).requires_grad
    mixed = composites.MixedComposite(
        [composites.EpsilonPlus(canonizers=[canonizers.SequentialMergeBatchNorm()])]
    )
    assert not from_zennit(mixed).differentiable


def derivative(explain, model, x: Tensor) -> tuple[float, float]:
    """Of a random projection of the relevance in a random direction: by autograd, by central differences."""
    generator = torch.Generator().manual_seed(3)
    weights, direction = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((explain(model, image, TARGET) * weights).sum(), image)
    step = 1e-5
    sides = [(explain(model, x + sign * step * direction, TARGET) * weights).sum() for sign in (1, -1)]
    return (gradient * direction).sum().item(), ((sides[0] - sides[1]) / (2 * step)).item()


@pytest.mark.parametrize("start", ["one", "value"])
@pytest.mark.parametrize(("name", "options"), CASES.items(), ids=CASES)
def test_the_derivative_equals_central_differences(name, options, start) -> None:
    explain = from_zennit(name, start=start, **options)
    exact, measured = derivative(explain, seeded(Smooth), images())
    assert explain.differentiable and exact == pytest.approx(measured, rel=1e-5, abs=1e-9) and exact != 0


@pytest.mark.parametrize("kind", ["SmoothGrad", "IntegratedGradients"])
def test_the_derivative_of_other_attributors_equals_central_differences(kind) -> None:
    exact, measured = derivative(from_zennit("epsilon_plus", kind, n_iter=3), seeded(Smooth), images())
    assert exact == pytest.approx(measured, rel=1e-5, abs=1e-9) and exact != 0


def test_zennit_alone_drops_the_graph_of_the_last_layers_rule() -> None:
    """The reason that our start requires grad: Zennit's own derivative is wrong by a few per cent."""

    def alone(model, x, target):
        with attribution.Gradient(model, composites.EpsilonPlus(), create_graph=True) as attributor:
            return attributor(x, starting)[1]

    exact, measured = derivative(alone, seeded(Smooth), images())
    assert abs(exact - measured) > 1e-3 * abs(measured)


def test_zennits_canonizers_make_the_derivative_wrong() -> None:
    """A merged batch normalization still divides by sqrt(1 + eps); the one put back has no such factor."""

    def alone(model, x, target):
        composite = composites.GuidedBackprop(canonizers=[canonizers.SequentialMergeBatchNorm()])
        with attribution.Gradient(model, composite, create_graph=True) as attributor:
            return attributor(x, lambda logits: starting(logits).requires_grad_())[1]

    model = seeded(Smooth)
    model.layers[1].eps = 0.1
    exact, measured = derivative(alone, model, images())
    assert abs(exact - measured) > 1e-3 * abs(measured)


def test_the_model_is_as_it_was_after_zennit_failed() -> None:
    class Fails(Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if self.features[0]._forward_hooks:
                raise ArithmeticError("half-way")
            return super().forward(x)

    model, composite = seeded(Fails), composites.EpsilonPlus()
    before = fingerprint(model)
    with pytest.raises(ArithmeticError):
        from_zennit(composite)(model, images(), TARGET)
    assert fingerprint(model) == before and not composite.handles


def test_it_can_be_manipulated() -> None:
    model, x = seeded(Smooth), images()
    goal = vd.saliency(from_zennit("epsilon_plus")(model, x.flip(0)))
    result = vd.manipulate(model, x, goal, method=from_zennit("epsilon_plus"), steps=30, lr=3e-2)
    after, before = result.similarity.to_target.pcc, result.similarity.before.pcc
    assert bool((after > before).all())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: from_zennit("epsilon_pluss"),
            ValueError,
            "composite of Zennit, got .*did you mean epsilon_plus",
        ),
        (
            lambda: from_zennit(None, "Gradiant"),
            ValueError,
            "attributor of Zennit, got .*did you mean Gradient",
        ),
        (lambda: from_zennit("epsilon_plus", alpha=1), TypeError, "got alpha; known: canonizers, epsilon"),
        (lambda: from_zennit(composites.EpsilonPlus(), epsilon=1), TypeError, "got epsilon; known: none"),
        (lambda: from_zennit("epsilon_gamma_box"), TypeError, "low"),
        (lambda: from_zennit("epsilon_plus", start="logit"), ValueError, "start to be one of one, value"),
        (lambda: from_zennit(nn.ReLU), TypeError, "composite of Zennit, its class or its name, got ReLU"),
        (lambda: from_zennit(None, nn.ReLU), TypeError, "class of zennit.attribution, got ReLU"),
        (lambda: from_zennit("epsilon_plus", seed="0"), ValueError, "seed from 0"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_methods_are_values() -> None:
    one = from_zennit("epsilon_gamma_box", low=torch.zeros(1, 3, 1, 1), high=torch.ones(1, 3, 1, 1), seed=1)
    same = from_zennit("epsilon_gamma_box", low=torch.zeros(1, 3, 1, 1), high=torch.ones(1, 3, 1, 1), seed=1)
    assert one == same and isinstance(one, ZennitMethod) and len({one, same}) == 1
    assert repr(from_zennit("epsilon_plus", epsilon=1e-3, seed=2)) == (
        "from_zennit(EpsilonPlus, attributor=Gradient, start='one', epsilon=0.001, seed=2)"
    )


@pytest.mark.parametrize("module", ["zennit.composites", "zennit.attribution"])
def test_without_zennit_it_says_what_to_install(module, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="Zennit to be installed.*pip install --no-deps zennit torchvision"):
        from_zennit("epsilon_plus")


def test_a_torchvision_for_another_torch_is_named(monkeypatch) -> None:
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("veridical.adapters.options.importlib.import_module", broken)
    with pytest.raises(ImportError, match="Zennit and what it imports to fit the installed torch.*::nms"):
        from_zennit("epsilon_plus")
