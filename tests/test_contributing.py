"""The worked example of CONTRIBUTING.md is done here, in a copy of the repository, and nothing else is."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import Tensor

from networks import NETWORKS, Sequential, images, seeded
from veridical.attributions import method
from veridical.rules import class_start, propagate, record

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE))
FILE = "src/veridical/attributions/gamma.py"
CATALOG = "src/veridical/attributions/__init__.py"
TABLE = "tests/attributions/test_properties.py"
NAME = "lrp-gamma"


def insert(path: Path, before: str, text: str) -> None:
    """Put text before the first place where a pattern is found."""
    old = path.read_text(encoding="utf-8")
    found = re.search(before, old, flags=re.MULTILINE)
    assert found, f"{path.name} has no {before}"
    path.write_text(old[: found.start()] + text + old[found.start() :], encoding="utf-8")


def snapshot(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def run(root: Path, *command: str) -> str:
    settings = os.environ | {"PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory):
    """The module of the example alone."""
    path = tmp_path_factory.mktemp("example") / "gamma.py"
    path.write_text(BLOCKS[FILE], encoding="utf-8")
    spec = spec_from_file_location("gamma_example", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A copy of the repository with the example's four changes; and what it held before."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("src/veridical", "tests/attributions", "scripts", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for name in ("pyproject.toml", "CHANGELOG.md", *(f"tests/{p.name}" for p in ROOT.glob("tests/*.py"))):
        shutil.copy(ROOT / name, root / name)
    before = snapshot(root)
    (root / FILE).write_text(BLOCKS[FILE], encoding="utf-8")
    imported, row = BLOCKS[CATALOG].split("\n\n")
    insert(root / CATALOG, r"^from veridical\.attributions\.gra", imported + "\n")
    insert(root / CATALOG, r'^    "lrp-z": ', row)
    insert(root / TABLE, r"(?<=^OPTIONS = \{)", BLOCKS[TABLE].strip() + ", ")
    insert(root / "CHANGELOG.md", r"(?<=^### Added\n\n)-", BLOCKS["CHANGELOG.md"])
    return root, before


def test_the_example_touches_four_places() -> None:
    assert set(BLOCKS) == {FILE, CATALOG, TABLE, "CHANGELOG.md"}
    lines = {name: len([line for line in text.splitlines() if line]) for name, text in BLOCKS.items()}
    assert lines.pop(FILE) <= 100 and lines == {CATALOG: 2, TABLE: 1, "CHANGELOG.md": 1}


def test_with_the_example_the_property_table_passes(changed) -> None:
    root, _ = changed
    output = run(root, "-m", "pytest", TABLE, "-k", f"{NAME} or forgotten", "-q", "-p", "no:cacheprovider")
    passed = int(re.search(r"(\d+) passed", output).group(1))
    assert passed >= 2 * len(NETWORKS) + 10


def test_with_the_example_nothing_but_the_generated_page_changes_by_itself(changed) -> None:
    root, before = changed
    run(root, "scripts/methods_page.py")
    after = snapshot(root)
    differing = {name for name in after if after[name] != before.get(name)}
    assert before.keys() <= after.keys() and differing == set(BLOCKS) | {"docs/methods.md"}
    entry = (
        (root / "docs" / "methods.md").read_text(encoding="utf-8").split(f"## {NAME}\n")[1].split("\n## ")[0]
    )
    assert "| convolution, linear | R_in = p (R / sum p), p = x w + 0.25 [x w]+" in entry
    assert "| `gamma` | `0.25` | at least 0;" in entry and "**Peers.** Zennit `Gamma`" in entry


def test_the_example_is_in_the_style_of_the_package(changed) -> None:
    pytest.importorskip("ruff", reason="needs ruff (make dev)")
    root, _ = changed
    run(root, "-m", "ruff", "check", "--no-cache", FILE)
    run(root, "-m", "ruff", "format", "--no-cache", "--check", FILE)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_the_example_at_gamma_zero_is_lrp_z(example) -> None:
    model, x = seeded(Sequential), images()
    assert relative_error(example.GammaLRP(gamma=0)(model, x, 1), method("lrp-z")(model, x, 1)) < 1e-10


def test_a_large_gamma_is_alpha1_beta0_where_the_output_is_positive(example) -> None:
    model, x = seeded(Sequential), images()
    trace = record(model, x)
    start = trace.operation("features.0").output.clamp(min=0).detach()[None]
    large, expected = (
        propagate(trace, explainer.rules, start, at="features.0").inputs
        for explainer in (example.GammaLRP(gamma=1e9), method("lrp-alpha1-beta0"))
    )
    assert relative_error(large, expected) < 1e-6


def test_the_example_conserves_relevance_without_biases(example) -> None:
    model, x = seeded(lambda: Sequential(bias=False)), images(4)
    trace = record(model, x)
    start = class_start(trace, torch.tensor([0, 1, 2, 3]), "value")
    result = propagate(trace, example.GammaLRP().rules, start, keep="all")
    for relevance in (result.inputs, *result.layers.values()):
        torch.testing.assert_close(relevance.flatten(2).sum(2), start.sum(2))


def test_the_example_refuses_a_negative_gamma(example) -> None:
    with pytest.raises(ValueError, match="expected gamma of 0 or more, got -1; try 0.25"):
        example.GammaLRP(gamma=-1)


@pytest.mark.peer
@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_the_example_equals_zennit(example, gamma: float) -> None:
    pytest.importorskip("torchvision", reason="needs torchvision, which Zennit imports (make peers)")
    rules = pytest.importorskip("zennit.rules", reason="needs zennit (make peers)")
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite
    from zennit.types import Activation, Linear

    model, x, target = seeded(Sequential), images(), torch.tensor([1, 2])
    composite = LayerMapComposite([(Activation, rules.Pass()), (Linear, rules.Gamma(gamma, 1e-12))])
    with Gradient(model, composite) as attributor:
        start = class_start(record(model, x), target, "value")[0]
        theirs = attributor(x.clone(), start)[1].detach()
    assert relative_error(example.GammaLRP(gamma)(model, x, target), theirs) < 1e-5
