"""torchvision's classifiers, as they come: functional ReLU, ReLU6, SiLU, GELU, concatenation, `+=`.

Captum's guided backpropagation equals the plain gradient, without a word, on GoogLeNet, MobileNetV2,
EfficientNet, ConvNeXt and the vision transformer.
"""

import signal
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from veridical.attributions import method, rule_coverage
from veridical.rules import UnsupportedOperation, record

pytestmark = pytest.mark.peer

CLASSES = {"num_classes": 10}
BUILDERS = {
    "googlenet": (64, {**CLASSES, "init_weights": False, "aux_logits": False}),
    "mobilenet_v2": (32, CLASSES),
    "resnet18": (32, CLASSES),
    "densenet121": (32, CLASSES),
    "squeezenet1_1": (64, CLASSES),
    "shufflenet_v2_x0_5": (32, CLASSES),
    "efficientnet_b0": (32, CLASSES),
    "mobilenet_v3_small": (32, CLASSES),
    "convnext_tiny": (32, CLASSES),
    "vit_b_16": (32, {**CLASSES, "image_size": 32}),
    "swin_t": (32, CLASSES),
    "vgg16": (32, CLASSES),
    "VisionTransformer": (
        32, {**CLASSES, "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16,
             "mlp_dim": 32},
    ),
    "SwinTransformer": (
        32, {**CLASSES, "patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
             "window_size": [2, 2]},
    ),
}  # fmt: skip
SLOW = {"vgg16", "vit_b_16", "swin_t", "convnext_tiny"}  # 28 to 134 million parameters


def slow(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


NETWORKS = [slow(name) if name in SLOW else name for name in BUILDERS]


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """An endless loop in recording must fail a test, not stop the suite."""

    def stop(*_: object) -> None:
        raise TimeoutError("expected an explanation within two minutes")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def build(models, name: str) -> tuple[nn.Module, torch.Tensor]:
    size, options = BUILDERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make = getattr(models, name)
        model = (make(**options) if name[0].isupper() else make(weights=None, **options)).double().eval()
        for part, parameter in model.named_parameters():
            if part.startswith("heads") or part.endswith("layer_scale"):  # 0 and 1e-6 before training
                nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, x


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_family_runs_and_modified_methods_are_no_plain_gradient(
    torchvision_models, name
) -> None:
    model, x = build(torchvision_models, name)
    plain = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(plain)[:, 3].sum(), plain)
    assert torch.equal(method("gradient")(model, x, 3), expected)
    for modified in ("guided-backprop", "deconvnet"):
        explainer = method(modified)
        rows = rule_coverage(model, x, explainer)
        assert {"modified", "gradient"} == {row.treatment for row in rows}
        relevance = explainer(model, x, 3)
        assert bool(relevance.isfinite().all())
        assert (relevance - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_zplus_has_a_rule_for_every_operation(torchvision_models, name) -> None:
    model, x = build(torchvision_models, name)
    explainer = method("lrp-zplus")
    assert not [row for row in rule_coverage(model, x, explainer) if row.treatment == "no rule"]
    relevance = explainer(model, x, 3)
    assert bool(relevance.isfinite().all()) and bool(relevance.any())


# Of random networks: those where relevance passes only through ReLU, convolutions, sums and pooling.
@pytest.mark.parametrize("name", ["googlenet", "resnet18", "densenet121", "squeezenet1_1"])
def test_zplus_conserves_relevance(torchvision_models, name) -> None:
    model, x = build(torchvision_models, name)
    total = method("lrp-zplus", seed="one")(model, x, 3).sum().item()
    assert total == pytest.approx(1.0, abs=1e-3)


def test_dropout_in_place_leaves_the_tensor_as_it_is() -> None:
    """In evaluation mode it returns its input itself; recording once looped there for ever (EfficientNet)."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.2, inplace=True), nn.Flatten(), nn.Linear(144, 3)
    )
    model = model.double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert method("lrp-zplus")(model, x, 0).shape == x.shape


class Odd(nn.Module):
    """An operation that no method but the gradient's family knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logcumsumexp(x, 1)


def test_where_a_rule_is_missing_the_operation_is_named_and_never_skipped(torchvision_models) -> None:
    model, x = build(torchvision_models, "resnet18")
    model.layer1.insert(1, Odd().eval())
    for refused in ("guided-backprop", "lrp-zplus"):
        with pytest.raises(UnsupportedOperation, match=r"logcumsumexp \(called from layer1.1.*overrides"):
            method(refused)(model, x)
    assert bool(method("guided-backprop", overrides=(("logcumsumexp", "gradient"),))(model, x, 1).any())


@pytest.mark.parametrize(("name", "blocks"), [("VisionTransformer", 2), ("SwinTransformer", 4)])
def test_fused_attention_is_written_out_and_the_derivatives_stay(
    torchvision_models, name: str, blocks: int
) -> None:
    model, x = build(torchvision_models, name)
    trace = record(model, x)
    torch.testing.assert_close(trace.logits, model(x), rtol=1e-10, atol=1e-12)
    found = [operation.kind for operation in trace.operations]
    assert found.count("softmax") == blocks and found.count("matmul") == 2 * blocks
    assert "unknown" not in found
    relevance = method("gradient")(model, x.clone().requires_grad_(), 1)
    torch.testing.assert_close(relevance.detach(), method("gradient")(model, x, 1), rtol=1e-6, atol=1e-10)


def without_biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name.endswith("relative_position_bias_table"):
            nn.init.zeros_(parameter)
        if name.endswith(("pos_embedding", "class_token")):
            nn.init.zeros_(parameter)
    return model


# Squeeze-and-excitation, layer scale, LayerNorm, attention: constant gates lose no relevance.
@pytest.mark.parametrize(
    "name", ["VisionTransformer", "efficientnet_b0", "mobilenet_v3_small", slow("convnext_tiny")]
)
def test_lrp_z_conserves_the_logit_of_networks_without_biases(torchvision_models, name) -> None:
    model, x = build(torchvision_models, name)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.zeros_(part.running_mean)
            nn.init.constant_(part.running_var, 0.01)
    without_biases(model)
    total = method("lrp-z")(model, x, 3).sum()
    torch.testing.assert_close(total, model(x)[0, 3], rtol=1e-4, atol=1e-12)


def test_the_taylor_rule_of_softmax_does_not_conserve(torchvision_models) -> None:
    model, x = build(torchvision_models, "VisionTransformer")
    without_biases(model)
    total = method("lrp-z", gates="uniform")(model, x, 3).sum()
    assert abs((total / model(x)[0, 3]).item() - 1) > 1e-3
