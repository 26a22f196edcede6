"""The script behind the tables on the attacks of Ghorbani et al., on a tiny network."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from networks import Residual, images, seeded

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    spec = spec_from_file_location("ghorbani_table", ROOT / "scripts" / "ghorbani_table.py")
    module = module_from_spec(spec)
    before = list(sys.path)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    subject = module.Subject(seeded(Residual).float(), images(4, 12).float(), ((-9.0,), (9.0,)), [])
    monkeypatch.setattr(module, "SUBJECTS", {"tiny": lambda *_: subject})
    yield module
    torch.set_flush_denormal(False)
    del sys.modules[spec.name]


def test_both_tables_are_printed_and_nothing_is_measured_twice(script, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["table", "nowhere", "--out", str(tmp_path), "--steps", "3", "--pairs", "4"]
    )
    script.main()
    first = capsys.readouterr().out
    compared, attacks = (part.splitlines() for part in first.strip().split("\n\n"))
    assert [line.split(" | ")[1] for line in compared[2:]] == [
        "PCC to target before",
        "PCC to target",
        "change of the winning class's probability, magnitude",
        "largest change of a value",
        "PSNR, dB",
        "class kept",
    ]
    assert [line.split(" | ")[1] for line in attacks[2:]] == ["region", "top-k", "mass-center"]
    assert len(list(tmp_path.glob("ghorbani--tiny--4--3--*.safetensors"))) == 3
    monkeypatch.setattr(script, "ghorbani", None)
    monkeypatch.setattr(script, "compare_with_ghorbani", None)
    script.main()
    assert capsys.readouterr().out == first


def test_what_each_attack_drives_goes_its_way(script) -> None:
    subject = script.SUBJECTS["tiny"]()
    region = script.compared(subject, 8)
    assert region["after"].mean() > region["before"].mean()
    assert region["ours-pcc_to_target"].mean() > region["ours-pcc_before"].mean()
    assert (
        script.unaimed(subject, 8, "top-k")["after"].mean()
        < 0.9 * script.unaimed(subject, 8, "top-k")["before"].mean()
    )
    assert script.unaimed(subject, 8, "mass-center")["after"].mean() > 0.01
