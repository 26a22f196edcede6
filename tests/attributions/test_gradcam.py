"""Grad-CAM and guided Grad-CAM: by hand, layers by name, layouts of feature maps, default layers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import NETWORKS, Attention, Residual, Sequential, images, seeded
from veridical.attributions import gradcam, method, saliency
from veridical.attributions.feature_maps import Layout, default_layer, find_layer, layouts
from veridical.rules import RuleSet, UnsupportedOperation, affine_gradient, propagate, record

DEFAULTS = {
    "sequential": "features.1",
    "residual": "alone",
    "mobile": ":add",
    "shared": ":relu#2",
    "gated": ":mul#3",
    "concatenating": ":relu#3",
    "attention": "norm1",
}


class TwoMaps(nn.Module):
    """Two copies of a 1 x 2 image, once and with the sign turned; weights 3 and 1 of the first, 2 of both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.head = nn.Linear(4, 2, bias=False)
        self.head.weight.data = torch.tensor([[3.0, 1.0, 2.0, 2.0], [-3.0, -1.0, 2.0, 2.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("target", "relu", "expected"),
    # class 0: weights (3 + 1) / 2 and 2, maps x and -x: 2 x - 2 x = 0; class 1: -2 x - 2 x = -4 x
    [(0, False, [0.0, 0.0]), (1, False, [-4.0, 20.0]), (1, True, [0.0, 20.0])],
)
def test_two_units_by_hand(target: int, relu: bool, expected: list[float]) -> None:
    model, x = TwoMaps().eval(), torch.tensor([1.0, -5.0]).view(1, 1, 1, 2)
    assert method("grad-cam", relu=relu)(model, x, target).flatten().tolist() == expected


def test_guided_grad_cam_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2, bias=False)
    )
    model[0].weight.data.fill_(2.0)
    model[3].weight.data = torch.tensor([[3.0, -1.0], [0.0, 0.0]])
    x = torch.tensor([1.0, 4.0]).view(1, 1, 1, 2)
    # guided backpropagation: 2 [3]+ and 2 [-1]+; map: the mean of 3 and -1, times the activations 2 and 8
    assert method("guided-grad-cam")(model.eval(), x, 0).flatten().tolist() == [12.0, 0.0]


def by_autograd(model: nn.Module, inner: nn.Module, x: Tensor, target: int, relu: bool = True) -> Tensor:
    kept = []
    handle = inner.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = model(x)
    handle.remove()
    weights = torch.autograd.grad(logits[:, target].sum(), kept[-1])[0].mean((2, 3), keepdim=True)
    small = (weights * kept[-1]).sum(1, keepdim=True)
    return F.interpolate(small.relu() if relu else small, size=x.shape[2:], mode="bilinear").detach()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("network", "layer"),
    [("residual", "first"), ("residual", "alone"), ("mobile", "project"), ("gated", "wide")],
)
def test_the_channels_sum_to_the_map_of_autograd(network: str, layer: str, relu: bool) -> None:
    model, x = NETWORKS[network](), images(3)
    expected = by_autograd(model, model.get_submodule(layer), x, 1, relu)
    relevance = method("grad-cam", layer=layer, relu=relu)(model, x, 1)
    torch.testing.assert_close(relevance.sum(1, keepdim=True), expected)
    torch.testing.assert_close(relevance, (expected / 3).expand_as(x))
    maps = [saliency(relevance, reduction) for reduction in ("sum-abs", "max-abs", "abs-sum")]
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(maps[0], maps[2])


def test_a_convolution_before_batch_normalization_shows_its_own_gradient() -> None:
    """Folded into one map, the two would share the gradient at the output of the pair."""
    model, x = seeded(Residual), images()
    relevance = method("grad-cam", layer="stem", relu=False)(model, x, 2)
    torch.testing.assert_close(relevance.sum(1, keepdim=True), by_autograd(model, model.stem, x, 2, False))


@pytest.mark.parametrize("output", ["logit", "logit-value", "probability"])
def test_the_explained_score_can_be_chosen(output: str) -> None:
    model, x = seeded(Sequential), images()
    logits = model(x)[:, 1].detach()
    plain = method("grad-cam", relu=False)(model, x, 1)
    ours = method("grad-cam", relu=False, output=output)(model, x, 1)
    if output != "probability":
        factor = logits.view(-1, 1, 1, 1) if output == "logit-value" else 1
        torch.testing.assert_close(ours, plain * factor)
        return
    probabilities = nn.Sequential(model, nn.Softmax(1)).eval()
    named = method("grad-cam", relu=False, layer="0.features.1")
    torch.testing.assert_close(ours, named(probabilities, x, 1))


