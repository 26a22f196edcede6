"""The script behind docs/convergence.md: the page holds what it prints."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

from fitted import ready
from networks import Sequential, images, seeded

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "convergence.md"


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = spec_from_file_location("convergence_figures", ROOT / "scripts" / "convergence_figures.py")
    module = module_from_spec(spec)
    before, backend = list(sys.path), mpl.get_backend()
    spec.loader.exec_module(module)
    sys.path[:] = before
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    yield module
    mpl.use(backend)


def test_the_page_holds_the_table_of_the_theorem(script, tmp_path, capsys) -> None:
    assert script.main(["theorem"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed in PAGE.read_text(encoding="utf-8")
    assert (tmp_path / "convergence-theorem.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_page_holds_the_table_of_the_simulation(script, capsys) -> None:
    """But for the digits at the limit of double precision, which depend on the order of sums."""
    assert script.main(["simulation"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    page = PAGE.read_text(encoding="utf-8")
    for line in printed:
        first = line.split(" | ")[:4]
        assert " | ".join(first) in page


def test_figures_of_a_network_need_the_data_folder(script, capsys) -> None:
    with pytest.raises(SystemExit):
        script.main(["layers"])
    assert "expected the data folder after layers, got none" in capsys.readouterr().err


@pytest.fixture
def tiny(script, monkeypatch):
    """The methods on a tiny network, and the names of those that were measured."""
    asked = []

    def subject(sweep, names, dtype=torch.float64):
        asked.extend(names)
        model = seeded(Sequential)
        return model, images(sweep.images), {name: ready(name, model) for name in names}

    monkeypatch.setattr(script.Sweep, "_subject", subject)
    monkeypatch.setattr(script, "CONVERGING", ("patternnet", "lrp-zplus"))
    return asked


@pytest.mark.parametrize("figure", ["cosines", "histogram"])
def test_many_methods_are_measured_once_and_drawn(script, tiny, tmp_path, capsys, figure) -> None:
    command = [figure, str(tmp_path), "--out", str(tmp_path / "cells"), "--images", "2"]
    assert script.main(command) == 0
    table = capsys.readouterr().out
    assert sorted(tiny) == sorted([*script.OTHERS, *script.CONVERGING])
    assert all(f"| {name} |" in table for name in tiny)
    drawn = tmp_path / f"convergence-{figure}-resnet20.png"
    before = drawn.read_bytes()
    (tmp_path / "cells" / "resnet20--gradient--2.npz").unlink()
    tiny.clear()
    assert script.main(command) == 0
    assert tiny == ["gradient"]
    assert capsys.readouterr().out == table
    assert drawn.read_bytes() == before


def test_what_leaves_single_precision_is_measured_in_double(script, tiny, tmp_path, monkeypatch) -> None:
    measured, calls = script.cosine_convergence, []

    def overflowing(model, x, explainer):
        found = measured(model, x, explainer)
        calls.append(model)
        lost = np.ones_like(found.nan_fraction)
        return replace(found, nan_fraction=lost) if len(calls) == 1 else found

    monkeypatch.setattr(script, "cosine_convergence", overflowing)
    monkeypatch.setattr(script, "CONVERGING", ())
    monkeypatch.setattr(script, "OTHERS", ("gradient", "lrp-z"))
    found = script.Sweep(tmp_path, tmp_path, "resnet20", 2).measured()
    assert tiny == ["gradient", "lrp-z", "gradient"] and len(calls) == 3
    assert found["gradient"]["missing"][-2] < 1


@pytest.mark.parametrize("network", ["resnet56", "efficientnet-lite0"])
def test_every_network_has_its_own_cells_and_what_is_stored_can_be_drawn(
    script, tiny, tmp_path, capsys, network
) -> None:
    command = ["cosines", str(tmp_path), "--out", str(tmp_path), "--images", "2", "--network", network]
    assert script.main(command) == 0
    assert (tmp_path / f"convergence-cosines-{network}.png").exists()
    assert "| patternnet |" in capsys.readouterr().out
    (tmp_path / f"{network}--patternnet--2.npz").unlink()
    tiny.clear()
    assert script.main([*command, "--stored"]) == 0
    assert tiny == [] and "patternnet" not in capsys.readouterr().out


def test_the_baseline_stands_beside_what_does_not_converge(script, tiny, tmp_path, capsys) -> None:
    assert script.main(["baseline", str(tmp_path), "--out", str(tmp_path), "--images", "2"]) == 0
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in script.OTHERS]
    stored = np.load(tmp_path / "resnet20--gradient--2.npz")
    cosine, random = 1 - stored["median"][-2], stored["baseline"][-2]
    assert f"| {cosine:.2f} | {random:.2f} | {cosine / random:.1f} |" in rows[0]


def test_vectors_start_at_several_layers(script, tiny, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(script, "STARTED", ("gradient", "lrp-zplus"))
    monkeypatch.setattr(script, "STARTS", 2)
    command = ["starts", str(tmp_path), "--out", str(tmp_path), "--images", "2"]
    assert script.main(command) == 0
    first = capsys.readouterr().out
    lines = [row.strip("| ").split(" | ") for row in first.strip().splitlines()[2:]]
    assert [line[0] for line in lines] == ["gradient"] * 2 + ["lrp-zplus"] * 2
    assert lines[0][1] != lines[1][1] and int(lines[0][2]) > int(lines[1][2])
    assert (tmp_path / "convergence-starts-resnet20.png").stat().st_size > 1000
    tiny.clear()
    assert script.main([*command, "--stored"]) == 0
    assert capsys.readouterr().out == first and tiny == []


def test_the_network_of_appendix_d_needs_its_weights(script, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        script.main(["cosines", "data", "--out", str(tmp_path), "--network", "appendix-d"])
    assert "expected --weights FILE for appendix-d, got none" in capsys.readouterr().err


def test_the_page_names_every_figure_and_network(script) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (*script.FREE, *script.ON_DATA, *script.SWEEPS, *script.NETWORKS):
        assert f"{name}" in page
    for drawn in PAGE.parent.glob("convergence-*.png"):
        assert f"({drawn.name})" in page and drawn.stat().st_size < 150_000


def test_sweeps_need_a_folder_for_what_is_finished(script, capsys) -> None:
    with pytest.raises(SystemExit):
        script.main(["cosines", "data"])
    assert "expected --out FOLDER for cosines, got none" in capsys.readouterr().err


@pytest.mark.real_data
def test_networks_of_the_sweeps(script, data_folder, tmp_path) -> None:
    sweep = script.Sweep(data_folder, tmp_path, "resnet20", 2)
    model, x, explainers = sweep._subject(["gradient"])
    assert x.shape == (2, 3, 32, 32)
    assert model(x).shape == (2, 10)
    assert list(explainers) == ["gradient"]
    photographs = script.Sweep(data_folder, tmp_path, "efficientnet-lite0", 1)
    model, x, _ = photographs._subject(["gradient"])
    assert x.shape == (1, 3, 224, 224)
    assert model(x).shape == (1, 1000)
