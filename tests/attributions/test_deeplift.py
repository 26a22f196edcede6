"""DeepLIFT as a whole: what its contributions sum to, its published examples, its references and options."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, Residual, Sequential, images, seeded
from veridical.attributions import CONVENTIONS, deeplift, method
from veridical.faithfulness import cosine_convergence
from veridical.values import FixedTensor

NAMES = ("deeplift-rescale", "deeplift-reveal-cancel", "deeplift-ablation")
COMPLETE = pytest.mark.parametrize("name", NAMES[:2])
EACH = pytest.mark.parametrize("name", NAMES)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, len(values), 1, 1)


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.flatten(1))


# --- completeness -------------------------------------------------------------------------------------------

REFERENCES = {
    "zeros": "zeros",
    "blur": "blur",
    "mean image": images(5, seed=9).mean(0),
    "one image": images(1, seed=8),
    "one for each": images(3, seed=7),
}


@COMPLETE
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("network", NETWORKS)
def test_contributions_sum_to_the_difference_of_logits(
    network: str, reference: str, fold: bool, name: str
) -> None:
    model, x, target = NETWORKS[network](), images(3), torch.tensor([0, 2, 3])
    explainer = method(name, reference=REFERENCES[reference], blur=1.5, fold_batch_norm=fold)
    difference = model(x) - model(explainer.reference_for(x))
    contributions = explainer(model, x, target).sum((1, 2, 3))
    expected = difference.gather(1, target[:, None]).flatten()
    torch.testing.assert_close(contributions, expected, rtol=0, atol=1e-10)
    assert expected.abs().max() > 1e-4


@EACH
def test_the_convention_of_sixt_routes_max_pooling_by_the_gradient_and_is_not_complete(name: str) -> None:
    model, x = seeded(Sequential), images(3)
    explainer = method(name, convention="sixt2020")
    assert (
        explainer.reference == "zeros" and explainer.max_pool == "gradient" and not explainer.fold_batch_norm
    )
    assert set(CONVENTIONS["sixt2020"][name]) == {"max_pool", "fold_batch_norm"}
    reference = REFERENCES["one for each"]
    explainer = method(name, convention="sixt2020", reference=reference)
    gap = explainer(model, x, 1).sum((1, 2, 3)) - (model(x) - model(reference))[:, 1]
    assert gap.abs().max() > 1e-3


@COMPLETE
def test_max_pooling_by_the_gradient_is_complete_from_a_uniform_reference(name: str) -> None:
    """Where a window of the reference has one value, both rules are the same."""
    model, x = seeded(Sequential), images(3)
    torch.testing.assert_close(method(name)(model, x, 1), method(name, max_pool="gradient")(model, x, 1))


@COMPLETE
def test_folding_batch_normalization_does_not_change_the_map(name: str) -> None:
    model, x = NETWORKS["residual"](), images(2)
    model.norm.weight.data.neg_()  # a negative factor exchanges the two multipliers
    alone = method(name, fold_batch_norm=False)(model, x, 1)
    torch.testing.assert_close(method(name)(model, x, 1), alone, rtol=0, atol=1e-14)


def test_rescale_from_zeros_without_biases_and_pooling_is_gradient_times_input() -> None:
    model = seeded(lambda: Sequential(bias=False))
    model.features[2] = nn.Identity().eval()
    model.features[3].stride = (4, 4)
    model.classifier[2] = nn.Linear(24, 5, bias=False).double().eval()
    x = images(3)
    expected = method("gradient-x-input")(model, x, 1)
    torch.testing.assert_close(method("deeplift-rescale")(model, x, 1), expected, rtol=0, atol=1e-12)


@EACH
def test_an_image_that_equals_its_reference_has_no_contributions(name: str) -> None:
    x = images(2)
    assert not method(name, reference=x)(NETWORKS["residual"](), x, 0).any()


# --- by hand ------------------------------------------------------------------------------------------------


def minimum(x: Tensor) -> Tensor:
    """min(x1, x2) = x1 - [x1 - x2]+, the example of Shrikumar et al. 2017, section 3.5.3."""
    return x[:, :1] - (x[:, :1] - x[:, 1:]).relu()


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("deeplift-rescale", (3.0, 1.0), (0.0, 1.0)),  # all to the smaller input
        ("deeplift-rescale", (1.0, 3.0), (1.0, 0.0)),
        ("deeplift-reveal-cancel", (3.0, 1.0), (0.5, 0.5)),  # half of the minimum to each
        ("deeplift-reveal-cancel", (1.0, 3.0), (0.5, 0.5)),
    ],
)
def test_the_minimum_of_two_inputs(name: str, values: tuple, expected: tuple) -> None:
    result = method(name)(Function(minimum), row(*values), 0)
    torch.testing.assert_close(result, row(*expected))


def test_the_minimum_by_linear_layers_is_the_minimum_by_a_difference() -> None:
    inner = torch.tensor([[1.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    outer = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    model = Function(lambda x: F.linear(F.linear(x, inner).relu(), outer))
    result = method("deeplift-reveal-cancel")(model, row(3.0, 1.0), 0)
    torch.testing.assert_close(result, row(0.5, 0.5))


@COMPLETE
def test_a_saturated_unit_still_shares_its_rise(name: str) -> None:
    """1 - [1 - x1 - x2]+, whose gradient at (1, 1) is 0 (Shrikumar et al. 2017, section 2)."""
    model = Function(lambda x: 1 - (1 - x.sum(1, keepdim=True)).relu())
    assert not method("gradient")(model, row(1.0, 1.0), 0).any()
    torch.testing.assert_close(method(name)(model, row(1.0, 1.0), 0), row(0.5, 0.5))


def test_reveal_cancel_by_hand_with_a_bias() -> None:
    """[2 x1 - x2 - 1]+ at (2, 1) from 0: z from -1 by +4 and -1 to 2."""
    model = Function(lambda x: F.linear(x, row(2.0, -1.0).flatten()[None], row(-1.0).flatten()).relu())
    # +4: from -1 to 3 (3), after -1 from -2 to 2 (2); -1: from -1 to -2 (0), after +4 from 3 to 2 (-1)
    torch.testing.assert_close(method("deeplift-reveal-cancel")(model, row(2.0, 1.0), 0), row(2.5, -0.5))
    torch.testing.assert_close(method("deeplift-rescale")(model, row(2.0, 1.0), 0), row(8 / 3, -2 / 3))


def test_the_ablation_by_hand() -> None:
    weight = torch.tensor([[2.0, -1.0, 3.0, -4.0]], dtype=torch.float64)
    model = Function(lambda x: F.linear(F.linear(x, torch.eye(4).double()), weight))
    x, reference = row(1.0, 1.0, -1.0, -1.0), row(0.0, 0.0, 0.0, 0.0)[0]
    code = method("deeplift-ablation", reference=reference)(model, x, 0)
    torch.testing.assert_close(code, row(2.0, 0.0, -3.0, 0.0))  # W+ whatever the sign of the difference
    text = method("deeplift-ablation", reference=reference, chains="text")(model, x, 0)
    # the identity has no negative weights: the negative chain ends at it
    torch.testing.assert_close(text, row(2.0, 0.0, 0.0, 0.0))
    model = Function(lambda x: F.linear(x, weight))
    text = method("deeplift-ablation", reference=reference, chains="text")(model, x, 0)
    torch.testing.assert_close(text, row(2.0, 0.0, 0.0, 4.0))


def test_the_ablation_keeps_the_full_weight_where_nothing_changed() -> None:
    """Its multiplier there is W^T m: with a contribution of 0 here, it counts where layers follow."""
    trunk = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)  # (1, 1): the first unit stays 0
    model = Function(lambda x: F.linear(F.linear(x, trunk), torch.tensor([[-2.0, 3.0]]).double()))
    result = method("deeplift-ablation")(model, row(1.0, 1.0), 0)
    # multipliers (-2, 3) in the middle; W+ hands on (-2 + 3, 3)
    torch.testing.assert_close(result, row(1.0, 3.0))


# --- references and options ---------------------------------------------------------------------------------


def test_a_blurred_reference_is_a_gaussian_blur_of_each_image() -> None:
    point = torch.zeros(1, 2, 41, 41, dtype=torch.float64)
    point[0, 1, 20, 20] = 1.0
    blurred = method("deeplift-rescale", reference="blur", blur=2.0).reference_for(point)
    assert not blurred[0, 0].any()
    torch.testing.assert_close(blurred.sum(), torch.ones((), dtype=torch.float64))
    distance = torch.arange(-20.0, 21.0, dtype=torch.float64)
    assert abs((blurred[0, 1].sum(0) * distance**2).sum().sqrt() - 2.0) < 0.05
    flat = torch.full((2, 3, 6, 6), 1.5)
    torch.testing.assert_close(method("deeplift-rescale", reference="blur").reference_for(flat), flat)


@EACH
def test_a_blurred_reference_is_differentiated_too(name: str) -> None:
    model, x = NETWORKS["gated"](), images(1)
    explainer = method(name, reference="blur", blur=1.0)
    image = x.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(explainer(model, image, 1).square().sum(), image)
    direction, step = images(1, seed=4), 1e-6
    ends = [explainer(model, x + k * step * direction, 1).square().sum() for k in (-1, 1)]
    expected = (ends[1] - ends[0]) / (2 * step)
    torch.testing.assert_close((derivative * direction).sum(), expected, rtol=1e-6, atol=1e-9)


def test_the_second_derivative_goes_through_the_threshold_of_rescale() -> None:
    """Half of the values equal their reference: the slope there is the derivative, nearby the chord's."""
    model, x = Function(lambda x: F.linear(x, torch.linspace(-1, 1, 192).double()[None]).sigmoid()), images(2)
    inner = Function(lambda x: model(F.silu(x)))
    reference = torch.where(images(2, seed=3) > 0, x, images(2, seed=4))
    explainer = method("deeplift-rescale", reference=reference)
    image = x.clone().requires_grad_()
    (derivative,) = torch.autograd.grad((explainer(inner, image, 0) * images(2, seed=6)).sum(), image)
    direction, step = images(2, seed=5), 1e-5
    ends = [(explainer(inner, x + k * step * direction, 0) * images(2, seed=6)).sum() for k in (-1, 1)]
    expected = (ends[1] - ends[0]) / (2 * step)
    torch.testing.assert_close((derivative * direction).sum(), expected, rtol=1e-6, atol=1e-8)


