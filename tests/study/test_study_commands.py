import pytest
from typer.testing import CliRunner

from veridical.cli.main import app


def call(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def test_prepare_invite_and_analyze(tmp_path, sources):
    folder = tmp_path / "study"
    options = [text for name, path in sources.items() for text in (f"--{name}", path)]
    made = call("prepare", folder, *options, "--questions", 2)
    assert made.exit_code == 0, made.output
    assert "fractions: 10 pairs, 2 for each participant" in made.stdout
    links = call("invite", folder, "--count", 2, "--address", "http://10.0.0.1:80/").stdout.split()
    assert len(set(links)) == 2 and all(text.startswith("http://10.0.0.1:80/s/") for text in links)
    done = call("analyze", folder)
    assert done.exit_code == 0 and "2 invited, 0 gave answers" in done.stdout
    assert (folder / "analysis" / "analysis.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "here"), "material for a task"),
        (("prepare", "here", "--parts", "nowhere"), "nowhere"),
        (("prepare", "here", "--object", "nowhere", "--compare", "a"), "--compare A,B"),
        (("serve", "here"), "veridical study prepare"),
        (("invite", "here"), "veridical study prepare"),
        (("analyze", "here"), "veridical study prepare"),
    ],
)
def test_mistakes_are_one_line_and_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_serve_invites_the_first_and_stops_on_ctrl_c(folder, monkeypatch):
    seen = {}

    def serve_until_interrupted(server, poll_interval):
        seen["host"] = server.server_address[0]
        raise KeyboardInterrupt

    monkeypatch.setattr("veridical.study.StudyServer.serve_forever", serve_until_interrupted)
    result = call("serve", folder, "--port", 0)
    assert result.exit_code == 0 and seen["host"] == "127.0.0.1"
    assert "/s/" in result.stdout and "0 answers are stored" in result.stdout and result.stderr == ""
    again = call("serve", folder, "--port", 0, "--host", "0.0.0.0")
    assert "/s/" not in again.stdout and "unencrypted" in again.stderr


def test_a_port_in_use_is_one_line(folder, server):
    result = call("serve", folder, "--port", server.server_address[1])
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
