"""The script behind the first tables of docs/attacked.md, on a tiny network."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from networks import Residual, images, seeded
from veridical.attributions import method
from veridical.smoothing import beta_smooth

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    spec = spec_from_file_location("manipulation_table", ROOT / "scripts" / "manipulation_table.py")
    module = module_from_spec(spec)
    before = list(sys.path)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    model, x = seeded(Residual).float(), images(4, 12).float()
    gradient = method("gradient")
    cells = [
        module.Cell("gradient", "plain", gradient, 4),
        module.Cell("gradient", "beta 1", beta_smooth(gradient, 1.0), 2),
        module.Cell("gradient", "beta 1, same change", beta_smooth(gradient, 1.0), 2, True),
        module.Cell(
            "gradient", "beta 1, same change and target", beta_smooth(gradient, 1.0), 2, True, gradient
        ),
    ]
    subject = module.Subject(model, x, ((-9.0,), (9.0,)), cells)
    small = module.Subject(model, x[:2], ((-9.0,), (9.0,)), [replace(one, pairs=2) for one in cells[:2]])
    loaded = {"first": lambda *_: subject, "second": lambda *_: small}
    monkeypatch.setattr(module, "SUBJECTS", loaded)
    yield module
    torch.set_flush_denormal(False)
    del sys.modules[spec.name]


def test_every_cell_is_kept_and_the_tables_of_both_networks_are_printed(
    script, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["table", "nowhere", "--out", str(tmp_path), "--steps", "2", "--pairs", "4"]
    )
    script.main()
    first = capsys.readouterr().out
    lines = first.splitlines()
    assert lines[0] == "first"
    assert lines[4].startswith("| gradient | plain | 4 |") and lines[5].startswith(
        "| gradient | beta 1 | 2 |"
    )
    withstands = next(line for line in lines if line.startswith("| gradient | beta 1, same change | 0."))
    assert withstands.count("%") == 15
    assert lines[lines.index("second") + 4].startswith("| gradient | plain | 2 |")
    assert len(list(tmp_path.glob("first--*--4--2.safetensors"))) == 4
    assert len(list(tmp_path.glob("second--*--2--2.safetensors"))) == 2
    monkeypatch.setattr(script, "manipulate", None)  # what is finished is not attacked again
    script.main()
    assert capsys.readouterr().out == first


def test_a_bounded_attack_changes_no_image_more_than_the_plain_one(script) -> None:
    subject = script.SUBJECTS["first"](None, 4, 1.0)
    plain, smooth, bounded, aimed = subject.cells
    free = script.attack(subject, plain, 5)
    limit = script.some(free, 2)["l2"]
    found = script.attack(subject, bounded, 5, limit)
    assert bool((found["l2"] <= limit * (1 + 1e-5)).all())
    assert bool((script.attack(subject, smooth, 5)["l2"] > limit).any())
    before = free["pcc_before"][::2], found["pcc_before"]
    assert not torch.allclose(*before)  # another method, another target and another original
    own = script.attack(subject, aimed, 5, limit)["pcc_before"]
    assert not torch.allclose(own, found["pcc_before"])


def test_smoothgrad_is_measured_under_noise_that_was_not_attacked(script) -> None:
    subject = script.SUBJECTS["first"](None, 4, 1.0)
    _, other, redrawn = (replace(one, pairs=2) for one in script.noisy("gradient", method("gradient")))
    known = replace(other, judge=None)
    found = [script.attack(subject, one, 5) for one in (known, other, redrawn)]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    # The same attack: the images are the same, their maps under other noise are not.
    assert torch.equal(found[0]["l2"], found[1]["l2"])
    assert not torch.allclose(found[0]["pcc_to_target"], found[1]["pcc_to_target"])
    assert not torch.allclose(found[2]["l2"], found[1]["l2"]) and redrawn.explainer.calls >= 5
    assert torch.equal(found[2]["pcc_before"], found[1]["pcc_before"])


def test_the_way_and_who_withstands(script) -> None:
    def found(before, after, original):
        values = {
            "pcc_before": before,
            "pcc_to_target": after,
            "pcc_to_original": original,
            "ssim_to_target": before,
            "mse_to_target": after,
            "psnr": [30.0] * 2,
        }
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    plain = found([0.0, 0.5], [0.8, 1.0], [0.1, 0.1])
    robust = found([0.9, 0.8], [0.92, 0.9], [0.9, 0.05])
    assert script.way(plain).tolist() == pytest.approx([0.8, 1.0])
    assert script.way(robust).tolist() == pytest.approx([0.2, 0.5])
    ways, shares = script.withstands(plain, robust)[:2], script.withstands(plain, robust)[2:]
    assert ways == ["0.90", "0.35"]
    assert [share.split("%")[0] for share in shares] == ["50", "0", "50", "100", "50"]
