"""The script behind docs/convergence.md: the page holds what it prints."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest

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
