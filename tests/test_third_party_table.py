"""The script behind docs/third-party.md: finished rows are kept, failures told, the page made of rows."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CHECK = {
    "parameters": 2_500_000, "input": [3, 8, 8], "classes": 10,
    "methods": [{"method": "gradient", "state": "runs"}, {"method": "patternnet", "state": "needs patterns"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("third_party_table", ROOT / "scripts" / "third_party_table.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    yield module
    sys.modules.pop(spec.name)


@pytest.fixture
def called(script, monkeypatch, tmp_path):
    """Commands that were given; in place of running them their results are written."""
    calls = []

    def command(arguments):
        calls.append(list(arguments))
        if "broken" in arguments:
            raise RuntimeError("error: expected a model specification")
        if arguments[0] == "audit":
            run = Path(arguments[arguments.index("--out") + 1])
            run.mkdir()
            verdicts = {"gradient": {"verdict": "believable"}}
            (run / "run.json").write_text(json.dumps({"verdicts": verdicts}))
        return json.dumps(CHECK)

    monkeypatch.setattr(script, "command", command)
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    return calls


def test_a_row_is_checked_audited_and_kept(script, called, monkeypatch, tmp_path, capsys):
    prepared = []
    rows = (
        script.Row("A net, small", "here", "{folder}/net.pt2", ("--weights", "{folder}/w"), prepared.append),
        script.Row("absent", "here", "x", needs=tmp_path / "nothing"),
    )
    monkeypatch.setattr(script, "ROWS", rows)
    assert script.main(["--cells", str(tmp_path / "cells")]) == 0
    folder = tmp_path / "cells" / "A-net-small"
    assert prepared == [folder]
    options = [f"{folder}/net.pt2", "--weights", f"{folder}/w"]
    assert called[0] == ["models", "--check", *options, "--json"]
    assert called[1][:5] == ["audit", "--model", *options]
    first = (tmp_path / "page.md").read_text()
    assert "1 networks of others" in first
    assert (
        "| A net, small (random) | here | 2.50 | 3 x 8 x 8 | 10 | 1 of 2 | believable | - | - | - |" in first
    )
    assert script.main(["--cells", str(tmp_path / "cells")]) == 0
    assert len(called) == 2 and (tmp_path / "page.md").read_text() == first
    assert capsys.readouterr().out.count("A net, small") == 2


def test_a_failure_is_told_and_the_others_go_on(script, called, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        script, "ROWS", (script.Row("one", "here", "broken"), script.Row("two", "here", "demo"))
    )
    assert script.main(["--cells", str(tmp_path / "cells")]) == 1
    told = capsys.readouterr()
    assert "one: error: expected a model specification" in told.err and "| two (random) |" in told.out
    assert script.main(["--cells", str(tmp_path / "cells"), "--only", "two"]) == 0
    assert len(called) == 3


def test_calibration_knows_the_images(script):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten())
    found = script.calibrated(model, 8)
    assert not found.training and found[1].momentum == 0.1
    assert not torch.equal(found[1].running_mean, torch.zeros(2))


def test_there_are_enough_rows_of_every_origin(script):
    origins = {row.origin for row in script.ROWS}
    assert len([row for row in script.ROWS if row.needs is None]) >= 12
    assert origins >= {"torchvision", "timm", "transformers", "torch.export", "checkpoint"}
    assert len({row.name for row in script.ROWS}) == len(script.ROWS)


@pytest.mark.slow
def test_the_command_says_what_is_wrong(script):
    with pytest.raises(RuntimeError, match="error: expected a model specification"):
        script.command(["models", "--check", "nothing"])
