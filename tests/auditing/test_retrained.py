"""Remove and retrain in the audit: what is read, what is left out, and everything that is refused."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from veridical.attributions import method as find_method
from veridical.auditing import audit, plan_audit
from veridical.auditing.size import lines_of, measured_on
from veridical.faithfulness import RoarData, read_roar, roar
from veridical.records import read_run, read_scores
from veridical.report import render

SHARES = (0.1, 0.5)
METHODS = ("gradient", "lrp-zplus")


class Guess(nn.Module):
    """Right on as many of the ten test images as it was told; the images say which one they are."""

    def __init__(self, right):
        super().__init__()
        self.right, self.seen = right, 0

    def forward(self, images):
        places = torch.arange(len(images)) + self.seen
        self.seen += len(images)
        own = places % 2
        return nn.functional.one_hot(torch.where(places < self.right, own, 1 - own), 5).double()


@dataclass
class Training:
    """Networks that are right on 6 to 9 images, as the pixels and the seed have it; with fewer it fails."""

    least: int = 6

    def __call__(self, images, labels, seed):
        right = 6 + (int(1e5 * images.abs().mean()) + seed**2) % 4
        if right < self.least:
            raise FloatingPointError("a loss of nan")
        return Guess(right)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(30, 3, 12, 12, generator=generator, dtype=torch.float64)
    return RoarData(images[:20], torch.arange(20) % 2, images[20:], torch.arange(10) % 2)


@pytest.fixture
def retrain(network, data, tmp_path):
    """Stores an experiment; returns its folder and its result."""

    def run(methods=METHODS, folder="roar", **changes):
        train = changes.pop("train", Training())
        chosen = {"shares": SHARES, "repetitions": 3, **changes}
        explainers = methods if isinstance(methods, dict) else {one: find_method(one) for one in methods}
        place = tmp_path / folder
        return place, roar(network, data, explainers, train, folder=place, **chosen)

    return run


def audited(network, images, folder, methods=METHODS, tests=("roar",), **options):
    return audit(network, images, methods=list(methods), tests=list(tests), roar=folder, **options)


def rows_of(report, method, statistic):
    return [one for one in report.scores if (one.method, one.statistic) == (method, statistic)]


@pytest.mark.parametrize("least", [6, 7])
def test_rows_are_those_of_the_experiment(network, images, retrain, least):
    folder, found = retrain(train=Training(least))
    assert bool(found.failures) == (least == 7)
    report = audited(network, images, folder)
    tables = {row["method"]: row for row in found.table(level=0.99)}
    for method in METHODS:
        for statistic, key in (("roar", method), ("random", "random"), ("edges", "edges")):
            rows = rows_of(report, method, f"mean_{statistic}_accuracy")
            assert [row.layer for row in rows] == ["0%", "10%", "50%"]
            for row, share, mean in zip(rows, ("0", "0.1", "0.5"), found.mean(key, level=0.99), strict=True):
                told = [tables[key][share + end] for end in ("", " low", " high")]
                assert [row.value, row.ci_low, row.ci_high] == pytest.approx(told, nan_ok=True)
                assert row.n == mean.n and row.image == ""
        for statistic, key in (("roar", method), ("edges", "edges")):
            (row,) = rows_of(report, method, f"mean_{statistic}_margin")
            margin = found.margin(key, level=0.99)
            assert [row.value, row.ci_low, row.ci_high] == pytest.approx(
                [margin.estimate, margin.low, margin.high], nan_ok=True
            )
            assert row.n == margin.n and row.layer == ""
    assert not rows_of(report, METHODS[0], "mean_random_margin")


def test_settings_say_what_was_measured(network, images, retrain):
    folder, found = retrain(edges=False, seed=4)
    settings = audited(network, images, folder).run.tests["roar"].settings
    assert settings["shares"] == [0, *SHARES] and settings["repetitions"] == 3 and settings["order"] == "most"
    assert settings["controls"] == ["random"] and settings["seed"] == 4 and settings["test_images"] == 10
    assert settings["chance"] == found.chance == 0.5
    told = json.loads((folder / "roar.json").read_text())
    assert settings["data"] == told["data"] and settings["train"] == told["train"]
    assert not [one for one in audited(network, images, folder).scores if "edges" in one.statistic]


def test_the_interval_of_the_verdict_is_students_at_its_own_level(network, images, retrain):
    folder, found = retrain(repetitions=4)
    report = audited(network, images, folder)
    for method in METHODS:
        (evidence,) = report.verdicts[method].evidence
        # Two questions in the family; both open, or one decided.
        assert evidence.level in (pytest.approx(0.995), pytest.approx(0.99))
        exact = found.margin(method, level=evidence.level)
        assert (evidence.ci_low, evidence.ci_high) == pytest.approx((exact.low, exact.high))
        assert (evidence.statistic, evidence.threshold, evidence.n) == ("mean_roar_margin", 0.0, 4)
        assert "advisory" in evidence.note and "Student's over 4 trainings" in evidence.note
        assert "images" not in evidence.note and "Hooker" in evidence.source


def test_two_trainings_decide_nothing(network, images, retrain):
    folder, _ = retrain(repetitions=2)
    (evidence,) = audited(network, images, folder, ["gradient"]).verdicts["gradient"].evidence
    assert evidence.passed is None and "needs 3 trainings, has 2" in evidence.note
    assert evidence.needed == 3


def test_a_single_training_has_no_interval_and_a_page(network, images, retrain, tmp_path):
    folder, _ = retrain(repetitions=1)
    report = audited(network, images, folder, out=tmp_path / "run", render=render)
    (row,) = rows_of(report, "gradient", "mean_roar_margin")
    assert row.n == 1 and math.isnan(row.ci_low)
    assert "As networks are trained again" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_verdicts_stay_and_other_tests_too(network, images, retrain):
    folder, _ = retrain()
    tests = ["random-logit", "cascading-randomization", "cosine-convergence"]
    plain = audit(network, images, methods=list(METHODS), tests=tests)
    more = audited(network, images, folder, tests=[*tests, "roar"])
    for method in METHODS:
        before, after = plain.verdicts[method], more.verdicts[method]
        assert (before.verdict, before.reason) == (after.verdict, after.reason)
        assert before.evidence == [one for one in after.evidence if one.test != "roar"]
    kept = [repr(one) for one in more.scores if one.test != "roar"]
    assert kept == [repr(one) for one in plain.scores]


def test_a_run_is_resumed_and_other_trainings_are_another_configuration(network, images, retrain, tmp_path):
    folder, _ = retrain()
    first = audited(network, images, folder, out=tmp_path / "run", render=render)
    assert [repr(one) for one in read_scores(tmp_path / "run")] == [repr(one) for one in first.scores]
    told = []
    folder.rename(tmp_path / "moved")
    audited(network, images, tmp_path / "moved", out=tmp_path / "run", progress=told.append)
    assert {one.state for one in told} == {"reused"} and len(told) == 2
    told.clear()
    audited(network, images, tmp_path / "moved", METHODS[::-1], out=tmp_path / "run", progress=told.append)
    assert {one.state for one in told} == {"reused"} and len(told) == 2
    cell = next((tmp_path / "moved" / "cells").glob("lrp-zplus*"))
    content = json.loads(cell.read_text())
    cell.write_text(json.dumps({**content, "correct": content["correct"] - 1}))
    with pytest.raises(ValueError, match="another one: tests"):
        audited(network, images, tmp_path / "moved", out=tmp_path / "run")


def test_the_page_has_the_test_its_evidence_and_its_curves(network, images, retrain, tmp_path):
    folder, _ = retrain()
    audited(network, images, folder, out=tmp_path / "run", render=render)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert text.count("As networks are trained again without pixels") == 2
    assert "Mean accuracy with 50 % of the pixels removed:" in text and "edges first" in text
    assert "Remove and retrain" in text and "arxiv.org/abs/1806.10758" in text
    assert "mean gain over random removal after retraining" in text


def test_the_plan_counts_bytes_and_no_seconds(network, images, retrain, tmp_path):
    folder, _ = retrain()
    options = {"methods": list(METHODS), "tests": ["roar"], "roar": folder}
    plan = plan_audit(network, images, **options)
    assert plan.seconds == 0 and [one.images for one in plan.lines] == [0, 0]
    audit(network, images, out=tmp_path / "run", **options)
    for line in plan.lines:
        files = [tmp_path / "run" / "tasks" / f"roar--{line.method}.json"]
        assert line.bytes == pytest.approx(sum(one.stat().st_size for one in files), rel=0.3)
    looked = measured_on(network, images[:1], ("a",), {"roar"})
    fewer, more = (
        lines_of("roar", {"shares": [0, 0.5], "controls": controls}, looked)
        for controls in (["random"], ["random", "edges"])
    )
    assert fewer.by_image < more.by_image


def reasons(report):
    assert all(one.test == "roar" and not one.applies for one in report.run.skipped)
    return {one.method: one.reason for one in report.run.skipped}


def test_methods_that_the_folder_does_not_have_so_are_left_out(network, images, retrain):
    folder, _ = retrain(["gradient", "smoothgrad"])
    next((folder / "cells").glob("smoothgrad*-0.5-1.json")).unlink()
    chosen = {
        "gradient": find_method("gradient"),
        "smoothgrad": find_method("smoothgrad"),
        "lrp-zplus": find_method("lrp-zplus"),
    }
    report = audit(network, images, methods=chosen, tests=["roar"], roar=folder)
    assert {one.method for one in report.scores} == {"gradient"}
    found = reasons(report)
    assert set(found) == {"smoothgrad", "lrp-zplus"}
    assert "lacks 1 of its trainings" in found["smoothgrad"] and "train these" in found["smoothgrad"]
    assert "has gradient, smoothgrad, not this one" in found["lrp-zplus"]
    # The quick preset takes fewer samples than the experiment did.
    other = reasons(audited(network, images, folder, ["gradient", "smoothgrad"]))
    assert (
        "has it with other options: SmoothGrad(" in other["smoothgrad"]
        and "samples=10" in other["smoothgrad"]
    )


def test_without_the_order_that_is_judged_a_method_is_left_out(network, images, retrain):
    folder, found = retrain(["gradient"], order="least")
    assert read_roar(folder).roar.accuracy == found.accuracy
    report = audited(network, images, folder, ["gradient"])
    assert "none without its most relevant pixels" in reasons(report)["gradient"]
    assert not report.scores and report.verdicts["gradient"].verdict == "not decided"


def test_without_a_folder_the_test_is_left_out_and_the_reason_says_how_to_get_one(network, images):
    report = audit(network, images, methods=["gradient"], tests=["random-logit", "tangent-space", "roar"])
    assert list(report.run.tests) == ["random-logit"]
    assert [(one.method, one.test, one.applies) for one in report.run.skipped] == [
        ("", "tangent-space", False), ("", "roar", False),
    ]  # fmt: skip
    assert "vd.roar(" in report.run.skipped[1].reason and "--roar" in report.run.skipped[1].reason
    with pytest.raises(ValueError, match="a folder of retrained networks for the test roar: no folder"):
        audit(network, images, methods=["gradient"], tests=["roar"])


def test_what_does_not_fit_is_refused_before_any_work(network, images, retrain, tmp_path):
    folder, _ = retrain(["gradient"])
    with pytest.raises(ValueError, match="test roar where a folder of retrained networks is given"):
        audited(network, images, folder, tests=["random-logit"], out=tmp_path / "run")
    with torch.no_grad():
        network[-1].bias += 1
    for ask in (audit, plan_audit):
        with pytest.raises(ValueError, match="expected the network of .*roar .*call vd.roar with"):
            ask(network, images, methods=["gradient"], tests=["roar"], roar=folder, out=tmp_path / "run")
    with pytest.raises(ValueError, match="expected a folder of vd.roar, got .*nowhere"):
        audited(network, images, tmp_path / "nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_the_option_is_the_run_that_it_was(network, images, retrain, tmp_path):
    options = {"methods": ["gradient"], "tests": ["random-logit", "roar"], "out": tmp_path / "run"}
    audit(network, images, **options)
    assert "roar" not in read_run(tmp_path / "run").settings["configuration"]["tests"]
    with pytest.raises(ValueError, match="another one: tests"):
        audit(network, images, roar=retrain(["gradient"])[0], **options)


def test_trainings_of_several_networks_are_not_compared_by_image(network, images, retrain, tmp_path):
    from veridical.verdicts import compare_runs, load_policy, read_stored

    for name, least in (("one", 6), ("two", 7)):
        folder, _ = retrain(folder=f"roar-{name}", train=Training(least))
        tests = ["random-logit", "roar"]
        audited(network, images, folder, tests=tests, out=tmp_path / name)
    (found,) = compare_runs(read_stored([tmp_path / "one", tmp_path / "two"]), load_policy())
    changes = {(one.method, one.test): one for one in found.changes}
    assert changes["gradient", "roar"].direction == "not decided"
    assert "no values by image" in changes["gradient", "roar"].note
    assert changes["gradient", "random-logit"].difference == 0
