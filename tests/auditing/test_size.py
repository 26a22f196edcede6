"""What a plan says of the bytes of an audit, against what an audit stores."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from veridical.auditing import PRESETS, audit, cost, plan_audit
from veridical.auditing.size import Lines, file_bytes, lines_of, measured_on

TESTS = [
    "random-logit", "cascading-randomization", "pixel-flipping", "cosine-convergence", "manipulation",
    "curvature", "infidelity", "sensitivity",
]  # fmt: skip


@pytest.fixture
def planned(network, images, tmp_path, monkeypatch):
    """The plan of an audit of all tests and two methods, and its run directory."""
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], manipulation_steps=5))
    options = {"methods": ["gradient", "lrp-zplus"], "tests": TESTS, "names": [f"{i}.png" for i in range(5)]}
    plan = plan_audit(network, images, **options)
    audit(network, images, out=tmp_path / "run", **options)
    return plan, tmp_path / "run"


def test_lines_and_bytes_are_those_of_an_audit(planned):
    plan, run = planned
    record = json.loads((run / "run.json").read_text())
    for line in plan.lines:
        settings = dict(record["tests"][line.test]["settings"])
        if line.test == "cascading-randomization":
            settings["steps"] = plan.network.units
        lines = lines_of(line.test, settings, plan.network)
        file = run / "tasks" / f"{line.test}--{line.method}.json"
        rows = json.loads(file.read_text())["rows"]
        named = sum(not row["kind"] for row in rows)
        assert (lines.named + lines.named_flags, lines.by_image) == (named, len(rows)), line.test
        guess = file_bytes(lines, line.images, plan.network)
        assert guess == pytest.approx(file.stat().st_size, rel=0.3), line.test
    files = [one for one in run.rglob("*") if one.is_file() and one.name not in ("run.json", "report.html")]
    assert plan.bytes == pytest.approx(sum(one.stat().st_size for one in files), rel=0.3)


def test_a_task_on_many_images_grows_by_their_values(network, tmp_path):
    images = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options = {"methods": ["gradient"], "tests": ["cosine-convergence"], "preset": "thorough"}
    plan = plan_audit(network, images, **options)
    audit(network, images, out=tmp_path / "run", **options)
    (file,) = (tmp_path / "run" / "tasks").glob("cosine-convergence*.json")
    lines = lines_of("cosine-convergence", {}, plan.network)
    assert file_bytes(lines, 40, plan.network) == pytest.approx(file.stat().st_size, rel=0.3)


def test_a_deeper_network_stores_more(images):
    def layers(count):
        blocks = [part for _ in range(count) for part in (nn.Conv2d(3, 3, 1), nn.ReLU())]
        model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(432, 2)).double().eval()
        return measured_on(model, images[:1], ("a",), {"cosine-convergence", "cascading-randomization"})

    assert (layers(2).layers, layers(2).units) == (4, 3)
    assert (layers(5).layers, layers(5).units) == (7, 6)


def test_a_network_that_cannot_be_recorded_is_planned_all_the_same(images):
    class Hidden(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 2, dtype=x.dtype) + x.detach().mean()

    found = measured_on(Hidden().eval(), images[:1], ("a",), {"cosine-convergence"})
    assert found.layers == 0
    assert lines_of("cosine-convergence", {}, found) == Lines(0, 0, 0, 13)


def test_what_is_not_planned_is_not_looked_at(images):
    found = measured_on(nn.Identity(), images[:1], ("a",), {"random-logit"})
    assert (found.layers, found.units, found.channels, found.pixels) == (0, 0, 3, 144)


def test_steps_that_the_network_does_not_have_are_not_planned(network, images):
    plan = plan_audit(network, images, methods=["gradient"], tests=["cascading-randomization"])
    assert plan.lines[0].passes == 5 * 3 * cost.FORWARD_PASSES["gradient"]
