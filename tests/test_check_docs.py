"""The check of the documentation finds what it is for; the documentation passes it."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_docs.py"


@pytest.fixture
def checker(tmp_path, monkeypatch):
    """The script, with an empty repository."""
    spec = spec_from_file_location("check_docs", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_the_documentation_passes():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    if "not a git repository" in done.stderr:
        pytest.skip("needs git to know which files belong to the project")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](other.md)", None),
        ("[a](other.md#two-words)", None),
        ("[a](https://example.org/x.md) and `[a](no.md)(`", "link no.md leads nowhere"),
        ("```\n[a](nowhere.md)\n```", None),
        ("[a](nowhere.md)", "link nowhere.md leads nowhere"),
        ("![a](nowhere.png)", "link nowhere.png leads nowhere"),
        ('<img alt="a" src="nowhere.png">', "link nowhere.png leads nowhere"),
        ("[a](other.md#three)", "link other.md#three names no heading of other.md"),
        ("[a](/other.md)", "absolute link /other.md; write it relative to the file"),
        ("[a](../../x.md)", "link ../../x.md leads out of the repository"),
        ("see " + "/home" + "/somebody/x", "path of a workplace: " + "/home" + "/somebody"),
    ],
)
def test_problems(checker, tmp_path, text, problem):
    (tmp_path / "other.md").write_text("# One\n\n## Two words\n")
    (tmp_path / "page.md").write_text(text)
    assert checker.problems(tmp_path / "page.md") == ([] if problem is None else [problem])