@EACH
def test_a_tensor_as_reference_makes_an_equal_and_readable_value(name: str) -> None:
    given = images(1)[0]
    explainer = method(name, reference=given)
    given_before, twin = given.clone(), method(name, reference=given.clone())
    assert explainer == twin and hash(explainer) == hash(twin) and explainer == copy.deepcopy(explainer)
    assert explainer != method(name, reference=given + 1) and explainer != method(name)
    assert "FixedTensor((3, 8, 8), torch.float64, sha256=" in repr(explainer)
    given.zero_()
    assert torch.equal(explainer.reference.tensor, given_before)
    assert method(name, reference=explainer.reference) == explainer


def test_a_fixed_tensor_is_equal_by_shape_dtype_and_values() -> None:
    values = torch.arange(6.0)
    fixed = FixedTensor(values)
    assert fixed == FixedTensor(values.clone()) and fixed == pickle.loads(pickle.dumps(fixed))
    for different in (values.view(2, 3), values.double(), values + 1):
        assert fixed != FixedTensor(different)
    assert fixed != "zeros"
    assert len({fixed, FixedTensor(values), FixedTensor(values + 1)}) == 2
    assert FixedTensor(torch.tensor(1.5)) != FixedTensor(torch.tensor([1.5]))
    assert FixedTensor(values.bfloat16()) == FixedTensor(values.bfloat16())
    assert FixedTensor(values.view(2, 3).t()) == FixedTensor(values.view(2, 3).t().contiguous())


