"""`veridical reproduce`: the list, the table of claims, exit codes, and what it refuses before any work."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.attacking import NETWORK
from veridical.cli.main import app
from veridical.reproduce import CATALOG, Given
from veridical.reproduce.chains import THEOREM_1, Products

FEW = Products(4, 10, 20)
FREE = [name for name, entry in CATALOG.items() if entry.needs == "nothing"]


def call(*words):
    return CliRunner().invoke(app, ["reproduce", *map(str, words)])


@pytest.fixture
def network(tmp_path, monkeypatch):
    (tmp_path / "attackmodule.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "attackmodule", raising=False)
    generator = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    for name in "abcde":
        pixels = generator.integers(20, 235, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{name}.png")
    return ("--model", "attackmodule:build", "--images", tmp_path / "photographs")


@pytest.mark.parametrize("words", [(), ("list",)])
def test_the_list_has_one_line_for_each(words):
    result = call(*words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOG)
    assert all("needs" in line and "quick" in line for line in lines)


def test_the_list_for_programs():
    rows = json.loads(call("list", "--json").stdout)
    assert [row["name"] for row in rows] == list(CATALOG)
    assert sum(row["needs"] == "nothing" for row in rows) == len(FREE) >= 6
    assert all(row["minutes"]["quick"] <= row["minutes"]["full"] for row in rows)


def test_claims_that_hold_end_with_0(tmp_path):
    result = call("bordt2023-user-study", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "6 holds, 0 does not hold" in result.stdout and "note: Only the printed counts" in result.stdout
    folder = tmp_path / "bordt2023-user-study"
    assert result.stdout.strip().splitlines()[-1].endswith("figure.png")
    stored = json.loads((folder / "result.json").read_text())
    assert len(stored["claims"]) == 6 and {one["verdict"] for one in stored["claims"]} == {"holds"}
    assert {one.name for one in folder.iterdir()} == {"cells", "figure.png", "result.json"}


def test_a_claim_that_does_not_hold_ends_with_1(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "veridical.reproduce.catalog.Entry.load",
        lambda self: type(THEOREM_1)(FEW, FEW, THEOREM_1.cells, THEOREM_1.result),
    )
    result = call("sixt2020-theorem-1", "--out", tmp_path, "--json", "--seed", 3)
    assert result.exit_code == 1
    (one,) = json.loads(result.stdout[result.stdout.index("[") :])
    assert one["name"] == "sixt2020-theorem-1" and one["verdicts"]["does not hold"] >= 2
    stored = json.loads((tmp_path / "sixt2020-theorem-1" / "result.json").read_text())
    assert stored["choices"]["seed"] == 3


def test_a_figure_of_a_network_of_ones_own(tmp_path, network):
    result = call("sixt2020-figure-1", "--out", tmp_path / "out", *network)
    assert result.exit_code in (0, 1), result.output
    stored = json.loads((tmp_path / "out" / "sixt2020-figure-1" / "result.json").read_text())
    subject = stored["choices"]["subject"]
    assert list(subject["images"]) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert len(subject["model"]["sha256"]) == 64 and all(one["n"] == 5 for one in stored["claims"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sixt2020-figure-77",), "got 'sixt2020-figure-77'; did you mean sixt2020-figure-7"),
        (("list", "sixt2020-figure-7"), "expected a figure or table, got 'list'"),
        (("sixt2020-figure-7", "--preset", "fast"), "expected a preset, got 'fast'; known: full, quick"),
        (("bordt2023-figure-3",), "expected the manifold of the images for bordt2023-figure-3"),
        (("sixt2020-figure-7", "--out", "FILE"), "expected a directory to write to"),
        (("sixt2020-figure-7", "--decoder", "a:b"), "expected --decoder and --latents together"),
        (("sixt2020-figure-1", "--limit", "0"), "expected --limit of at least 1 image"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_done(tmp_path, monkeypatch, words, message):
    (tmp_path / "file").write_text("")

    def never(*_, **__):
        raise AssertionError("work began")

    monkeypatch.setattr("veridical.cli.reproduce.reproduce", never)
    monkeypatch.setattr("veridical.cli.options.load_model", never)
    given = [tmp_path / "file" if word == "FILE" else word for word in words]
    result = call(*given, *(() if "--out" in words else ("--out", tmp_path / "out")))
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_that_finished_work_is_kept(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("veridical.cli.reproduce.reproduce", interrupted)
    result = call("bordt2023-user-study", "--out", tmp_path)
    assert result.exit_code == 130 and "finished work is kept" in result.stderr


def test_what_needs_nothing_needs_nothing():
    assert all(CATALOG[name].load().cells(Given(), CATALOG[name].load().quick) for name in FREE)
