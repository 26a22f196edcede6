"""The command line: what is shown for which options, and mistakes in one line."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from veridical.cli.main import app
from veridical.explore import ExploreServer

MODEL = ("--model", "explore.viewed:Colors", "--port", 0)


@pytest.fixture
def served(monkeypatch):
    """Calls the command and keeps what the page would show, without waiting for requests."""
    seen = []

    def interrupted(server, poll_interval):
        seen.append(server)
        raise KeyboardInterrupt

    monkeypatch.setattr(ExploreServer, "serve_forever", interrupted)

    def call(*arguments):
        result = CliRunner().invoke(app, ["explore", *map(str, arguments)])
        return result, seen[-1] if seen else None

    return call


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, color in (("a.png", (200, 10, 10)), ("b.png", (10, 200, 10)), ("c.png", (10, 10, 200))):
        Image.new("RGB", (16, 12), color).save(folder / name)
    return folder


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.json"
    file.write_text('{"resize": 8, "crop": 8}')
    return ("--preprocessing", file)


def test_a_stored_run(served, run_directory):
    result, server = served(run_directory, "--port", 0)
    assert result.exit_code == 0 and server.link in result.stdout and "stopped" in result.stdout
    assert not server.start["live"] and server.server_address[0] == "127.0.0.1" and result.stderr == ""


def test_a_model_with_images(served, photographs, small):
    result, server = served(*MODEL, *small, "--images", photographs, "--methods", "gradient,lrp-zplus")
    assert result.exit_code == 0, result.output
    state = server.start
    assert state["live"] and [one["name"] for one in state["images"]] == ["a.png", "b.png", "c.png"]
    assert [one["classes"][0]["target"] for one in state["images"]] == [0, 1, 2]
    assert [one["name"] for one in state["methods"]] == ["gradient", "lrp-zplus"] and state["notes"] == []


def test_images_that_are_left_out_are_counted(served, photographs, small):
    result, server = served(*MODEL, *small, "--images", photographs, "--limit", 2)
    assert result.exit_code == 0, result.output
    assert len(server.start["images"]) == 2
    assert server.start["notes"] == ["2 of 3 images are shown; --limit sets how many."]
    assert len(server.start["methods"]) > 15


def test_a_run_with_its_model_is_live(served, run_directory, small):
    result, server = served(run_directory, *MODEL, *small)
    assert result.exit_code == 0, result.output
    state, notes = server.start, " ".join(server.start["notes"])
    assert state["live"] and [one["name"] for one in state["images"]] == ["0.png", "1.png", "2.png"]
    assert [one["name"] for one in state["methods"]] == ["gradient"] and "--methods: own" in notes
    assert "not those that were audited" in notes and "8 bits" in notes


def test_another_host_is_warned_about(served, run_directory):
    result, server = served(run_directory, "--port", 0, "--host", "0.0.0.0")
    assert result.exit_code == 0 and "reachable from the network" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected RUN_DIR or --model"),
        (("nowhere",), "veridical audit"),
        (("RUN", "--methods", "gradient"), "expected --model where --methods is given"),
        (("RUN", "--images", "x"), "expected --model where --images is given"),
        (("RUN", *MODEL), "expected photographs 3 x 224 x 224 for Colors, got a run with 3 x 8 x 8"),
        (("--model", "nothing"), "model specification"),
        ((*MODEL, "--methods", "gradent"), "gradient"),
        ((*MODEL, "--limit", "0"), "--limit"),
    ],
)
def test_mistakes_are_one_line_and_code_2(served, run_directory, arguments, words):
    result, server = served(*(run_directory if one == "RUN" else one for one in arguments))
    assert result.exit_code == 2 and server is None
    assert words in result.stderr and result.stderr.count("\n") == 1
