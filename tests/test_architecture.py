"""The import graph is part of the design: a folder may import only what its row allows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOT = REPOSITORY / "src" / "veridical"
LEAVES = {"values", "tensors", "checks", "records", "names"}
TORCH_FREE = {"records", "names", "report", "verdicts"}
MAY_IMPORT = {
    "records": set(),
    "names": set(),
    "values": set(),
    "tensors": set(),
    "checks": {"values", "names"},
    "metrics": set(),
    "verdicts": {"records", "names"},
    "data": set(),
    "models": set(),
    "training": {"metrics"},
    "smoothing": set(),
    "adapters": set(),
    "rules": set(),
    "attributions": {"rules", "smoothing"},
    "attacks": {"metrics", "smoothing"},
    "faithfulness": {"rules", "metrics"},
    "manifold": {"metrics", "training"},
    "geometry": {"rules", "smoothing", "metrics"},
    "auditing": {
        "attributions", "rules", "smoothing", "attacks", "faithfulness", "geometry", "manifold", "metrics",
        "training", "verdicts",
    },
    "report": {"records", "verdicts"},
    "serving": set(),
    "study": {"manifold", "serving"},
    "explore": {"auditing", "attacks", "smoothing", "report", "serving"},
    "reproduce": {
        "attributions", "smoothing", "attacks", "faithfulness", "geometry", "manifold", "metrics", "auditing",
    },
    "cli": {
        "auditing", "verdicts", "report", "models", "data", "training", "study", "manifold", "explore",
        "serving", "reproduce",
    },
    "api": {
        "attributions", "rules", "smoothing", "attacks", "faithfulness", "manifold", "geometry", "metrics",
        "auditing", "report", "models", "data", "adapters",
    },
}  # fmt: skip
# Not layers: what the package offers, and `python -m veridical`.
ENTRANCES = {"__init__", "__main__"}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in ENTRANCES)
LONGEST_FILE, LONGEST_FUNCTION = 400, 40


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def identity(path: Path) -> str:
    return str(path.relative_to(ROOT))


def allowed_for(folder: str) -> set[str]:
    leaves = set() if folder in LEAVES | TORCH_FREE else LEAVES
    return MAY_IMPORT[folder] | {folder} | leaves


def imported_folders(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{identity(path)}:{node.lineno} relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        # "import veridical" itself has no second part: the whole public surface, which lies above everything.
        found |= {(name.split(".") + ["api"])[1] for name in names if name.split(".")[0] == "veridical"}
    return found - {"__version__"}


def code_lines(function: ast.AST, source: list[str]) -> int:
    """Lines with code: without the signature, the docstring, comments and blank lines."""
    body = function.body
    documented = isinstance(body[0], ast.Expr) and isinstance(getattr(body[0], "value", None), ast.Constant)
    first = body[0].end_lineno if documented else body[0].lineno - 1
    lines = (line.strip() for line in source[first : function.end_lineno])
    return sum(1 for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_imports_point_down(path):
    folder = folder_of(path)
    assert folder in MAY_IMPORT, f"{folder} is no layer; put the file into one of {sorted(MAY_IMPORT)}"
    extra = imported_folders(path) - allowed_for(folder)
    assert not extra, f"{identity(path)} imports {sorted(extra)}; allowed: {sorted(allowed_for(folder))}"


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    source = text.splitlines()
    assert len(source) <= LONGEST_FILE, f"{identity(path)} has {len(source)} lines; split it by subject"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = code_lines(node, source)
            assert length <= LONGEST_FUNCTION, f"{identity(path)}: {node.name} has {length} lines of code"


@pytest.mark.parametrize("path", [p for p in FILES if folder_of(p) in TORCH_FREE], ids=identity)
def test_reports_name_no_torch(path):
    assert not re.search(r"^\s*(import|from) torch\b", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("folder", sorted(TORCH_FREE))
def test_reports_load_no_torch(folder):
    code = f"import sys, veridical.{folder}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_itself_loads_no_torch():
    code = "import sys, veridical; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_table_is_complete():
    assert {folder_of(path) for path in FILES} == set(MAY_IMPORT)


def test_the_table_has_no_cycle():
    done, todo = set(), dict(MAY_IMPORT)
    while todo:
        ready = {folder for folder, below in todo.items() if below <= done}
        assert ready, f"cycle among {sorted(todo)}"
        done |= ready
        todo = {folder: below for folder, below in todo.items() if folder not in ready}


def documented_table() -> dict[str, set[str]]:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    return {folder: set(re.findall(r"`(\w+)`", below)) for folder, below in rows}


def test_the_documentation_shows_this_table():
    assert documented_table() == MAY_IMPORT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from veridical.attacks.loop import run", {"attacks"}),
        ("import veridical.rules", {"rules"}),
        ("from veridical import rules, values", {"rules", "values"}),
        ("import veridical", {"api"}),
        ("from veridical import __version__", set()),
        ("import torch", set()),
        ("def f():\n    from veridical.auditing import run", {"auditing"}),
    ],
)
def test_the_test_sees_every_form_of_import(text, expected, tmp_path):
    file = tmp_path / "example.py"
    file.write_text(text)
    assert imported_folders(file) == expected
