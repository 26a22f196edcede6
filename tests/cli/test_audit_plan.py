"""`veridical audit --plan`, the options of its executors, and images that are read when they are needed."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from veridical.cli.audit_work import duration, find_executor, storage
from veridical.cli.main import app

NETWORK = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "planmodule.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planmodule", raising=False)
    (tmp_path / "photographs").mkdir()
    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.png")
    (tmp_path / "photographs" / "broken.png").write_bytes(b"\x89PNG")

    def run(*more):
        fixed = ("audit", "--model", "planmodule:small", "--images", tmp_path / "photographs", "--methods",
                 "gradient,lrp-zplus", "--tests", "random-logit", "--out", tmp_path / "run")  # fmt: skip
        return CliRunner().invoke(app, [str(argument) for argument in (*fixed, *more)])

    return run


def test_the_plan_is_printed_and_nothing_written(call, tmp_path):
    result = call("--plan")
    assert result.exit_code == 0, result.output
    assert "2 tasks of at most 64 images, 0 done" in " ".join(result.stdout.split())
    assert "may be off by a factor of 3" in " ".join(result.stdout.split())
    assert not (tmp_path / "run").exists()


def test_the_plan_as_json_knows_what_is_done(call, monkeypatch):
    before = json.loads(call("--plan", "--json").stdout)
    assert (before["tasks"], before["done"], before["images_in_a_task"]) == (2, 0, 64)
    assert before["seconds"] >= 0 and before["bytes"] > 0 and before["probe"]["forward"] > 0
    assert [line["method"] for line in before["lines"]] == ["gradient", "lrp-zplus"]
    assert call().exit_code == 0
    after = json.loads(call("--plan", "--json").stdout)
    assert (after["tasks"], after["done"], after["seconds"]) == (2, 2, 0)


def test_photographs_are_read_again_for_the_work_and_not_kept(call, monkeypatch):
    from veridical.data.later import ReadLater

    read, plain = [], ReadLater.__getitem__

    def counted(self, index):
        if isinstance(index, int):
            read.append(index)
        return plain(self, index)

    monkeypatch.setattr(ReadLater, "__getitem__", counted)
    monkeypatch.setattr("veridical.auditing.chunks.MOST", 4)
    result = call("--limit", "6")
    assert result.exit_code == 0, result.output
    assert "skipped" in result.stderr or result.stderr == ""
    # One for the model, then three times each: looked at, explained, shown.
    assert len(read) == 1 + 3 * 6


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5.0 s"), (90, "1.5 min"), (7200, "2.0 h"), (86400, "1.0 d")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(500, "0.5 kB"), (2_000_000, "2.0 MB"), (3e9, "3.0 GB")])
def test_storage(count, text):
    assert storage(count) == text


def test_executors():
    assert repr(find_executor("local", None, None)) == "LocalExecutor()"
    assert "address='auto', workers=3" in repr(find_executor("ray", "auto", 3))
    with pytest.raises(ValueError, match="workers of at least 1"):
        find_executor("ray", None, 0)
    with pytest.raises(ValueError, match="--ray-address only with"):
        find_executor("local", "auto", None)