@EACH
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reference": "black"}, ValueError, "expected reference to be one of zeros, blur, got 'black'"),
        ({"reference": 0}, TypeError, 'expected reference as "zeros", "blur" or a tensor, got int'),
        ({"reference": torch.zeros(8, 8)}, ValueError, r"reference of shape \(C, H, W\) or .*got \(8, 8\)"),
        ({"reference": torch.zeros(3, 8, 8, dtype=torch.long)}, TypeError, "floating point reference"),
        ({"reference": torch.full((3, 8, 8), float("nan"))}, ValueError, "expected finite inputs"),
        ({"blur": 0.0}, ValueError, "expected blur as a positive number of pixels, got 0.0"),
        ({"blur": float("inf")}, ValueError, "expected blur as a positive number of pixels, got inf"),
        ({"max_pool": "mean"}, ValueError, "expected max_pool to be one of exchange, gradient, got 'mean'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        method(name, **options)


def test_the_ablations_chains_have_two_forms() -> None:
    with pytest.raises(ValueError, match="expected chains to be one of code, text, got 'both'"):
        method("deeplift-ablation", chains="both")


@EACH
@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 8, 8), (3, 3, 8, 8)])
def test_a_reference_of_another_shape_is_refused_before_any_work(name: str, shape: tuple) -> None:
    def work(x: Tensor) -> Tensor:
        raise AssertionError("the model ran")

    with pytest.raises(ValueError, match=r"expected a reference of shape \(3, 8, 8\) or \(2, 3, 8, 8\), got"):
        method(name, reference=torch.zeros(shape))(Function(work), images(2), 0)


