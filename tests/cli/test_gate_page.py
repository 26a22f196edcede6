"""The commands of docs/gate.md, taken from the page."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.runs import spread, store
from veridical.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
STEPS = dict(re.findall(r"- name: (\w+)\n(?:.*\n)?? +run: (.+)", PAGE))
METHODS = ("gradient", "integrated-gradients")


def runs_of(low, high):
    return {
        name: {"random-logit": spread(low, high, 24), "cascading-randomization": spread(low, high, 24)}
        for name in METHODS
    }


@pytest.fixture
def step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    store(tmp_path / "baseline", runs_of(0.2, 0.6))

    def run(name):
        words = shlex.split(STEPS[name])
        assert words[0] == "veridical"
        return CliRunner().invoke(app, words[1:])

    return run


def test_the_page_has_the_steps():
    assert set(STEPS) == {"audit", "gate", "compare", "keep"}


@pytest.mark.parametrize(
    ("low", "high", "gate", "compare"),
    [(0.2, 0.6, 0, 0), (0.3, 0.7, 0, 1), (0.95, 1.0, 1, 1), (0.1, 0.5, 0, 0)],
)
def test_the_steps_end_as_the_page_says(step, tmp_path, low, high, gate, compare):
    store(tmp_path / "run", runs_of(low, high))
    results = [step("gate"), step("compare")]
    assert [one.exit_code for one in results] == [gate, compare], results[0].output + results[1].output
    assert (tmp_path / "junit.xml").is_file() and (tmp_path / "comparison.html").is_file()
    assert ("::error" in results[0].stdout) == bool(gate)


def test_the_audit_of_the_page_takes_its_options(step):
    result = step("audit")
    # The options are known; module and photographs are the reader's own.
    assert result.exit_code == 2 and "No such option" not in result.output
