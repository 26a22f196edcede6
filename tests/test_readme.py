"""The README's commands and code are what a newcomer runs first: they are run here."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import veridical as vd
from networks import Residual, images, seeded
from veridical.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split("#")[0].strip() for line in blocks("")[0].splitlines()]
    assert commands == ["make audit", "make test"]
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


def test_every_command_and_option_exists() -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("veridical ")]
    assert lines
    for line in lines:
        words = line.split("#")[0].split()
        result = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == 0
        plain = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
        for option in (word for word in words if word.startswith("--")):
            assert option in plain


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_code_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def my_function(model, inputs, target=None):
        return vd.method("gradient-x-input")(model, inputs, target)

    if "from_zennit" in code:
        pytest.importorskip("zennit", reason="needs zennit (make peers)")
    x = images(2, 16)
    target_maps = vd.saliency(images(2, 16, seed=9))
    names = {
        "model": seeded(Residual), "images": x, "target_maps": target_maps, "my_function": my_function,
        "loader": [images(24, 16, seed=4)],
    }  # fmt: skip
    exec(compile(code.replace("steps=150", "steps=3"), "README.md", "exec"), names)
    if "report" not in names:
        return
    assert names["relevance"].shape == x.shape
    assert set(names["report"].verdicts) == {"gradient", "lrp-zplus", "my_function"}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert torch.isfinite(names["result"].saliency).all()
