"""`veridical manifold measure` on a tiny data set with a known manifold."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import veridical as vd
from veridical.cli.main import app
from veridical.manifold import DataSetSettings, generate_data_set, open_tangents, store_data_tangents
from veridical.records import write_arrays
from veridical.training import accuracy

NETWORK = """
import torch
from torch import nn

def small(seed=0, mean=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))
    found.preprocessing = {"resize": 8, "crop": 8, "mean": [mean], "std": [1.0], "channels": 1}
    return found.eval()

def shifted():
    return small(mean=0.5)
"""


class Decoder(nn.Module):
    """Latents (N, 2) to 1 x 8 x 8 images."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.randn(2, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, z):
        return (z @ self.rows.to(z)).sigmoid().view(-1, 1, 8, 8)


def networks(seed):
    spaces = {}
    exec(NETWORK, spaces)
    return spaces["small"](seed)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set in `set`, and three networks in `steps`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "small_measured.py").write_text(NETWORK)
    for seed in range(3):
        state = {name: value.numpy() for name, value in networks(seed).state_dict().items()}
        write_arrays(tmp_path / "steps" / f"step-{seed:08d}.safetensors", state)
    settings = DataSetSettings(parts=(("train", 20), ("test", 9)))
    found = generate_data_set(tmp_path / "set", Decoder(), networks(7), 2, settings)
    store_data_tangents(found, Decoder(), "test")
    return found


def call(*arguments):
    return CliRunner().invoke(app, ["manifold", "measure", *[str(one) for one in arguments]])


MODEL = ("--model", "small_measured:small")


def test_one_network_by_the_methods_of_the_paper(data):
    result = call("set", *MODEL, "--weights", "steps/step-00000001.safetensors")
    assert result.exit_code == 0, result.output
    images = data.load("images", "test")
    found = vd.measure_alignment(networks(1), images, open_tangents("set/tangents-test")[:])
    assert result.stdout.strip() == found.table()


def test_the_networks_of_a_training_have_a_row_each(data, tmp_path):
    options = ("--methods", "gradient,gradient-x-input", "--limit", 6, "--out", "found.json")
    result = call("set", *MODEL, "--weights", "steps", *options)
    assert result.exit_code == 0, result.output
    lines = result.stdout.strip().splitlines()
    assert lines[0] == "| weights | error | `gradient` | `gradient-x-input` | random |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| step-{seed:08d}" for seed in range(3)]
    kept = json.loads((tmp_path / "found.json").read_text())
    images, labels = (data.load(column, "test", limit=6) for column in ("images", "labels"))
    for seed, one in enumerate(kept["networks"]):
        found = vd.measure_alignment(
            networks(seed), images, open_tangents("set/tangents-test")[:6], ["gradient"]
        )
        assert one["n"] == 6 and one["dimension"] == 64 and one["rank"] == [2]
        summary = found.summary("gradient")
        assert one["methods"]["gradient"]["mean"][0] == pytest.approx(summary.mean.estimate, abs=1e-6)
        assert f"{summary.mean.estimate:.3f} (" in lines[2 + seed]
        assert one["accuracy"] == accuracy(networks(seed), images, labels).share


def test_every_image_and_every_number_of_directions_are_told(data, tmp_path):
    options = ("--methods", "gradient", "--by-k", "--out", "found.json")
    result = call("set", *MODEL, "--weights", "steps/step-00000001.safetensors", *options)
    assert result.exit_code == 0, result.output
    images = data.load("images", "test")
    found = vd.measure_alignment(networks(1), images, open_tangents("set/tangents-test")[:], ["gradient"])
    (one,) = json.loads((tmp_path / "found.json").read_text())["networks"]
    assert one["fractions"]["gradient"] == pytest.approx(found.of("gradient").tolist(), abs=1e-6)
    means = [(each.estimate, random) for each, random in found.mean_by_k("gradient")]
    assert one["by_k"]["gradient"] == pytest.approx([mean for mean, _ in means], abs=1e-6)
    assert one["random_by_k"] == [random for _, random in means] and means[0] < means[1]
    head, _, first, second = result.stdout.strip().split("\n\n")[1].splitlines()
    assert head == "| k step-00000001 | `gradient` | random |"
    assert first.startswith(f"| 1 | {means[0][0]:.3f} (") and second.startswith(f"| 2 | {means[1][0]:.3f} (")


def test_an_image_without_a_fraction_is_null(data, tmp_path, monkeypatch):
    zero = {name: torch.zeros_like(value).numpy() for name, value in networks(0).state_dict().items()}
    write_arrays(tmp_path / "zero.safetensors", zero)
    options = ("--methods", "gradient", "--limit", 3, "--out", "found.json")
    assert call("set", *MODEL, "--weights", "zero.safetensors", *options).exit_code == 0
    (one,) = json.loads((tmp_path / "found.json").read_text())["networks"]
    assert one["fractions"]["gradient"] == [None] * 3 and one["by_k"]["gradient"] == [None] * 2


def test_the_conventions_of_a_set_of_the_paper(data, tmp_path):
    weights = ("--weights", "steps/step-00000001.safetensors", "--limit", 5)
    result = call("set", *MODEL, *weights, "--convention", "pneumonia", "--out", "found.json")
    assert result.exit_code == 0, result.output
    basis, images = open_tangents("set/tangents-test")[:5], data.load("images", "test", limit=5)
    methods = {
        "gradient": "gradient",
        "smoothgrad": vd.method("smoothgrad", samples=20, noise=0.2, range=1.0),
        "integrated-gradients": vd.method("integrated-gradients", steps=50, multiply_by_input=True),
        "gradient-x-input": "gradient-x-input",
    }
    expected = vd.measure_alignment(networks(1), images, basis, methods)
    found = vd.measure_alignment(networks(1), images, basis, convention="pneumonia")
    assert torch.equal(found.by_k, expected.by_k) and found.methods == expected.methods
    assert result.stdout.strip() == found.table()
    assert json.loads((tmp_path / "found.json").read_text())["convention"] == "pneumonia"
    assert not torch.equal(found.by_k, vd.measure_alignment(networks(1), images, basis).by_k)
    with pytest.raises(ValueError, match="convention to be one of mnist32, mnist256, cifar10, pneumonia"):
        vd.measure_alignment(networks(1), images, basis, convention="mnist")
    with pytest.raises(ValueError, match="expected a convention only for the methods of the paper"):
        vd.measure_alignment(networks(1), images, basis, ["gradient"], convention="mnist32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", *MODEL, "--part", "train"), "stored tangent spaces"),
        (("set", *MODEL, "--part", "other"), "part"),
        (("set", *MODEL, "--limit", 0), "--limit of at least 1, got 0"),
        (("set", *MODEL, "--weights", "set/tangents-test/none"), "none"),
        (("set", *MODEL, "--weights", "empty"), "expected files *.safetensors in empty, got none"),
        (("nowhere", *MODEL), "got no dataset.json"),
        (("set", "--model", "small_measured:shifted"), "takes values in [0, 1], got mean (0.5,)"),
        (("set", *MODEL, "--methods", "gradiant"), "gradient"),
        (("set", *MODEL, "--convention", "mnist"), "convention to be one of mnist32"),
        (("set", *MODEL, "--methods", "gradient", "--convention", "cifar10"), "leave one of them out"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert len(result.stderr.strip().splitlines()) == 1
