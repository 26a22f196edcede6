"""Recording: what is seen, what is left alone, what is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, Residual, Sequential, images, seeded
from veridical.rules import record


def test_operations_of_an_unmodified_network_are_named_by_module() -> None:
    trace = record(seeded(Residual), images())
    assert [(operation.name, operation.kind) for operation in trace.operations] == [
        (":pad", "structure"),
        ("stem", "convolution"),
        ("norm", "batch_norm"),
        ("relu", "activation"),
        ("first", "convolution"),
        (":relu", "activation"),
        ("second", "convolution"),
        (":add", "sum"),
        ("relu#2", "activation"),
        ("alone", "batch_norm"),
        (":adaptive_avg_pool2d", "average_pool"),
        (":view", "structure"),
        ("head", "linear"),
    ]


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_logits_are_those_of_the_model_to_the_last_bit_or_the_rounding_of_attention(build) -> None:
    model, x = build(), images()
    rounding = 1e-15 if any(isinstance(part, nn.MultiheadAttention) for part in model.modules()) else 0
    torch.testing.assert_close(record(model, x).logits, model(x), rtol=rounding, atol=rounding)


class InPlaceChain(nn.Module):
    """Edits a tensor in place and goes on with the old name, as real code does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        F.relu(x, inplace=True)
        x.mul_(2).add_(0.5)
        F.relu6(x, True)
        return self.head(x.mean((2, 3)))


def test_in_place_results_that_are_not_bound_are_followed() -> None:
    model, x = seeded(InPlaceChain), images()
    trace = record(model, x)
    torch.testing.assert_close(trace.logits, model(x), rtol=0, atol=0)
    assert [operation.kind for operation in trace.operations][:5] == [
        "convolution", "activation", "scale", "shift", "activation",
    ]  # fmt: skip


class EditsInput(Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5))


class EditsView(Sequential):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x.flatten(1).relu_()
        return self.classifier(x)


class WritesSlices(Sequential):
    def forward(self, x: Tensor) -> Tensor:
        buffer = torch.zeros_like(x)
        buffer[:, :1] = x[:, :1]
        return super().forward(buffer)


class NoGrad(Sequential):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (EditsInput, "in place on the input"),
        (EditsView, "shares memory"),
        (WritesSlices, "__setitem__ that writes into a tensor"),
        (NoGrad, "visible, differentiable operations"),
    ],
)
def test_what_cannot_be_followed_is_refused(build, message: str) -> None:
    x = images()
    before = x.clone()
    with pytest.raises(ValueError, match=message):
        record(seeded(build), x)
    assert torch.equal(x, before)


class ReturnsMaps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class ReturnsTuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


class Output(dict):
    """As Hugging Face returns it: entries that are attributes too."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class ReturnsOutput(Sequential):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor):
        return self.form(super().forward(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: Output(logits=logits, hidden=(logits * 2,)),
        lambda logits: type("Answer", (), {"logits": logits})(),
    ],
)
def test_an_output_may_have_its_logits_as_attribute_or_key(form) -> None:
    model, x = seeded(lambda: ReturnsOutput(form)), images()
    trace = record(model, x)
    torch.testing.assert_close(trace.logits, seeded(Sequential)(x), rtol=0, atol=0)


def test_an_output_that_may_mean_two_things_is_refused() -> None:
    model = seeded(lambda: ReturnsOutput(lambda logits: {"scores": logits, "doubled": logits * 2}))
    with pytest.raises(TypeError, match="got dict"):
        record(model, images())


def test_wrong_outputs_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(2, K\), got \(2, 3, 8, 8\)"):
        record(ReturnsMaps().eval(), images())
    with pytest.raises(TypeError, match="got tuple"):
        record(ReturnsTuple().eval(), images())


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(3, 8, 8), ValueError, r"\(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), ValueError, "at least one image"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "uint8"),
        (torch.full((2, 3, 8, 8), float("nan")), ValueError, r"NaN or infinity in image\(s\) \[0, 1\]"),
        ([[1.0]], TypeError, "list"),
    ],
)
def test_bad_inputs_are_named(inputs, error, message: str) -> None:
    with pytest.raises(error, match=message):
        record(seeded(Sequential), inputs)


def test_nan_logits_are_named() -> None:
    model = seeded(Sequential)
    with torch.no_grad():
        model.classifier[-1].bias[0] = float("nan")
    with pytest.raises(ValueError, match="finite logits"):
        record(model, images())


def test_training_mode_is_said_and_put_back() -> None:
    model = seeded(Residual)
    model.norm.train()
    with pytest.warns(UserWarning, match="training mode"):
        record(model, images())
    assert model.norm.training and not model.training and not model.alone.training


class Names(nn.Module):
    """Cases of one value in several roles."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + x
        first, rest = x.split([1, 2], dim=1)
        x = torch.cat([first, rest], dim=1)
        y = -x
        x = x - 2 * y
        return self.head(x.permute(0, 2, 3, 1).mean(dim=(1, 2)))


def test_gradient_rules_follow_every_path_once() -> None:
    from veridical.attributions.gradient import GRADIENT_RULES
    from veridical.rules import class_start, propagate

    model, x = seeded(Names), images()
    trace = record(model, x)
    target = torch.tensor([1, 2])
    result = propagate(trace, GRADIENT_RULES, class_start(trace, target, "one")).inputs[0]
    x.requires_grad_()
    expected = torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]
    torch.testing.assert_close(result, expected)
