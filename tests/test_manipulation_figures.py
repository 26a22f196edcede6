"""The script behind docs/attacked.md, on a tiny network: every figure, and no cell computed twice."""

import sys
import zipfile
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

from networks import seeded

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "attacked.md"


def network() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)
        ),
        dtype=torch.float32,
    )  # fmt: skip


def images(folder: Path, archive: str, count: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(len(archive))
    return 2 * torch.rand(count, 3, 8, 8, generator=source) - 1


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = spec_from_file_location("manipulation_figures", ROOT / "scripts" / "manipulation_figures.py")
    module = module_from_spec(spec)
    before, backend, threads = list(sys.path), mpl.get_backend(), torch.get_num_threads()
    spec.loader.exec_module(module)
    sys.path[:] = before
    monkeypatch.setattr(module, "PICTURES", tmp_path)
    monkeypatch.setattr(module, "cifar_images", images)
    module.classes = module.labels
    monkeypatch.setattr(module, "labels", lambda folder, count: torch.arange(count) % 4)
    monkeypatch.setattr(module, "trained_resnet20", lambda folder: network())
    monkeypatch.setattr(module, "FITTED_ON", 8)
    monkeypatch.setattr(module, "CHOSEN_ON", 4)
    monkeypatch.setattr(module, "COSTLY", 2)
    monkeypatch.setattr(module, "BETAS", (30.0, 3.0))
    quick = partial(module.RecoverySettings, noises=(0.02, 0.1), samples=2)
    monkeypatch.setattr(module, "RecoverySettings", quick)
    yield module
    mpl.use(backend)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


HEADS = {
    "undo": ("turned pairs that cross", "original, same smoothing", "| lrp-zplus | noise | plain |"),
    "robustness": ("farther than plain: PCC", "| gradient | SmoothGrad | 2 |", "| lrp-zplus | beta "),
    "growth": ("| gradient | none | 4 | refused: the derivative is exactly 0 |", "| lrp-zplus | none | 4 |"),
    "flipping": ("| random | 3 orders | 4 |", "| gradient | beta 1 | 4 |", "| pattern-attribution | plain |"),
}


@pytest.mark.parametrize("figure", HEADS)
def test_every_figure_is_drawn_and_its_cells_are_kept(script, tmp_path, capsys, monkeypatch, figure) -> None:
    command = [figure, "data", "--out", str(tmp_path / "cells"), "--pairs", "4", "--steps", "2"]
    assert script.main(command) == 0
    first = capsys.readouterr()
    assert all(words in first.out for words in HEADS[figure])
    assert (tmp_path / f"attacked-{figure}.png").stat().st_size > 1000
    kept = sorted(path.name for path in (tmp_path / "cells").iterdir())
    assert len(kept) == first.err.count("finished ") > 2
    for name in ("manipulate", "undo", "pixel_flipping", "choose_beta"):
        monkeypatch.delattr(script, name)
    assert script.main(command) == 0
    again = capsys.readouterr()
    assert again.out == first.out and again.err == ""


def test_the_classes_are_those_of_the_images(script, tmp_path) -> None:
    path = tmp_path / "cifar10" / "test.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for name in ("cat/0.jpg", "airplane/0.jpg", "airplane/1.jpg", "cat/1.jpg", "README.txt"):
            file.writestr(name, "")
    assert script.classes(tmp_path, 4).tolist() == [0, 0, 1, 1]
    assert script.classes(tmp_path, 2).tolist() == [0, 1]


def test_targets_are_maps_of_another_class(script) -> None:
    run = script.Run(Path("data"), Path("cells"), 24, 1, ("gradient",))
    shift = next(k for k in range(24) if torch.equal(run.clean.roll(-k, 0), run.others))
    assert shift * (10_000 // 24) > 1000


def test_the_page_names_every_command_and_shows_every_picture() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for figure in HEADS:
        assert f"scripts/manipulation_figures.py {figure} DATA" in page
        assert f"(attacked-{figure}.png)" in page