def test_upsampling() -> None:
    model, x = seeded(Residual), images()
    cam = method("grad-cam", layer="first", relu=False, upsampling="nearest")(model, x, 1)
    small = cam[:, :, ::2, ::2]
    for mode in ("bilinear", "bicubic"):
        expected = F.interpolate(small, size=(8, 8), mode=mode, align_corners=False)
        ours = method("grad-cam", layer="first", relu=False, upsampling=mode)(model, x, 1)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["grad-cam", "guided-grad-cam"])
@pytest.mark.parametrize("network", NETWORKS)
def test_several_targets_share_one_pass(network: str, name: str) -> None:
    model, x, explain = NETWORKS[network](), images(2), method(name)
    targets = torch.tensor([[0, 1], [1, 2], [3, 3]])
    together = explain.from_trace(record(model, x), targets)
    for row, target in zip(together, targets, strict=True):
        torch.testing.assert_close(row, explain(model, x, target))


def test_guided_grad_cam_is_the_product_and_runs_the_network_once() -> None:
    model, x = seeded(Sequential), images()
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    relevance, logits = method("guided-grad-cam").with_logits(model, x, 1)
    handle.remove()
    assert len(calls) == 1 and torch.equal(logits, model(x))
    product = method("guided-backprop")(model, x, 1) * method("grad-cam")(model, x, 1).sum(1, keepdim=True)
    torch.testing.assert_close(relevance, product)
    assert relevance.any()


def counting(visited: list[str]) -> RuleSet:
    """The rules of the gradient, that note the operations that they are applied to."""

    def rule(operation, relevance):
        visited.append(operation.name)
        return operation.adjoint(relevance)

    def affine(at, relevance):
        visited.append(at.name)
        return affine_gradient(at, relevance)

    return RuleSet("counting", affine, {}, frozenset(), otherwise=rule, fold_batch_norm=False, lean=True)


def test_propagation_stops_where_it_is_told_to() -> None:
    trace, visited = record(seeded(Residual), images()), []
    start = torch.randn(3, *trace.logits.shape, dtype=torch.float64)
    stopped = propagate(trace, counting(visited), start, until="relu", keep=["second", "relu"])
    names = trace.names[trace.names.index("relu") + 1 :]
    assert visited == names[::-1] and set(stopped.layers) == {"second", "relu"}
    assert stopped.inputs.shape == (3, 2, 3, 8, 8) and bool(stopped.inputs.isnan().all())
    whole = propagate(trace, counting([]), start, keep=["relu"])
    assert torch.equal(stopped.layers["relu"], whole.layers["relu"])
    with pytest.raises(ValueError, match="name of an operation, got 'relu#9'"):
        propagate(trace, counting([]), start, until="relu#9")


def test_nothing_is_propagated_below_the_layer(monkeypatch) -> None:
    visited: list[str] = []
    monkeypatch.setattr(gradcam, "_RULES", counting(visited))
    method("grad-cam", layer="relu#2")(seeded(Residual), images(), 1)
    assert "alone" in visited and not {"stem", "first", "second", "relu#2"} & set(visited)


# --- which layer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_the_default_layer_of_each_tiny_network(network: str) -> None:
    trace = record(NETWORKS[network](), images())
    assert default_layer(trace) == DEFAULTS[network]
    assert find_layer(trace, None)[0].name == DEFAULTS[network]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", "relu#2"), ("relu#1", "relu"), ("relu#2", "relu#2"), (":relu", ":relu"), ("stem", "stem"),
        (":add", ":add"),
    ],
)  # fmt: skip
def test_layers_by_the_name_of_a_module_or_of_an_operation(name: str, expected: str) -> None:
    assert find_layer(record(seeded(Residual), images()), name)[0].name == expected


def test_a_module_with_children_means_its_last_operation() -> None:
    trace = record(seeded(Attention), images())
    assert find_layer(trace, "mlp")[0].name == "mlp.2"
    trace = record(seeded(Sequential), images())
    with pytest.raises(ValueError, match="module or of an operation, got 'feat'"):
        find_layer(trace, "feat")


