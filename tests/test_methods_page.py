"""docs/methods.md is what the code says, every method has its whole entry, and a stale page is noticed."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from veridical.attributions import methods

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"


@pytest.fixture
def script():
    spec = spec_from_file_location("methods_page", ROOT / "scripts" / "methods_page.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current_and_nothing_is_lacking(script, capsys) -> None:
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_every_method_has_an_entry_and_a_line_in_the_index() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)$", text, flags=re.MULTILINE) == methods()
    assert re.findall(r"^\| \[(\S+)\]\(#\1\) \|", text, flags=re.MULTILINE) == methods()
    assert "Not written." not in text and " at 0x" not in text


def test_a_stale_page_is_an_error_that_says_what_to_do(script, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "methods.md")
    monkeypatch.setattr(script, "methods", lambda: ["gradient", "lrp-z"])
    assert script.main(["--check"]) == 1  # absent
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    script.PAGE.write_text(script.PAGE.read_text().replace("W^T", "W"))
    capsys.readouterr()
    assert script.main(["--check"]) == 1
    assert "docs/methods.md is not what the code says; run: python scripts/methods_page.py" in (
        capsys.readouterr().out
    )


def test_what_is_lacking_is_printed_and_fails(script, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "methods.md")
    monkeypatch.setattr(script, "methods", lambda: ["gradient", "lrp-z"])
    monkeypatch.setattr(script, "problems", lambda name: ["Shared: no section Peers"])
    assert script.main([]) == 1
    assert capsys.readouterr().out == "Shared: no section Peers\n2 methods, 1 problems\n"


def test_make_docs_checks_the_page() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndocs:")[1].split("\n\n")[0]
    assert "scripts/methods_page.py --check" in recipe