@EACH
def test_an_affine_network_is_no_error(name: str) -> None:
    """Its contributions are no gradient, unlike what methods that only change activations would give."""
    model = Function(lambda x: F.linear(x, torch.ones(1, 2).double()))
    torch.testing.assert_close(method(name)(model, row(2.0, -3.0), 0), row(2.0, -3.0))


# --- cosine convergence -------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Eight convolutions of eight channels with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[8] * 8]
        pairs = zip(widths, widths[1:], strict=False)
        self.features = nn.Sequential(
            *(layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU()))
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def test_only_the_ablation_forgets_where_it_started() -> None:
    """Sixt et al. 2020, figure 5: the contributions of DeepLIFT do not converge, those of the ablation do."""
    model, x = seeded(Chain), images(2)
    results = {name: cosine_convergence(model, x, method(name)) for name in NAMES}
    layer = results[NAMES[0]].layers.index("features.2")
    left = {name: result.one_minus_median[layer] for name, result in results.items()}
    assert left["deeplift-ablation"] < 1e-3
    assert left["deeplift-rescale"] > 0.05 and left["deeplift-reveal-cancel"] > 0.05


@EACH
def test_convergence_reads_the_contributions_of_each_layer(name: str) -> None:
    model, x = seeded(Sequential), images(2)
    result = cosine_convergence(model, x, method(name), start="features.3", vectors=3)
    assert result.layers == ("features.3", "features.0", "input")
    assert ((result.median >= 0) & (result.median <= 1)).all()
    alone = cosine_convergence(model, x[1:], method(name), start="features.3", vectors=3, first_index=1)
    first = cosine_convergence(model, x[:1], method(name), start="features.3", vectors=3)
    middle = (alone.mean[0] + first.mean[0]) / 2
    assert abs(result.mean[0] - middle) < 1e-6


@pytest.mark.parametrize("name", ["deeplift-rescale", "deeplift-reveal-cancel", "deeplift-ablation"])
def test_a_large_batch_goes_through_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deeplift, "_VALUES", 0)
    model, x, target = seeded(Residual), images(5), torch.tensor([0, 1, 2, 3, 1])
    explainer, sizes = method(name), []
    handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    together, logits = explainer.with_logits(model, x, target)
    handle.remove()
    parts = [1] * 10 if name == "deeplift-reveal-cancel" else [2, 1, 2, 1, 1, 1]
    assert sizes == parts  # each part, and the reference of all its images
    alone = torch.cat([explainer(model, x[i : i + 1], target[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(logits, model(x))
    torch.testing.assert_close(explainer(model, x, 2)[4:], explainer(model, x[4:], 2))
    of_each = method(name, reference=images(5, seed=7))
    assert of_each(model, x, target).shape == x.shape
    with pytest.raises(ValueError, match=r"targets of shape \(5,\), got \(4,\)"):
        explainer(model, x, target[:4])
