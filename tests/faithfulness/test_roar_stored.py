"""Reading what `roar` stored: as it was measured, as far as it is complete, and nothing else."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from veridical.faithfulness import RoarData, read_roar, roar

SHARES = (0.125, 0.5)
CHOSEN = {"shares": SHARES, "repetitions": 2}


class Constant(nn.Module):
    """One class for every image."""

    def __init__(self, chosen=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, chosen], dtype=torch.float64))

    def forward(self, images):
        return self.weight.expand(len(images), 2)


@dataclass
class Training:
    """Says the class that the sum of the pixels tells, and stops after some networks."""

    left: int = 1000

    def __repr__(self):
        return "Training()"

    def __call__(self, images, labels, seed):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        if seed == 12:
            raise FloatingPointError("a loss of nan")
        return Constant(2.0 * (int(1e6 * images.abs().sum()) % 2))


@dataclass(frozen=True)
class Ramp:
    """Relevance that grows along the rows."""

    sign: int = 1

    def __call__(self, model, inputs, target=None):
        ramp = torch.arange(inputs[0].numel(), dtype=inputs.dtype).view(inputs.shape[1:])
        return self.sign * ramp.expand_as(inputs)


UP, DOWN = Ramp(), Ramp(-1)


@pytest.fixture
def measured(tmp_path):
    """Stores an experiment in a folder of its own."""
    images = torch.rand(14, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 1] * 3 + [0, 1, 1, 0, 1])
    data = RoarData(images[:9], labels[:9], images[9:], labels[9:])

    def run(methods=None, train=None, **changes):
        chosen = methods or {"up": UP, "down": DOWN}
        given = train or Training()
        return roar(Constant().eval(), data, chosen, given, folder=tmp_path / "roar", **{**CHOSEN, **changes})

    return run, tmp_path / "roar"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"order": "both", "edges": False},
        {"order": "least", "reduction": "sum-abs"},
        {"repetitions": 1, "seed": 12},
        {"repetitions": 3, "seed": 10},
    ],
)
def test_what_is_read_is_what_was_measured(measured, changes):
    run, folder = measured
    found, stored = run(**changes), read_roar(str(folder))
    assert repr(stored.roar.accuracy) == repr(found.accuracy)
    assert (stored.roar.shares, stored.roar.chance, stored.roar.n) == (found.shares, 0.6, 5)
    assert stored.roar.settings == found.settings
    assert sorted(stored.roar.failures) == sorted(found.failures)
    assert repr(stored.roar.table()) == repr(found.table())
    assert dict(stored.methods) == {"up": "Ramp(sign=1)", "down": "Ramp(sign=-1)"} and not stored.missing
    assert (stored.train, len(stored.model), len(stored.data)) == ("Training()", 64, 64)


def test_a_folder_of_an_earlier_version_does_not_tell_chance_and_goes_on(measured):
    run, folder = measured
    run()
    told = json.loads((folder / "roar.json").read_text())
    assert told.pop("chance") == 0.6
    (folder / "roar.json").write_text(json.dumps(told))
    assert math.isnan(read_roar(folder).roar.chance)
    run(train=Training(0))
    assert read_roar(folder).roar.chance == 0.6


def test_what_an_interrupt_left_is_read_as_far_as_it_is_complete(measured):
    run, folder = measured
    # 2 of all images, 4 each without random pixels, edges, those of the first method; 1 of the second.
    with pytest.raises(KeyboardInterrupt):
        run(train=Training(15))
    stored = read_roar(folder)
    assert list(stored.roar.accuracy) == [("random", "most"), ("edges", "most"), ("up", "most")]
    assert stored.missing == {("down", "most"): 3}
    assert stored.lacks("up", UP) == ""
    assert (
        "lacks 3 of its trainings; train these with vd.roar or veridical roar: this folder, shares 0.125,0.5 "
        "and repetitions 2" in stored.lacks("down", DOWN)
    )
    run()
    assert read_roar(folder).lacks("down", DOWN) == ""


def test_a_method_that_is_not_there_is_lacking(measured):
    run, folder = measured
    run({"up": UP})
    stored = read_roar(folder)
    assert "has up, not this one" in stored.lacks("down", DOWN)
    assert "other options: Ramp(sign=1), not Ramp(sign=-1)" in stored.lacks("up", DOWN)
    assert "none without its least relevant pixels" in stored.lacks("up", UP, "least")


def test_more_shares_of_random_pixels_make_the_other_curves_incomplete(measured):
    run, folder = measured
    run({"up": UP}, edges=False)
    # Of a third share, random pixels alone.
    with pytest.raises(KeyboardInterrupt):
        run({"up": UP}, train=Training(2), shares=(*SHARES, 0.75), edges=False)
    stored = read_roar(folder)
    assert stored.roar.shares == (0, *SHARES, 0.75) and stored.missing == {("up", "most"): 2}


@pytest.mark.parametrize("done", [0, 1])
def test_without_a_complete_curve_of_random_pixels_there_is_nothing_to_read(measured, done):
    run, folder = measured
    with pytest.raises(KeyboardInterrupt):
        run(train=Training(done))
    with pytest.raises(ValueError, match="expected .*trainings .*random pixels.*with it again"):
        read_roar(folder)


def test_shares_and_repetitions_of_two_finished_calls_give_what_both_have(measured):
    run, folder = measured
    first = run({"up": UP}, shares=(0.5,), repetitions=3)
    run({"up": UP}, shares=SHARES, repetitions=2)
    stored = read_roar(folder)
    assert stored.roar.shares == (0, *SHARES) and stored.roar.settings.repetitions == 2
    assert not stored.missing and stored.lacks("up", UP) == ""
    assert stored.roar.accuracy["up", "most"][2] == first.accuracy["up", "most"][1][:2]


def test_repetitions_that_are_not_finished_leave_those_that_are(measured):
    run, folder = measured
    before = run({"up": UP})
    # The third repetition of all images and of one share without random pixels.
    with pytest.raises(KeyboardInterrupt):
        run({"up": UP}, train=Training(2), repetitions=3)
    assert repr(read_roar(folder).roar.accuracy) == repr(before.accuracy)


def test_a_share_of_its_own_is_lacking_by_its_name(measured):
    run, folder = measured
    run({"up": UP}, shares=(0.5,), repetitions=3)
    run({"down": DOWN}, shares=SHARES, repetitions=2)
    stored = read_roar(folder)
    assert stored.lacks("down", DOWN) == "" and stored.missing == {("up", "most"): 2}
    assert "shares 0.125,0.5 and repetitions 2" in stored.lacks("up", UP)
    run({"up": UP}, shares=SHARES, repetitions=2)
    assert read_roar(folder).lacks("up", UP) == ""


def test_without_a_whole_repetition_the_message_says_what_to_ask_for(measured):
    run, folder = measured
    run({"up": UP})
    next((folder / "cells").glob("random-*-0.5-0.json")).unlink()
    with pytest.raises(ValueError, match="no repetition of both .*with it and shares 0.125,0.5 and repet"):
        read_roar(folder)
    run({"up": UP}, repetitions=1)
    assert read_roar(folder).lacks("up", UP) == ""


def test_another_network_is_refused(measured):
    run, folder = measured
    run()
    stored = read_roar(folder)
    stored.check_network(Constant())
    with pytest.raises(ValueError, match="expected the network of .*roar .*another folder"):
        stored.check_network(Constant(3.0))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}'])
def test_another_experiment_file_is_named(measured, text):
    _, folder = measured
    folder.mkdir()
    with pytest.raises(ValueError, match=r"without roar.json; pass the folder of veridical roar"):
        read_roar(folder)
    (folder / "roar.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected an experiment of vd.roar in .*roar.json"):
        read_roar(folder)


@pytest.mark.parametrize("field", ["settings", "train", "model", "data", "methods"])
def test_a_missing_field_is_named(measured, field):
    run, folder = measured
    run()
    told = json.loads((folder / "roar.json").read_text())
    del told[field]
    (folder / "roar.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"expected a field '{field}', got None"):
        read_roar(folder)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"correct": 9}', {"correct": 9}, {"n": 0, "correct": 0}, {"share": 0.3}]
)
def test_a_cell_that_nobody_can_read_is_named_and_trained_anew(measured, content):
    run, folder = measured
    run()
    cell = sorted((folder / "cells").iterdir())[0]
    whole = json.loads(cell.read_text())
    cell.write_text(content if isinstance(content, str) else json.dumps({**whole, **content}))
    with pytest.raises(ValueError, match=f"expected a training of vd.roar in .*{cell.name}.*does it anew"):
        read_roar(folder)
    again = Training()
    run(train=again)
    assert again.left == 999 and read_roar(folder)


def test_cells_of_several_test_sets_are_refused(measured):
    run, folder = measured
    run()
    cell = sorted((folder / "cells").iterdir())[0]
    cell.write_text(json.dumps({**json.loads(cell.read_text()), "n": 50}))
    with pytest.raises(ValueError, match="one number of test images in .*, got 5, 50"):
        read_roar(folder)


def test_no_folder_at_all_is_named(tmp_path):
    with pytest.raises(ValueError, match="expected a folder of vd.roar, got .*nowhere, which is none"):
        read_roar(tmp_path / "nowhere")
