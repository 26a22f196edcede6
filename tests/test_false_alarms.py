"""scripts/false_alarms.py: the truth is found, wrong verdicts are counted, finished audits are kept."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "false_alarms.py"


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("false_alarms", SCRIPT)
    found = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)
    return found


def audit_of(script, verdicts, value):
    values = {name: {"random-logit": [value] * 9} for name in script.METHODS}
    return {"verdicts": dict.fromkeys(script.METHODS, "not decided") | verdicts, "values": values}


@pytest.mark.parametrize(
    ("value", "side", "verdict", "wrong"),
    [
        (0.2, "passes", "not believable", 1),
        (0.2, "passes", "believable", 0),
        (0.95, "fails", "believable", 1),
        (0.95, "fails", "not believable", 0),
        (0.95, "fails", "not decided", 0),
    ],
)
def test_what_counts_as_wrong(script, value, side, verdict, wrong):
    found = [audit_of(script, {"edges": verdict}, value), audit_of(script, {}, value)]
    assert script.truth(found, "edges")[0] == side
    lines = script.rows(found, "quick")
    assert f"{wrong} of 2 =" in lines[0] and f"{wrong} of 2 =" in lines[-1]


def test_a_median_at_the_threshold_is_no_truth(script):
    found = [audit_of(script, {}, 0.89), audit_of(script, {}, 0.91)]
    assert script.truth(found, "edges")[0] == "near" and script.rows(found, "quick")[0].endswith("| – |")


def test_finished_audits_are_not_made_again(script, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(script, "one_audit", lambda preset, seed: made.append(seed) or {"seed": seed})
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "00001.json").write_text(json.dumps({"seed": "kept"}))
    end = script.time.monotonic() + 100
    assert [one["seed"] for one in script.run(tmp_path, "quick", 3, end)] == [0, "kept", 2]
    assert made == [0, 2]
    assert script.run(tmp_path, "quick", 9, 0.0) == script.run(tmp_path, "quick", 3, end)


def test_the_synthetic_methods_are_what_their_names_say(script):
    one = script.one_audit("quick", 0)
    values = one["values"]
    assert all(
        value == 1 for value in values["edges"]["random-logit"] + values["class-blind"]["random-logit"]
    )
    assert all(value == 1 for value in values["network-blind"]["cascading-randomization"])
    assert max(values["noise"]["random-logit"]) < 0.6 and len(values["gradient"]["cosine-convergence"]) == 3
    assert one["verdicts"]["edges"] == "not believable" and one["verdicts"]["noise"] == "believable"
