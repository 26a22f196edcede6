"""Finished pieces are kept and not made again; the figure and the numbers are there or not at all."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from veridical.reproduce import CATALOG, Given, check_place, find_entry, reproduce
from veridical.reproduce.catalog import Entry
from veridical.reproduce.claims import ABOVE_0, Stated
from veridical.reproduce.drawing import sheet
from veridical.reproduce.given import Cell, Outcome, Reproduction, cell, joined

ENTRY = Entry("a-figure-1", "A et al. 2000", "figure 1", "numbers", "nothing", (0.1, 0.1), "nowhere:X")


@dataclass(frozen=True)
class Numbers:
    count: int = 6
    fails_at: int | None = None


def made(log, fails_at=None):
    def cells(given, chosen):
        def make(index, told):
            if index == fails_at:
                raise KeyboardInterrupt
            told(0.5)
            log.append(index)
            return Cell({"value": np.array([1.0 + index + given.seed])}, {"index": index})

        return {f"part {index}": lambda told, i=index: make(i, told) for index in range(chosen.count)}

    def result(given, chosen, found):
        values = joined(found, "value")
        claim = Stated("positive", "section 1", "positive", ABOVE_0).by(values, "value", given.level)
        figure, panels = sheet()
        panels[0, 0].plot(values)
        return Outcome((claim,), figure, {"values": values.tolist(), "lost": float("nan")}, ("a note",))

    return Reproduction(Numbers(), Numbers(9), cells, result)


@pytest.fixture
def entry(monkeypatch):
    def with_recipe(recipe):
        monkeypatch.setattr(Entry, "load", lambda self: recipe)
        return ENTRY

    return with_recipe


def test_everything_is_written_and_nothing_done_twice(tmp_path, entry):
    log, moments = [], []
    one = entry(made(log))
    found = reproduce(one, Given(), tmp_path, progress=moments.append, command=["veridical", "reproduce"])
    assert found.all_hold and found.counts["holds"] == 1 and log == list(range(6))
    assert (found.folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((found.folder / "result.json").read_text())
    assert stored["claims"][0]["verdict"] == "holds" and stored["claims"][0]["n"] == 6
    assert stored["numbers"] == {"values": [1, 2, 3, 4, 5, 6], "lost": None}
    assert stored["choices"]["seed"] == 0 and stored["choices"]["settings"]["count"] == 6
    assert stored["environment"]["torch"] and stored["command"] == ["veridical", "reproduce"]
    assert moments[-1].done == moments[-1].total == 6
    assert [moment.done for moment in moments] == sorted(moment.done for moment in moments)
    assert reproduce(one, Given(), tmp_path).all_hold and log == list(range(6))


def test_an_interrupted_run_goes_on(tmp_path, entry):
    log = []
    with pytest.raises(KeyboardInterrupt):
        reproduce(entry(made(log, fails_at=3)), Given(), tmp_path)
    assert log == [0, 1, 2] and not (tmp_path / ENTRY.name / "result.json").exists()
    reproduce(entry(made(log)), Given(), tmp_path)
    assert log == list(range(6))


def test_other_choices_leave_finished_pieces_alone(tmp_path, entry):
    log = []
    one = entry(made(log))
    for given in (Given(), Given(seed=1), Given(preset="full"), Given()):
        reproduce(one, given, tmp_path)
    assert len(log) == 6 + 6 + 9
    assert json.loads((tmp_path / ENTRY.name / "result.json").read_text())["choices"]["seed"] == 0


def test_a_broken_piece_is_made_again(tmp_path, entry):
    log = []
    one = entry(made(log))
    reproduce(one, Given(), tmp_path)
    piece = next((tmp_path / ENTRY.name / "cells").rglob("part-2.safetensors"))
    piece.write_bytes(b"half a file")
    reproduce(one, Given(), tmp_path)
    assert log == [*range(6), 2]


def test_a_piece_keeps_arrays_and_words(tmp_path):
    import torch

    one = cell({"a": torch.arange(3.0)}, layers=["x", "y"])
    one.write(tmp_path / "one.safetensors")
    again = Cell.read(tmp_path / "one.safetensors")
    assert again["a"].tolist() == [0, 1, 2] and again.words == {"layers": ["x", "y"]}


def test_what_is_missing_is_said_before_any_work(tmp_path, entry):
    log = []
    entry(made(log))
    for needs, message in (("network", "expected a network and images"), ("manifold", "expected a network")):
        with pytest.raises(ValueError, match=f"{message} .*a-figure-1"):
            reproduce(replace(ENTRY, needs=needs), Given(), tmp_path)
    with pytest.raises(ValueError, match="expected the manifold of the images .*--manifold .*--decoder"):
        replace(ENTRY, needs="manifold").check(network=True, manifold=False)
    assert log == []
    for part in ("subject", "surface"):
        with pytest.raises(ValueError, match=r"got none; pass Given\("):
            getattr(Given(), part)


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a directory to write to, got .*file; choose another"):
        check_place(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", CATALOG)
def test_every_entry_can_be_computed(name):
    one = find_entry(name)
    recipe = one.load()
    assert isinstance(recipe, Reproduction) and one.name == name
    assert type(recipe.settings("quick")) is type(recipe.settings("full"))
    assert one.paper in one.description and one.record()["needs"] == one.needs


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'sixt-figure-5'; did you mean .*sixt2020-figure-5"):
        find_entry("sixt-figure-5")


def test_the_page_names_every_entry():
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert [name for name in CATALOG if f"| `{name}` (" not in page] == []
