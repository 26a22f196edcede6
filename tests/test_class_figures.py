"""The script behind docs/classes.md, on a tiny network in the place of the trained ones."""

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import pytest
import torch

from networks import Residual, images, seeded

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "classes.md"


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = spec_from_file_location("class_figures", ROOT / "scripts" / "class_figures.py")
    module = module_from_spec(spec)
    before, backend, threads = list(sys.path), mpl.get_backend(), torch.get_num_threads()
    spec.loader.exec_module(module)
    sys.path[:] = before
    model, x = seeded(Residual), images(3, 24)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "METHODS", ("gradient", "lrp-zplus"))
    monkeypatch.setattr(module, "CASCADED", ("gradient", "lrp-zplus"))
    monkeypatch.setattr(module, "DIFFERENCE", ("gradient", "lrp-zplus"))
    monkeypatch.setattr(module, "cifar", lambda data, count: (model, x[:count]))
    yield module
    mpl.use(backend)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def rows(capsys) -> list[str]:
    return capsys.readouterr().out.strip().splitlines()[2:]


def test_random_logit_is_kept_drawn_and_told(script, tmp_path, capsys, monkeypatch) -> None:
    arguments = ["random-logit", "nowhere", "--out", str(tmp_path / "cells"), "--images", "3"]
    assert script.main(arguments) == 0
    first = rows(capsys)
    assert [row.split(" | ")[0] for row in first] == ["| gradient", "| lrp-zplus"]
    assert (tmp_path / "classes-random-logit.png").stat().st_size > 1000
    monkeypatch.setattr(script, "random_logit", None)  # what is finished is not measured again
    assert script.main(arguments) == 0
    assert rows(capsys) == first


def test_randomization_draws_every_step(script, tmp_path, capsys, monkeypatch) -> None:
    model, x = script.cifar("", 3)
    steps = script.cascading_randomization(model, x, script.method("gradient")).layers[:3]
    monkeypatch.setattr(script, "STEPS", tuple(steps))
    monkeypatch.setattr(script, "SHOWN", (0, 2))
    monkeypatch.setattr(script, "FLIPS", (1,))
    assert script.main(["randomization", "nowhere", "--out", str(tmp_path), "--images", "2"]) == 0
    assert all(len(row.split(" | ")) == 4 for row in rows(capsys))
    assert (tmp_path / "classes-randomization.png").stat().st_size > 1000


def test_the_difference_of_two_classes_is_drawn(script, tmp_path, capsys, monkeypatch) -> None:
    model, x = script.cifar("", 1)
    preprocessing = SimpleNamespace(apply=lambda image: x[0], denormalize=lambda inputs: inputs)
    loaded = SimpleNamespace(module=model, preprocessing=preprocessing)
    monkeypatch.setattr(script, "load_model", lambda name: loaded)
    monkeypatch.setattr(script, "FIRST", (0, "cat"))
    monkeypatch.setattr(script, "SECOND", (1, "coffee"))
    assert script.main(["difference", "nowhere", "--out", str(tmp_path)]) == 0
    assert len(rows(capsys)) == 2
    assert (tmp_path / "classes-difference.png").stat().st_size > 1000


def test_maps_are_drawn_while_the_network_is_randomized(script, tmp_path, capsys, monkeypatch) -> None:
    model, x = script.cifar("", 1)
    steps = script.cascading_randomization(model, x, script.method("gradient")).layers[:2]
    monkeypatch.setattr(script, "photographs", lambda data: (model, x, x, None))
    monkeypatch.setattr(script, "DRAWN", ("gradient", "lrp-zplus"))
    monkeypatch.setattr(script, "DRAWN_STEPS", tuple(steps))
    command = ["maps", "nowhere", "--out", str(tmp_path)]
    assert script.main(command) == 0
    first = rows(capsys)
    assert [len(row.split(" | ")) for row in first] == [3, 3]
    assert (tmp_path / "classes-maps.png").stat().st_size > 1000
    monkeypatch.setattr(script, "cascading_randomization", None)
    assert script.main(command) == 0
    assert rows(capsys) == first


def test_the_page_has_the_stored_comparison_with_quantus() -> None:
    page = PAGE.read_text(encoding="utf-8")
    stored = json.loads((ROOT / "benchmarks" / "results" / "quantus.json").read_text(encoding="utf-8"))
    for claim in stored["claims"]:
        for name in ("pcc", "spearman"):
            found = re.match(r"largest difference (\S+),", claim["notes"].get(name, ""))
            assert found is None or found[1] in page
        if claim["subject"].split(", ")[1:2] == ["gradient"] and "ssim-plain" in claim["notes"]:
            medians = re.search(r"medians (\S+) and (\S+):", claim["notes"]["ssim-plain"])
            assert medians[1] in page and medians[2] in page


def test_the_page_shows_what_the_script_draws() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = set(re.findall(r"\((classes-[\w-]+\.png)\)", page))
    assert shown == {path.name for path in PAGE.parent.glob("classes-*.png")} and len(shown) >= 2
    for name in shown:
        assert 1000 < (ROOT / "docs" / name).stat().st_size < 150_000
