"""The script behind docs/partition.md, on a tiny network; the page and the rules that it states."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

from networks import Residual, Sequential, images, seeded
from networks_real import CifarResNet
from veridical.attributions import method
from veridical.metrics import Interval
from veridical.rules import propagate, record

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "partition.md"


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("partition_table", ROOT / "scripts" / "partition_table.py")
    module = module_from_spec(spec)
    before, backend, threads = list(sys.path), mpl.get_backend(), torch.get_num_threads()
    spec.loader.exec_module(module)
    sys.path[:] = before
    yield module
    mpl.use(backend)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def tiny(script, monkeypatch):
    """One small residual network under the name LeNet; counts how often it is loaded."""
    networks = sys.modules["scripts.partition_networks"]
    loaded = []

    def build(data, count, weights):
        loaded.append(count)
        model = seeded(Residual)
        return networks.Network(
            "LeNet", model, images(count), torch.zeros(count).long(), lambda: [images(16)]
        )

    monkeypatch.setitem(networks.NETWORKS, "LeNet", build)
    monkeypatch.setattr(sys.modules["scripts.partition_cells"], "STEPS", 2)
    return loaded


def run(script, folder, *more):
    return script.main(["nowhere", "--out", str(folder), "--networks", "LeNet", "--images", "2", *more])


def test_the_table_is_made_once_and_printed_again_from_its_cells(script, tiny, tmp_path, capsys) -> None:
    assert run(script, tmp_path) == 0
    first = capsys.readouterr().out
    assert tiny == [2]
    for name in script.PAPER:
        assert f"| {name} |" in first
    assert "not measured" not in first and "### LeNet, 2 images" in first
    cells = list(tmp_path.glob("*.json"))
    assert len(cells) == 3 * len(script.PAPER)
    assert all(len(values) == 2 for cell in cells for values in json.loads(cell.read_text()).values())
    next(tmp_path.glob("*--gradient--logit--*")).unlink()
    assert run(script, tmp_path) == 0
    assert capsys.readouterr().out == first
    assert tiny == [2, 2]


def test_stored_prints_what_is_there_and_measures_nothing(script, tiny, tmp_path, capsys) -> None:
    assert run(script, tmp_path, "--stored") == 0
    assert "| gradient | does not | not measured (-) |" in capsys.readouterr().out
    assert tiny == [] and not list(tmp_path.iterdir())


def test_unknown_networks_are_named(script, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        script.main(["nowhere", "--out", str(tmp_path), "--networks", "VGG"])
    assert "got VGG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1e-9, 0.01, "converges"),
        (0.005, 0.02, "undecided"),
        (0.02, 0.05, "undecided"),
        (0.05, 0.2, "undecided"),
        (0.1, 0.9, "does not"),
    ],
)
def test_the_whole_interval_decides(script, low: float, high: float, word: str) -> None:
    assert script.group(Interval((low + high) / 2, low, high, 5)) == word


def test_nothing_measured_is_no_group(script) -> None:
    nan = float("nan")
    assert script.group(Interval(nan, nan, nan, 0)) == "not measured"


def test_the_order_of_the_groups_needs_no_threshold(script, tmp_path, monkeypatch) -> None:
    cells = sys.modules["scripts.partition_cells"]
    monkeypatch.setattr(script, "PAPER", {"a": "converges", "b": "converges", "c": "does not"})
    values = {"a": 0.5, "b": 0.01, "c": 0.2}
    for name, value in values.items():
        (tmp_path / f"LeNet--{name}--csc--2.json").write_text(json.dumps({"value": [value] * 2}))
    store = cells.Store(tmp_path, Path("nowhere"), 2, 2, None)
    assert script.order(store, "LeNet") == "LeNet: 1 of 2 pairs in the paper's order; out of order: a."


@pytest.mark.parametrize("name", ["gradient", "lrp-zplus", "pattern-attribution"])
def test_without_shortcut_the_identity_path_gets_nothing(script, tiny, name: str) -> None:
    """What the sum's output got goes to the branch whole, for methods that complete their rules too."""
    causes = sys.modules["scripts.partition_causes"]
    cells = sys.modules["scripts.partition_cells"]
    network = sys.modules["scripts.partition_networks"].load_network("LeNet", Path("nowhere"), 2, None)
    explain = cells.Variant(name).ready(network)
    trace = record(network.model, network.images)
    summed = next(operation for operation in trace.operations if operation.kind == "sum")
    start = torch.randn(1, *summed.output.shape, generator=torch.Generator().manual_seed(0)).double()
    rules = causes.WithRule(explain, "sum", causes.branch_only).rules
    found = propagate(trace, rules, start, at=summed.name, keep=("second",))
    assert torch.equal(found.layers["second"], start)
    plain = propagate(trace, explain.rules, start, at=summed.name, keep=("second",))
    assert not torch.allclose(found.inputs, plain.inputs)


