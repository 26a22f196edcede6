"""Commands that read stored results start without torch."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.runs import POLICY, spread, store
from veridical.cli.main import COMMANDS, app

CODE = """
import sys
from veridical.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    loaded = sorted(name for name in ("torch", "matplotlib") if name in sys.modules)
    sys.exit(f"{end.code} {' '.join(loaded)}".strip())
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gate", "run", "--policy", "policy.toml"], "0"),
        (["compare", "run", "run", "--policy", "policy.toml", "--html", "page.html"], "0 matplotlib"),
        (["report", "run"], "0 matplotlib"),
        (["gate", "nowhere"], "2"),
        (["--version"], "0"),
    ],
)
def test_no_torch_is_loaded(tmp_path, words, expected):
    store(tmp_path / "run", {"good": {"random-logit": spread(0.2, 0.6), "pixel-flipping": spread(0.1, 0.3)}})
    (tmp_path / "policy.toml").write_text(POLICY.format(methods="[]"))
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().splitlines()[-1] == expected, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_found(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0 and result.stdout.startswith(f"Usage: root {name} ")


def test_an_unknown_command_is_answered_with_the_nearest_one():
    result = CliRunner().invoke(app, ["gaet"])
    assert result.exit_code == 2 and "'gate'" in result.output
