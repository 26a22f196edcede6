import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from veridical.cli.explain import picture_names
from veridical.cli.main import app

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))

def explain(model, inputs, target=None):
    return inputs * 2.0

class Kind:
    pass

def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "tinymodule.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tinymodule", raising=False)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    generator = np.random.default_rng(0)
    for index in range(5):
        pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{index}.png")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def arguments(tmp_path, *more):
    return ("audit", "--model", "tinymodule:small", "--images", tmp_path / "photographs", "--methods",
            "gradient", "--tests", "random-logit", "--out", tmp_path / "run", *more)  # fmt: skip


def test_audit_ends_with_the_path_of_the_report(call, tmp_path):
    result = call(*arguments(tmp_path))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().splitlines()[-1] == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").is_file()
    assert "gradient" in result.stdout
    again = call("report", tmp_path / "run")
    assert again.exit_code == 0 and again.stdout.strip() == str(tmp_path / "run" / "report.html")


def test_gate_exits_by_its_policy(call, tmp_path):
    call(*arguments(tmp_path))
    policy = tmp_path / "policy.toml"
    text = 'name = "x"\n[tests.random-logit]\nstatistic = "median_ssim"\nthreshold = {}\nsource = "s"\n'
    policy.write_text(text.format("1.0"))
    passed = call("gate", tmp_path / "run", "--policy", policy)
    policy.write_text(text.format("-1.0"))
    failed = call("gate", tmp_path / "run", "--policy", policy)
    policy.write_text('methods = ["lrp-z"]\n' + text.format("1.0"))
    unknown = call("gate", tmp_path / "run", "--policy", policy)
    assert [passed.exit_code, failed.exit_code, unknown.exit_code] == [0, 1, 2], failed.output
    assert "FAIL gradient" in failed.stdout and "lrp-z" in unknown.stderr


def test_an_interrupt_exits_with_130_and_says_how_to_go_on(call, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("veridical.auditing.executor.measure", interrupted)
    result = call(*arguments(tmp_path))
    assert result.exit_code == 130 and "run the same command again" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "lrp-zpluss"), "did you mean lrp-zplus"),
        (("--methods", "tinymodule:explian"), "expected 'explian' in tinymodule, got no such name; it has"),
        (("--methods", "nomodule:explain"), "expected an importable module, got 'nomodule'"),
        (("--methods", "tinymodule:Kind"), "got the class Kind"),
        (("--tests", "random"), "random-logit"),
        (("--preset", "quik"), "did you mean quick"),
        (("--executor", "rays"), "did you mean ray"),
        (("--workers", "2"), "expected --workers only with --executor ray"),
        (("--memory-gib", "0"), "positive number of GiB"),
        (("--json",), "expected --json only with --plan"),
        (("--device", "abacus"), "abacus"),
        (("--policy", "/nowhere.toml"), "/nowhere.toml"),
        (("--images", "/nowhere"), "/nowhere"),
        (("--model", "tinymodule:nothing"), "nothing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(more, message, call, tmp_path):
    result = call(*arguments(tmp_path, *more))
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_directory_with_something_else_is_refused(call, tmp_path):
    result = call(*arguments(tmp_path, "--out", tmp_path / "photographs"))
    assert result.exit_code == 2 and "0.png" in result.stderr


def test_explain_writes_maps_and_pictures(call, tmp_path):
    result = call("explain", "--model", "tinymodule:small", "--images", tmp_path / "photographs",
                  "--methods", "gradient,lrp-zplus", "--out", tmp_path / "maps")  # fmt: skip
    assert result.exit_code == 0, result.output
    from veridical.records import read_arrays

    arrays, metadata = read_arrays(tmp_path / "maps" / "lrp-zplus.safetensors")
    assert arrays["relevance"].shape[:2] == (5, 3) and len(metadata["images"]) == 5
    assert metadata["pictures"] == [f"{index}.png" for index in range(5)]
    assert {file.name for file in (tmp_path / "maps" / "gradient").iterdir()} == set(metadata["pictures"])
    with Image.open(tmp_path / "maps" / "gradient" / "0.png") as picture:
        assert picture.size == arrays["relevance"].shape[:1:-1]


def test_explain_keeps_the_pictures_of_images_with_the_same_stem(call, tmp_path):
    photographs = tmp_path / "photographs"
    for name in ("0.jpg", "0.bmp", "0-2.png"):
        Image.open(photographs / "1.png").save(photographs / name)
    result = call("explain", "--model", "tinymodule:small", "--images", photographs, "--methods", "gradient",
                  "--out", tmp_path / "maps")  # fmt: skip
    assert result.exit_code == 0, result.output
    from veridical.records import read_arrays

    _, metadata = read_arrays(tmp_path / "maps" / "gradient.safetensors")
    assert metadata["images"][:4] == ["0-2.png", "0.bmp", "0.jpg", "0.png"]
    assert metadata["pictures"][:4] == ["0-2.png", "0.png", "0-3.png", "0-4.png"]
    assert len(list((tmp_path / "maps" / "gradient").iterdir())) == len(metadata["images"]) == 8


def test_names_of_pictures():
    assert picture_names(["astronaut.png"]) == ["astronaut.png"]
    assert picture_names(["a.png", "a.jpg", "A.gif", "b"]) == ["a.png", "a-2.png", "A-3.png", "b.png"]
    assert picture_names(["two words.v2.jpg", "x/y.png"]) == ["two_words.v2.png", "x_y.png"]


def test_a_method_is_also_a_callable_of_a_module(call, tmp_path):
    result = call(*arguments(tmp_path, "--methods", "gradient,tinymodule:explain"))
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(run["verdicts"]) == ["gradient", "explain"]
    assert run["methods"]["explain"]["options"] == "tinymodule.explain"
    result = call("explain", "--model", "tinymodule:small", "--images", tmp_path / "photographs",
                  "--methods", "tinymodule:explain", "--out", tmp_path / "maps")  # fmt: skip
    assert result.exit_code == 0 and (tmp_path / "maps" / "explain.safetensors").is_file()


@pytest.mark.parametrize(
    ("command", "name"), [("methods", "lrp-zplus"), ("tests", "random-logit"), ("models", "demo")]
)
def test_lists(command, name, call):
    assert name in call(command).stdout
    entries = json.loads(call(command, "--json").stdout)
    assert name in [entry["name"] for entry in entries] and all(entry["description"] for entry in entries)


def test_one_method_is_shown(call):
    shown = call("methods", "lrp-z")
    assert shown.exit_code == 0 and shown.stdout.startswith("## lrp-z\n")
    assert "| convolution, linear | R_in = x W^T (R / y)" in shown.stdout
    assert [entry["name"] for entry in json.loads(call("methods", "lrp-z", "--json").stdout)] == ["lrp-z"]
    wrong = call("methods", "lrp-zz")
    assert wrong.exit_code == 2 and "did you mean lrp-z" in wrong.stderr


def test_one_method_is_rendered_on_a_terminal(call, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = call("methods", "lrp-z").stdout
    assert "lrp-z" in shown and "| --- |" not in shown and "**Source.**" not in shown


def test_the_random_state_is_as_before(call, tmp_path):
    state = torch.get_rng_state()
    call(*arguments(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
