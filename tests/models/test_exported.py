"""Exported programs: the same network again, and every program that is refused."""

import copy
import io
import json
import os
import warnings
import zipfile

import pytest
import torch
from torch import nn

from veridical.attributions import method, methods
from veridical.models import Preprocessing, load_model, state_digest
from veridical.models.exported import ExportedNetwork, refuse_pickles
from veridical.rules import record
from veridical.smoothing import beta_smooth

DYNAMIC = ({0: torch.export.Dim.AUTO},)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.norm(self.conv(x))) + x


class Network(nn.Module):
    """In-place activations, a residual sum, pooling, a layer used twice, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 3)
        self.block = Block()
        self.gate = nn.Hardswish(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = self.gate(self.block(self.block(self.first(x))))
        x = self.pool(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return {"logits": self.head(self.drop(tokens.mean(1))), "features": tokens}


def seeded(build) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return model


def images(count: int = 3, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def saved(model: nn.Module, path, *, example=None, shapes=DYNAMIC, steps=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = images() if example is None else example
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
        program = program if steps is None else program.run_decompositions(steps or None)
        torch.export.save(program, path, **options)
    return path


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return seeded(Network)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    return saved(network, tmp_path_factory.mktemp("exported") / "network.pt2")


def test_it_is_the_network_again(network, file):
    loaded = load_model(str(file))
    torch.testing.assert_close(loaded.module(images()), network(images())["logits"])
    assert loaded.sha256 == state_digest(network)
    assert loaded.name == "network" and "network.pt2" in loaded.source
    assert not any(part.training for part in loaded.module.modules())
    assert (loaded.preprocessing.resize, loaded.preprocessing.input_size) == (8, (8, 8))


def test_operations_have_the_names_of_the_modules(network, file):
    ours = [
        o.name for o in record(load_model(str(file)).module, images()).operations if o.kind != "structure"
    ]
    own = [o.name for o in record(network, images()).operations if o.kind != "structure"]
    assert {"first", "block.conv", "block.conv#2", "gate", "pool", "head"} <= set(ours) & set(own)
    assert [one for one in ours if not one.startswith("attention")] == [
        one for one in own if not one.startswith("attention")
    ]


@pytest.mark.parametrize("name", [name for name in methods() if not name.startswith("pattern")])
def test_every_method_gives_the_map_of_the_network(name, network, file):
    options = {"samples": 2} if name == "smoothgrad" else {}
    model, x = copy.deepcopy(network).double(), images().double()
    exported = load_model(str(file)).module.double()
    torch.testing.assert_close(method(name, **options)(exported, x, 1), method(name, **options)(model, x, 1))


def test_smoothing_sees_the_activations(network, file):
    smooth = beta_smooth(method("gradient"), 2.0)
    exported = smooth(load_model(str(file)).module, images(), 1)
    torch.testing.assert_close(exported, smooth(network, images(), 1))
    assert not torch.equal(exported, method("gradient")(network, images(), 1))


def test_hooks_and_copies(file):
    module = load_model(str(file)).module
    calls = []
    copied = copy.deepcopy(module)
    copied.get_submodule("block.conv").register_forward_hook(lambda *_: calls.append(1))
    copied(images())
    module(images())
    assert len(calls) == 2  # the block runs twice in the copy; the original has no hook
    with torch.no_grad():
        copied.get_parameter("head.bias").add_(1)
    torch.testing.assert_close(copied(images()), module(images()) + 1)


@pytest.mark.parametrize(
    ("steps", "names"),
    [({}, ("gradient", "lrp-z", "guided-backprop", "grad-cam")), (None, ("gradient", "grad-cam"))],
    ids=["functional", "core"],
)
def test_programs_in_elementary_operators(network, tmp_path, steps, names):
    program = torch.export.export(network, (images(),), dynamic_shapes=DYNAMIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program.run_decompositions(steps), tmp_path / "network.pt2")
    module = load_model(str(tmp_path / "network.pt2")).module
    torch.testing.assert_close(module(images()), network(images())["logits"])
    for name in names:
        torch.testing.assert_close(
            method(name)(module, images(), 0), method(name)(network, images(), 0), atol=1e-5, rtol=1e-4
        )


def test_weights_of_a_state_dict(network, file, tmp_path):
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.bias.add_(1)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    loaded = load_model(str(file), tmp_path / "weights.pt")
    torch.testing.assert_close(loaded.module(images()), network(images())["logits"] + 1)


def test_the_file_says_how_images_are_prepared(network, tmp_path):
    notes = {
        "preprocessing": {"resize": 10, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3},
        "classes": list("abc"),
    }
    path = saved(network, tmp_path / "a.pt2", extra_files={"veridical.json": json.dumps(notes)})
    loaded = load_model(str(path))
    assert loaded.preprocessing == Preprocessing(
        10, 8, (0.5,) * 3, (0.5,) * 3, source="a.pt2, veridical.json"
    )
    assert loaded.label(2) == "c"


class Plain(nn.Sequential):
    def __init__(self, channels: int = 3, size: int = 8) -> None:
        super().__init__(
            nn.Conv2d(channels, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
        )


def test_a_fixed_batch_is_taken_where_it_makes_no_difference(tmp_path):
    model = seeded(Plain)
    path = saved(model, tmp_path / "one.pt2", example=images(1), shapes=None)
    torch.testing.assert_close(load_model(str(path)).module(images(5)), model(images(5)))


class FixedView(Plain):
    def forward(self, x):
        return self[4](self[2](self[0](x)).reshape(x.shape[0], 2))


def test_channels_and_sizes_of_the_program(tmp_path):
    example = torch.rand(2, 5, 6, 9)
    loaded = load_model(str(saved(seeded(lambda: Plain(5)), tmp_path / "five.pt2", example=example)))
    assert loaded.preprocessing.channels == 5
    assert loaded.preprocessing.input_size == (6, 9)
    assert loaded.preprocessing.apply(torch.rand(5, 12, 12)).shape == (5, 6, 9)


class Two(nn.Module):
    def forward(self, x, y):
        return x.mean((2, 3)) + y


class Moments(nn.Module):
    def forward(self, x):
        return {"mean": x.mean((2, 3)), "deviation": x.std((2, 3))}


class Odd(nn.Module):
    def forward(self, x):
        return torch.ops.veridical_test.double(x).mean((2, 3))


@pytest.fixture
def operator():
    library = torch.library.Library("veridical_test", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
    library.impl("double", lambda x: torch.empty_like(x), "Meta")
    return library


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (FixedView, {"example": images(1), "shapes": None}, "any number of images, got one exported for 1"),
        (Moments, {}, "a program that returns logits, got dict"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train(), {}, "exported in evaluation mode"),
        (lambda: nn.Linear(4, 2), {"example": torch.rand(3, 4)}, r"takes images \(N, C, H, W\)"),
    ],
    ids=["batch", "output", "training", "input"],
)
def test_programs_that_are_refused(build, options, message, tmp_path):
    with torch.random.fork_rng():
        path = saved(build(), tmp_path / "bad.pt2", **options)
    with pytest.raises(ValueError, match=message):
        load_model(str(path))


def test_a_program_of_two_inputs_is_refused():
    program = torch.export.export(Two(), (images(), torch.rand(3, 3)))
    with pytest.raises(ValueError, match=r"one input, the images, got 2 \(x, y\)"):
        ExportedNetwork(program)


def test_a_custom_operator_is_refused(operator):
    program = torch.export.export(Odd(), (images(),))
    with pytest.raises(ValueError, match=r"functions of torch stand for, got veridical_test.double"):
        ExportedNetwork(program)


def test_files_that_are_no_programs(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an exported program, got .*nowhere.pt2"):
        load_model(str(tmp_path / "nowhere.pt2"))
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ValueError, match=r"expected a program of torch.export.save, got .*text.pt2"):
        load_model(str(tmp_path / "text.pt2"))
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("note.txt", "nothing")
    with pytest.raises(ValueError, match="load a state dict with --weights"):
        load_model(str(tmp_path / "other.pt2"))


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_pickled_code_is_not_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    torch.save(Trap(), content)
    for name, new in (
        ("sample_inputs/model.pt", content.getvalue()),
        ("weights/model_weights_config.json", b'{"config": {"a": {"use_pickle":true}}}'),
    ):
        with zipfile.ZipFile(file) as old, zipfile.ZipFile("trap.pt2", "w") as archive:
            for member in old.namelist():
                archive.writestr(member, new if member.endswith(name) else old.read(member))
        with pytest.raises(ValueError, match="which could run code"):
            load_model("trap.pt2")
    assert not (tmp_path / "trap").exists()
    refuse_pickles(file)


def test_broken_notes(network, tmp_path):
    path = saved(network, tmp_path / "a.pt2", extra_files={"veridical.json": "{broken"})
    with pytest.raises(ValueError, match="expected JSON as veridical.json in a.pt2"):
        load_model(str(path))
    path = saved(
        network, tmp_path / "b.pt2", extra_files={"veridical.json": '{"preprocessing": {"croop": 3}}'}
    )
    with pytest.raises(TypeError, match="'croop'; did you mean crop"):
        load_model(str(path))
