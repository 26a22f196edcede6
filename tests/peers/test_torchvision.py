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
    "vgg16": (32, CLASSES),
}
SLOW = {"vgg16"}  # 134 million parameters to draw at random
NETWORKS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BUILDERS]


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
        model = getattr(models, name)(weights=None, **options).double().eval()
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
        if any(row.treatment == "no rule" for row in rows):
            with pytest.raises(UnsupportedOperation, match=r"called from"):
                explainer(model, x, 3)
            continue
        assert any(row.treatment == "modified" for row in rows)
        relevance = explainer(model, x, 3)
        assert bool(relevance.isfinite().all())
        assert (relevance - expected).abs().max() > 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_zplus_is_finite_or_names_the_operation_that_it_has_no_rule_for(torchvision_models, name) -> None:
    model, x = build(torchvision_models, name)
    explainer = method("lrp-zplus")
    missing = [row for row in rule_coverage(model, x, explainer) if row.treatment == "no rule"]
    if not missing:
        assert bool(explainer(model, x, 3).isfinite().all())
        return
    base = record(model, x).operation(missing[0].name).base
    with pytest.raises(UnsupportedOperation, match=rf"{base} \(called from .*overrides"):
        explainer(model, x, 3)


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


@pytest.mark.parametrize(
    ("name", "size", "options"), [("convnext_tiny", 64, {}), ("vit_b_16", 32, {"image_size": 32})]
)
def test_where_a_rule_is_missing_the_operation_is_named_and_never_skipped(
    torchvision_models, name: str, size: int, options: dict
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(torchvision_models, name)(weights=None, **options).eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    for refused in ("guided-backprop", "lrp-zplus"):
        with pytest.raises(UnsupportedOperation, match=r"got layer_norm \(called from "):
            method(refused)(model, x)
    relevance = method("gradient")(model, x.clone().requires_grad_(), 1)
    torch.testing.assert_close(relevance.detach(), method("gradient")(model, x, 1))