@pytest.mark.parametrize("name", ["grad-cam", "guided-grad-cam"])
def test_layers_that_cannot_be_used_are_refused(name: str) -> None:
    model, x = seeded(Sequential), images()
    with pytest.raises(ValueError, match=r"got 'features.9'; did you mean features\."):
        method(name, layer="features.9")(model, x, 0)
    with pytest.raises(
        ValueError, match=r"larger than 1 x 1, got relu .*features\.4.* \(2, 6, 1, 1\); did you mean"
    ):
        method(name, layer="features")(model, x, 0)
    with pytest.raises(
        ValueError, match=r"larger than 1 x 1, got linear .* shape \(2, 4\); known: features.0"
    ):
        method(name, layer="classifier")(model, x, 0)


def test_networks_without_feature_maps_are_refused() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double().eval()
    with pytest.raises(ValueError, match="a network with feature maps larger than 1 x 1, got none"):
        method("grad-cam")(dense, images(), 0)
    with pytest.raises(ValueError, match=r"got linear .* the network has none"):
        method("grad-cam", layer="1")(dense, images(), 0)


def test_preprocessing_inside_the_network_is_no_feature_map() -> None:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(((x - 0.5) / 0.25).flatten(1))

    with pytest.raises(ValueError, match="a network with feature maps"):
        method("grad-cam")(Normalized().double().eval(), images(), 0)


def test_a_layer_behind_the_logits_is_refused() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.side, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            self.side(x)
            return self.head(x.mean((2, 3)))

    with pytest.raises(ValueError, match="a layer that the logits depend on, got conv2d"):
        method("grad-cam", layer="side")(Side().double().eval(), images(), 0)


@pytest.mark.parametrize("name", ["grad-cam", "guided-grad-cam"])
def test_unknown_values_of_options_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="upsampling to be one of bilinear, bicubic, nearest, got 'cubic'"):
        method(name, upsampling="cubic")
    if name == "grad-cam":
        with pytest.raises(ValueError, match="output to be one of"):
            method(name, output="loss")


def test_guided_grad_cam_needs_an_activation() -> None:
    linear = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 3)).double().eval()
    with pytest.raises(UnsupportedOperation, match="guided-backprop modifies, got none"):
        method("guided-grad-cam")(linear, images(), 0)


def test_the_convention_of_bordt_2023() -> None:
    cam = method("grad-cam", convention="bordt2023")
    assert cam == method("grad-cam", layer="layer4.1.conv2", relu=False, upsampling="bicubic")
    with pytest.raises(ValueError, match="got 'layer4.1.conv2'"):
        cam(seeded(Residual), images(), 0)
    relevance = method("grad-cam", convention="bordt2023", layer=None)(seeded(Residual), images(), 0)
    assert bool((relevance < 0).any())


# --- layouts ------------------------------------------------------------------------------------------------