def test_the_whole_window_gets_what_the_largest_value_got(script) -> None:
    causes, cells = (sys.modules[f"scripts.partition_{name}"] for name in ("causes", "cells"))
    model, x = seeded(Sequential), images(2, 8)
    trace = record(model, x)
    pooled = next(operation for operation in trace.operations if operation.kind == "max_pool")
    start = torch.randn(1, *pooled.output.shape, generator=torch.Generator().manual_seed(0)).double()
    explain = cells.Variant("gradient").ready(None)
    rule = causes.WithRule(explain, "max_pool", causes.whole_window).rules.rules["max_pool"]
    spread = rule(pooled, [start])[0]
    assert spread.shape[-2:] == (8, 8)
    torch.testing.assert_close(4 * torch.nn.functional.avg_pool2d(spread[0], 2), start[0])
    assert spread[0, 0, 0, :2, :2].unique().numel() == 1


def test_changed_weights_have_the_mean_asked_for(script, tiny) -> None:
    causes = sys.modules["scripts.partition_causes"]
    network = sys.modules["scripts.partition_networks"].load_network("LeNet", Path("nowhere"), 2, None)
    before = network.model.second.weight.detach().clone()
    shares = {"mean 0": 0.0, "mean -0.1": -0.1, "mean +0.1": 0.1, "shuffled, mean 0": 0.0}
    for label, share in shares.items():
        changed = causes.reweighted(network, causes.CHANGES[label])
        weight = changed.model.second.weight.detach()
        assert float(weight.mean() / before.std()) == pytest.approx(share, abs=1e-6)
        assert float(weight.std()) == pytest.approx(float(before.std()))
        assert not changed.model.training
    shuffled = causes.reweighted(network, causes.CHANGES["shuffled"]).model.second.weight.detach().flatten()
    assert torch.equal(shuffled.sort().values, before.flatten().sort().values)
    assert torch.equal(network.model.second.weight, before)


def test_branches_are_scaled_beside_their_shortcuts(script) -> None:
    causes = sys.modules["scripts.partition_causes"]
    model, x = CifarResNet(1).eval(), images(2, 16).float()
    shares = [causes.branch_share(causes.scaled(model, factor), x) for factor in (0.25, 1.0, 4.0)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    assert causes.branch_share(model, x) == shares[1]


@pytest.mark.parametrize("name", ["options", "signs", "rectgrad", "sums", "depth", "picture",
                                  "means", "branches", "pools", "starts"])  # fmt: skip
def test_experiments_print_from_what_is_there(script, name: str, tmp_path, monkeypatch, capsys) -> None:
    experiments = sys.modules["scripts.partition_experiments"]
    monkeypatch.setattr(experiments, "PICTURE", tmp_path / "picture.png")
    assert script.main(["nowhere", "--out", str(tmp_path), "--stored", "--show", name]) == 0
    assert len(capsys.readouterr().out) > 10
    assert (tmp_path / "picture.png").exists() == (name == "picture")


def test_the_first_convolution_is_found(script, tiny) -> None:
    network = sys.modules["scripts.partition_networks"].load_network("LeNet", Path("nowhere"), 1, None)
    assert network.first == "stem"
    assert method("gradient").name in script.PAPER


def test_the_page_shows_every_method_and_how_to_make_it(script) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "python scripts/partition_table.py" in text
    for name in script.PAPER:
        assert f"| {name} |" in text
    assert f"{script.CONVERGED:g}" in text and f"{script.FREE:g}" in text
