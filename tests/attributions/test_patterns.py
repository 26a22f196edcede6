"""PatternNet and PatternAttribution, and patterns as a value that is kept in a file."""

import copy
import io
import itertools
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import veridical as vd
from fitted import fitted
from networks import NETWORKS, Concatenating, Residual, Sequential, images, seeded
from networks_real import photograph, trained_resnet20
from veridical import Patterns
from veridical.attributions import fit_patterns, method, rule_coverage
from veridical.rules import applications, class_start, propagate, record

METHODS = ("patternnet", "pattern-attribution")
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)


class Head(nn.Module):
    def __init__(self, hidden: int = 0) -> None:
        super().__init__()
        layers = (nn.Linear(48, hidden), nn.ReLU(), nn.Linear(hidden, 4)) if hidden else (nn.Linear(48, 4),)
        self.layers = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_on_a_linear_network_the_map_is_the_pattern_of_the_class() -> None:
    model, x = seeded(Head), images(200, size=4)
    patterns = fit_patterns(model, x)
    a, w = patterns.active["layers.1"], model.layers[1].weight.detach()
    target = torch.tensor([3, 1])
    signal = method("patternnet", patterns=patterns)(model, x[:2], target)
    torch.testing.assert_close(signal, a[target].view(2, 3, 4, 4))
    share = method("pattern-attribution", patterns=patterns)(model, x[:2], target)
    torch.testing.assert_close(share, (w * a)[target].view(2, 3, 4, 4))
    torch.testing.assert_close(share.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    logits = model(x[:2]).gather(1, target[:, None]).view(2, 1, 1, 1).detach()
    scaled = method("patternnet", patterns=patterns, seed="value")(model, x[:2], target)
    torch.testing.assert_close(scaled, signal * logits)


def test_two_layers_by_hand() -> None:
    model, x = seeded(lambda: Head(6)), images(64, size=4)
    patterns = fit_patterns(model, x)
    mask = (model.layers[1](x[:3].flatten(1)) > 0).double().detach()
    for name in METHODS:
        kernels = [patterns.active["layers.1"], patterns.active["layers.3"]]
        if name == "pattern-attribution":
            kernels = [k * model.layers[i].weight.detach() for k, i in zip(kernels, (1, 3), strict=True)]
        expected = (kernels[1][2] * mask) @ kernels[0]
        relevance = method(name, patterns=patterns)(model, x[:3], 2)
        torch.testing.assert_close(relevance.flatten(1), expected)


@EVERY_METHOD
def test_a_folded_normalization_is_the_same_map_as_a_layer_of_its_own(name: str) -> None:
    for build in (Residual, Concatenating):
        model, x = seeded(build), images(24)
        maps = [
            method(name, patterns=fit_patterns(model, x, estimator="linear", fold_batch_norm=fold))(
                model, x, 1
            )
            for fold in (True, False)
        ]
        assert maps[0].abs().max() > 0
        torch.testing.assert_close(*maps)


class Leaky(Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.features[1] = nn.LeakyReLU(0.3)
        self.classifier[3] = nn.GELU()


@EVERY_METHOD
def test_two_patterns_matter_only_where_inactive_neurons_hand_relevance_on(name: str) -> None:
    x = images(40)
    for build, same in ((Sequential, True), (Leaky, False)):
        model = seeded(build)
        maps = [
            method(name, patterns=fit_patterns(model, x, estimator=estimator))(model, x[:3], 1)
            for estimator in ("positive", "two-component")
        ]
        assert torch.allclose(*maps, rtol=1e-9, atol=1e-12) == same


@EVERY_METHOD
@pytest.mark.parametrize("network", NETWORKS)
def test_the_second_derivative_with_the_logits_value(name: str, network: str) -> None:
    """The start depends on the image, so that the derivative is not zero everywhere."""
    model, x = NETWORKS[network](), images(2)
    explain = method(name, patterns=fitted(model), convention="sixt2020")
    image = x.clone().requires_grad_()
    weights, direction = images(2, seed=7), images(2, seed=8)
    (derivative,) = torch.autograd.grad((explain(model, image, 1) * weights).sum(), image)
    step = 1e-6
    ends = [(explain(model, x + k * step * direction, 1) * weights).sum() for k in (-2, -1, 1, 2)]
    expected = ((ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)).item()
    assert expected != 0
    assert abs((derivative * direction).sum().item() - expected) <= 1e-6 * max(1.0, abs(expected))


@EVERY_METHOD
def test_inner_layers_and_several_starts(name: str) -> None:
    model, x = seeded(Residual), images(2)
    rules, trace = method(name, patterns=fitted(model)).rules, record(model, x)
    targets = torch.tensor([[0, 1], [2, 3]])
    result = propagate(trace, rules, class_start(trace, targets, "one"), keep="all")
    assert result.inputs.shape == (2, *x.shape) and "stem" in result.layers
    several = method(name, patterns=fitted(model)).from_trace(trace, targets)
    assert torch.equal(several, result.inputs)


# --- without patterns, or with the wrong ones ---------------------------------------------------------------


class Counting(Sequential):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return super().forward(x)


@EVERY_METHOD
def test_without_patterns_it_is_listed_and_a_call_says_how_to_fit_them(name: str) -> None:
    explain, model, x = method(name), seeded(Counting), images()
    assert explain.name == name and explain.patterns is None
    rows = rule_coverage(model, x, explain)
    assert {row.treatment for row in rows if row.kind == "convolution"} == {"modified"}
    Counting.calls = 0
    with pytest.raises(ValueError, match=rf'method\("{name}", patterns=veridical.fit_patterns\(model, '):
        explain(model, x)
    assert Counting.calls == 0
    with pytest.raises(ValueError, match="expected patterns"):
        explain.from_trace(record(model, x), torch.zeros(1, 2, dtype=torch.long))


@EVERY_METHOD
def test_other_weights_are_refused_unless_asked_for(name: str) -> None:
    model, x = seeded(Residual), images()
    patterns = fitted(model)
    explain = method(name, patterns=patterns)
    explain(model, x)
    for layer in ("stem", "norm", "head"):
        other = copy.deepcopy(model)
        other.get_submodule(layer).weight.data[0] *= 1.001  # .data: no version counter sees it
        with pytest.raises(ValueError, match=r"w \. a is not 1 in .*any_weights=True"):
            explain(other, x)
        assert method(name, patterns=patterns, any_weights=True)(other, x).shape == x.shape
    for paper in ("sixt2020", "dombrowski2019"):
        if (name, paper) != ("patternnet", "dombrowski2019"):
            built = method(name, convention=paper, patterns=patterns)
            assert built.seed == "value" and built.any_weights == (paper == "sixt2020")


def test_the_weights_are_recognized_in_other_precisions() -> None:
    model, x = seeded(Residual, dtype=torch.float32), images(24, dtype=torch.float32)
    explain = method("pattern-attribution", patterns=fit_patterns(model, x))
    double = explain(copy.deepcopy(model).double(), x.double(), 1)
    assert double.dtype == torch.float64
    torch.testing.assert_close(explain(model, x, 1), double.float(), rtol=1e-3, atol=1e-6)
    explain(copy.deepcopy(model).bfloat16(), x.bfloat16(), 1)


def test_another_network_is_refused() -> None:
    patterns, x = fitted(seeded(Residual)), images()
    with pytest.raises(ValueError, match="got none for features.0; they were fitted for stem, first"):
        method("patternnet", patterns=patterns)(seeded(Sequential), x)
    wide = seeded(Residual)
    wide.stem = nn.Conv2d(3, 4, 5, stride=2, bias=False).double().eval()
    with pytest.raises(ValueError, match=r"shape \(4, 3, 5, 5\) for stem, got \(4, 3, 3, 3\)"):
        method("patternnet", patterns=patterns, any_weights=True)(wide, x)
    lacking = replace(patterns, active={k: a for k, a in patterns.active.items() if k != "head"})
    with pytest.raises(ValueError, match="got none for head"):
        method("patternnet", patterns=lacking)(seeded(Residual), x)


def test_options_are_checked_when_the_method_is_built(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected seed"):
        method("patternnet", seed="two")
    with pytest.raises(TypeError, match="expected patterns as Patterns or a path, got dict"):
        method("patternnet", patterns={})
    with pytest.raises(FileNotFoundError, match="which is absent; fit them"):
        method("patternnet", patterns=tmp_path / "none.safetensors")


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["positive", "two-component"])
def test_a_file_gives_the_same_value_back(tmp_path, estimator: str) -> None:
    model, x, path = seeded(Residual), images(24), tmp_path / "new" / "patterns.safetensors"
    patterns = fit_patterns(model, x, estimator=estimator, means="conditional", fold_batch_norm=False)
    patterns.save(path)
    patterns.save(str(path))  # replaces
    assert [file.name for file in path.parent.iterdir()] == ["patterns.safetensors"]
    again = Patterns.load(path)
    assert again == patterns and hash(again) == hash(patterns) and repr(again) == repr(patterns)
    assert again.settings == patterns.settings and again.silent == patterns.silent
    assert (again.images, again.weights) == (24, patterns.weights)
    by_path = method("patternnet", patterns=str(path))
    assert by_path == method("patternnet", patterns=patterns) and hash(by_path) == hash(replace(by_path))
    assert torch.equal(by_path(model, x), method("patternnet", patterns=patterns)(model, x))
    assert patterns.to("cpu") == patterns and copy.deepcopy(patterns) == patterns


def test_content_decides_equality() -> None:
    model, x = seeded(Residual), images(24)
    patterns = fit_patterns(model, x)
    assert patterns == fit_patterns(model, x) != fit_patterns(model, x[:20])
    assert patterns != fit_patterns(model, x, means="conditional") and patterns != "patterns"
    assert repr(patterns).startswith("Patterns(positive, mixed means, 5 operations, 24 images, ")


def damaged(kind: str, path) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[:-9])
    elif kind == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif kind == "text":
        path.write_text("patterns")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "weights":
        save_file(load_file(path), path)
    elif kind == "version":
        path.write_bytes(content.replace(b'"version":"1"', b'"version":"9"'))
    elif kind == "key":
        path.write_bytes(content.replace(b"active/head", b"actors/head"))
    elif kind == "estimator":
        path.write_bytes(content.replace(b"positive", b"negative"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "deserializing|incomplete|invalid"),
        ("flipped", "does not match its digest"),
        ("text", ""),
        ("empty", ""),
        ("weights", "its format is None"),
        ("version", "version '9', not 'veridical patterns', version '1'"),
        ("key", "actors"),
        ("estimator", "expected estimator"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, kind: str, reason: str) -> None:
    path = tmp_path / "patterns.safetensors"
    fitted(seeded(Residual)).save(path)
    before = path.read_bytes()
    damaged(kind, path)
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=rf"(?i)expected patterns that Patterns.save wrote.*({reason})"):
        Patterns.load(path)


def test_a_folder_is_no_file_of_patterns(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a file of patterns"):
        Patterns.load(tmp_path)


# --- real data ----------------------------------------------------------------------------------------------


def cifar(folder: Path, count: int) -> Tensor:
    """Training images, the same number of each class or one more."""
    with zipfile.ZipFile(folder / "cifar10" / "train15k.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        return torch.cat([photograph(io.BytesIO(archive.read(name)), 32) for name in chosen])


@pytest.mark.real_data
def test_patterns_of_a_trained_network(data_folder) -> None:
    """ResNet-20 on CIFAR-10, 256 images: fitting takes about 5 times as long as their forward passes."""
    model, x = trained_resnet20(data_folder), cifar(data_folder, 256)
    with torch.no_grad():
        start = time.perf_counter()
        for part in x.split(64):
            model(part)
        forward = time.perf_counter() - start
    start = time.perf_counter()
    patterns = vd.fit_patterns(model, x.split(64))
    seconds = time.perf_counter() - start
    assert seconds < 30 * forward and 0 < sum(patterns.silent.values()) < 30
    for at in applications(record(model, x[:2])):
        a = patterns.active[at.name]
        products = (at.affine.weight.detach().double() * a).reshape(len(a), -1).sum(1)
        alive = a.reshape(len(a), -1).abs().amax(1) > 0
        torch.testing.assert_close(products[alive], torch.ones_like(products[alive]), rtol=0, atol=1e-4)
    explainers = [method("gradient"), *(method(name, patterns=patterns) for name in METHODS)]
    maps = [explain(model, x[:8]) for explain in explainers]
    for one, other in itertools.combinations(maps, 2):
        assert one.isfinite().all() and not torch.allclose(one, other)