class ChannelsLast(nn.Module):
    """As ConvNeXt and Swin: to channels last and back, LayerNorm, linear, rolling, windows, residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 2, stride=2)
        self.norm = nn.LayerNorm(5)
        self.mlp = nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        y = self.norm(x)
        y = y.view(len(y), 2, 2, 2, 2, 5).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 5)
        y = self.mlp(y)
        y = y.view(-1, 2, 2, 2, 2, 5).permute(0, 1, 3, 2, 4, 5).reshape(len(x), 4, 4, 5)
        x = x + torch.roll(y, (1, 1), (1, 2))
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


def test_channels_last_is_recognized_through_windows_and_back() -> None:
    model, x = seeded(ChannelsLast), images(2)
    trace = record(model, x)
    found = layouts(trace)
    last = Layout("channels last", (4, 4))
    assert found["stem"] == found[":permute#4"] == Layout("channels first", (4, 4))
    assert (
        found[":permute"] == found["norm"] == found[":reshape#2"] == found[":roll"] == found[":add"] == last
    )
    assert "mlp" not in found and default_layer(trace) == ":permute#4"
    first = method("grad-cam", relu=False)(model, x, 1)
    torch.testing.assert_close(method("grad-cam", layer=":add", relu=False)(model, x, 1), first)
    values = trace.operation(":add").output.detach()
    expected = (values * model.head.weight[1] / 16).sum(-1)
    nearest = method("grad-cam", layer=":add", relu=False, upsampling="nearest")(model, x, 1)
    torch.testing.assert_close(nearest.sum(1)[:, ::2, ::2], expected)


def test_patches_merged_into_places_have_a_grid_and_so_have_their_tokens() -> None:
    class Merging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Conv2d(3, 5, 1), nn.LayerNorm(20), nn.Linear(20, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).permute(0, 2, 3, 1).reshape(len(x), 4, 2, 4, 2, 5).permute(0, 1, 3, 4, 2, 5)
            return self.head(self.norm(x.flatten(3).view(len(x), 16, 20)).mean(1))

    trace = record(seeded(Merging), images())
    assert layouts(trace)[":flatten"] == Layout("channels last", (4, 4))
    assert find_layer(trace, None)[1] == Layout("tokens", (4, 4)) and default_layer(trace) == "norm"


@pytest.mark.parametrize("front", [0, 1, 2])
def test_tokens_are_laid_on_the_grid_of_the_convolution(front: int) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 4, (4, 2), stride=(4, 2))
            self.extra = nn.Parameter(torch.randn(front, 4))
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = self.norm(torch.cat([self.extra.expand(len(x), -1, -1), x], 1))
            return self.head(x.mean(1))

    model, x = seeded(Tokens), images(2)
    operation, layout = find_layer(record(model, x), None)
    assert (operation.name, layout) == ("norm", Layout("tokens", (2, 4), front))
    tokens = operation.output.detach()[:, front:]
    expected = (tokens * model.head.weight[1] / (8 + front)).sum(-1).view(2, 2, 4)
    relevance = method("grad-cam", relu=False, upsampling="nearest")(model, x, 1)
    torch.testing.assert_close(relevance.sum(1)[:, ::4, ::2], expected)


def test_attention_scores_and_tokens_without_a_grid_are_refused() -> None:
    trace = record(seeded(Attention), images())
    softmax = next(operation.name for operation in trace.operations if operation.kind == "softmax")
    with pytest.raises(ValueError, match=r"larger than 1 x 1, got softmax"):
        find_layer(trace, softmax)
    assert all(layout.order == "tokens" for name, layout in layouts(trace).items() if name[:4] == "norm")


def test_maps_of_a_layout() -> None:
    values = torch.arange(24.0)
    image = values.view(2, 3, 4)
    assert torch.equal(Layout("channels first", (3, 4)).maps(image), image)
    assert torch.equal(Layout("channels last", (3, 4)).maps(image.permute(1, 2, 0)), image)
    tokens = torch.cat([torch.full((1, 2), -1.0), image.flatten(1).T])
    assert torch.equal(Layout("tokens", (3, 4), 1).maps(tokens), image)


# --- the networks of torchvision ----------------------------------------------------------------------------

TORCHVISION = {
    "vgg11": (32, {"num_classes": 10}, "features.19"),
    "resnet18": (64, {}, "layer4.1.relu#2"),
    "densenet121": (64, {}, ":relu"),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}, "inception5b:cat"),
    "mobilenet_v2": (64, {}, "features.18.2"),
    "mobilenet_v3_small": (64, {}, "features.12.2"),
    "squeezenet1_1": (64, {}, "classifier.2"),
    "shufflenet_v2_x0_5": (64, {}, "conv5.2"),
    "efficientnet_b0": (64, {}, "features.8.2"),
    "convnext_tiny": (64, {}, "features.7.2:add"),
    "swin_t": (64, {}, "permute"),
    "vit_b_16": (32, {"image_size": 32}, "encoder.layers.encoder_layer_11.ln_1"),
}
SLOW = {"vgg11", "vit_b_16", "convnext_tiny", "swin_t"}  # many parameters to draw at random


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in TORCHVISION]
)
def test_the_default_layer_of_torchvisions_networks(torchvision_models, name: str) -> None:
    size, options, expected = TORCHVISION[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(torchvision_models, name)(weights=None, **options).eval()
    x = images(1, size, dtype=torch.float32)
    trace = record(model, x)
    assert find_layer(trace, None)[0].name == expected
    relevance = method("grad-cam", relu=False).from_trace(trace, torch.tensor([[3]]))[0]
    assert relevance.shape == x.shape and bool(relevance.isfinite().all())
    if name != "vit_b_16":  # its classifier starts with zeros
        assert bool(relevance.any())
    if name == "swin_t":
        assert find_layer(trace, "features.5")[1] == Layout("channels last", (4, 4))
