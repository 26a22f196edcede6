"""The table of methods and networks: how it is made, and that the committed page still tells the truth."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from networks_users import SUBJECTS
from veridical.attributions import methods

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("coverage_table", ROOT / "scripts" / "coverage_table.py")
    module = module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def committed() -> dict[str, dict[str, str]]:
    """Network to method to the text of the cell."""
    cells: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").splitlines():
        row = [part.strip() for part in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif row[0] == "method":
            columns = row[1:]
        elif columns and row[0] != "---":
            for network, cell in zip(columns, row[1:], strict=True):
                cells.setdefault(network, {})[row[0]] = cell
    return cells


def test_the_page_has_every_method_and_every_network() -> None:
    cells = committed()
    assert list(cells) == list(SUBJECTS)
    assert all(list(column) == methods() for column in cells.values()), "run make table"


def test_the_page_counts_what_it_shows() -> None:
    cells = [cell for column in committed().values() for cell in column.values()]
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    working = cells.count("yes")
    assert f"{working} of {len(cells)} cells work: {working / len(cells):.1%}." in text
    assert working >= 0.95 * len(cells)
    for number in {cell for cell in cells if cell != "yes"}:
        assert re.search(rf"^{number.strip('()')}\. \S", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("network", ["LeNet (MNIST)", "CIFAR ResNet-20", "Hugging Face ViT"])
def test_two_columns_and_one_more_are_as_committed(script, network: str) -> None:
    pytest.importorskip("transformers", reason="needs transformers (make peers)")
    measured = script.measure(SUBJECTS[network], methods())
    shown = committed()[network]
    assert {name: cell.works for name, cell in measured.items()} == {
        name: cell == "yes" for name, cell in shown.items()
    }


@pytest.mark.parametrize(
    ("relevance", "reason"),
    [
        (torch.ones(2, 3, 4, 4), ""),
        (torch.ones(2, 1, 4, 4), "shape (2, 1, 4, 4)"),
        (torch.full((2, 3, 4, 4), float("nan")), "not finite"),
        (torch.cat([torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)]), "of zeros"),
    ],
)
def test_a_relevance_is_judged(script, relevance, reason: str) -> None:
    cell = script.judge(relevance, torch.zeros(2, 3, 4, 4))
    assert cell.works == (not reason) and reason in cell.reason


def test_reasons_are_numbered_once(script) -> None:
    bad, good = script.Cell(False, "why"), script.Cell(True)
    notes: list[str] = []
    text = script.table(
        {"a": {"m": bad, "n": good}, "b": {"m": bad, "n": script.Cell(False, "other")}}, notes
    )
    assert notes == ["why", "other"]
    assert text.splitlines()[2:] == ["| m | (1) | (1) |", "| n | yes | (2) |"]


def test_a_refusal_is_a_cell_with_its_reason(script) -> None:
    class Silent(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.logcumsumexp(x.flatten(1), 1)[:, :3]

    class Subject:
        def module(self) -> torch.nn.Module:
            return Silent().eval()

        def images(self, count: int = 2, seed: int = 1) -> torch.Tensor:
            return torch.ones(count, 3, 4, 4)

    cells = script.measure(Subject(), ["gradient", "guided-backprop"])
    assert cells["gradient"].works
    assert cells["guided-backprop"].reason.startswith("refused: expected operations that guided-backprop")
