"""Comparing runs: what is better, worse, unchanged; what is refused; the outputs."""

import json
import random
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.runs import POLICY, spread, store
from veridical.cli.main import app

BASE = spread(0.3, 0.7)
TESTS = {"random-logit": BASE, "pixel-flipping": spread(0.1, 0.3)}


def moved(by, values=BASE, noise=0.0):
    generator = random.Random(1)
    return [value + by + generator.gauss(0, noise) for value in values]


@pytest.fixture
def compare(tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY.format(methods="[]"))
    store(tmp_path / "a", {"m": TESTS})

    def run(*more, runs=("a", "b")):
        words = ["compare", *(tmp_path / one for one in runs), "--policy", tmp_path / "policy.toml", *more]
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


def changes(result):
    assert result.exit_code == 0, result.output
    return {(row["method"], row["test"]): row for one in json.loads(result.stdout) for row in one["changes"]}


@pytest.mark.parametrize(
    ("test", "by", "direction"),
    [
        ("random-logit", 0.05, "worse"),
        ("random-logit", -0.05, "better"),
        ("random-logit", 0.0, "unchanged"),
        ("pixel-flipping", 0.05, "better"),
        ("pixel-flipping", -0.05, "worse"),
    ],
)
def test_the_policy_says_which_side_is_the_worse(compare, tmp_path, test, by, direction):
    store(tmp_path / "b", {"m": {**TESTS, test: moved(by, TESTS[test], 0.01 if by else 0)}})
    row = changes(compare("--json"))["m", test]
    assert row["direction"] == direction and row["paired"] and row["n"] == 20
    assert row["low"] <= row["difference"] <= row["high"]


def test_pairs_see_what_the_spread_of_the_images_would_hide(compare, tmp_path):
    store(tmp_path / "b", {"m": {**TESTS, "random-logit": moved(0.02)}})
    assert changes(compare("--json"))["m", "random-logit"]["direction"] == "worse"
    store(tmp_path / "b", {"m": {**TESTS, "random-logit": moved(0.02)}}, salt="other")
    row = changes(compare("--json"))["m", "random-logit"]
    assert row["direction"] == "unchanged" and not row["paired"]
    assert "same name and other pixels" in compare().stdout


def test_without_pairs_a_large_change_is_still_seen(compare, tmp_path):
    store(tmp_path / "b", {"m": {**TESTS, "random-logit": moved(0.5)}}, salt="other")
    row = changes(compare("--json"))["m", "random-logit"]
    assert row["direction"] == "worse" and row["difference"] == pytest.approx(0.5)


def test_too_few_images_decide_nothing_and_it_is_said(compare, tmp_path):
    few = {"random-logit": [0.1, 0.1, 0.1]}
    store(tmp_path / "a", {"m": few})
    store(tmp_path / "b", {"m": {"random-logit": [0.9, 0.9, 0.9]}})
    row = changes(compare("--json"))["m", "random-logit"]
    assert row["direction"] == "not decided" and "3 images; no interval of this level" in row["note"]
    assert row["low"] is None and compare("--fail-on-worse").exit_code == 0


def test_of_many_methods_without_a_change_none_is_said_to_have_one(compare, tmp_path):
    generator = random.Random(0)
    sides = [
        {f"m{k}": {"random-logit": [generator.gauss(0.5, 0.1) for _ in range(20)]} for k in range(30)}
        for _ in range(2)
    ]
    store(tmp_path / "a", sides[0])
    store(tmp_path / "b", sides[1])
    assert {row["direction"] for row in changes(compare("--json")).values()} == {"unchanged"}


@pytest.mark.parametrize(("test", "code"), [("random-logit", 1), ("pixel-flipping", 0)])
def test_only_required_tests_fail_on_worse(compare, tmp_path, test, code):
    by = 0.1 if test == "random-logit" else -0.1
    store(tmp_path / "b", {"m": {**TESTS, test: moved(by, TESTS[test])}})
    assert "WORSE" in compare().stdout and compare().exit_code == 0
    assert compare("--fail-on-worse").exit_code == code


def test_every_later_run_is_compared_with_the_first(compare, tmp_path):
    store(tmp_path / "b", {"m": {**TESTS, "random-logit": moved(0.1)}})
    store(tmp_path / "c", {"m": {**TESTS, "random-logit": moved(-0.1)}})
    found = json.loads(compare("--json", runs=("a", "b", "c")).stdout)
    assert [one["changes"][0]["direction"] for one in found] == ["worse", "better"]
    assert {one["before"] for one in found} == {str(tmp_path / "a")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": {"random-logit": {"settings": {"seed": 1, "images": 20}}}}, "seed = 0 in .*a and 1 in"),
        ({"tests": {"random-logit": {"settings": {"seed": 0, "protocol": "x"}}}}, "got protocol = None in"),
        ({"tests": {"manipulation": {}}}, "a test in common"),
        ({"methods": {"other": {"options": ""}}}, "a method in common"),
        ({"finished": False}, "expected a finished run"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_compared_are_refused(compare, tmp_path, change, message):
    store(tmp_path / "b", {"m": TESTS}, **change)
    result = compare()
    assert result.exit_code == 2 and result.stdout == ""
    assert re.search(message, result.stderr), result.stderr


def test_one_run_is_not_enough(compare):
    result = compare(runs=("a",))
    assert result.exit_code == 2 and "two runs or more, got 1" in result.stderr


def test_facts_about_the_network_and_counts_are_no_settings(compare, tmp_path):
    configured = {"configuration": {"tests": {"random-logit": {"seed": 0, "images": 12}}}}
    store(tmp_path / "b", {"m": {"random-logit": BASE[:12]}}, settings=configured)
    assert changes(compare("--json"))["m", "random-logit"]["n"] == 12


def test_what_differs_is_noted(compare, tmp_path):
    store(
        tmp_path / "b", {"m": {**TESTS, "random-logit": spread(0.95, 1.0)}, "new": TESTS},
        model={"name": "net2", "sha256": "1", "parameters": 1, "classes": 2}, veridical="1",
        methods={"m": {"options": "m(samples=5)"}, "new": {"options": ""}},
    )  # fmt: skip
    text = compare().stdout
    for part in (
        "Two networks: net and net2.",
        "Two versions",
        "other options: m() and m(samples=5)",
        "20 the same",
    ):
        assert part in text
    assert "Methods only in" in text and "verdict on m: believable -> not believable" in text


def test_images_explained_for_another_class_are_noted(compare, tmp_path):
    store(tmp_path / "b", {"m": TESTS})
    assert "another class" not in compare().stdout
    file = tmp_path / "b" / "run.json"
    run = json.loads(file.read_text())
    for image in run["images"][:3]:
        image["target"] = 1
    file.write_text(json.dumps(run))
    assert "3 of these are explained for another class" in compare().stdout


def test_the_page_holds_everything_and_asks_for_nothing(compare, tmp_path):
    store(tmp_path / "b", {"m": {**TESTS, "random-logit": moved(0.1)}, "<x>": TESTS})
    store(tmp_path / "a", {"m": TESTS, "<x>": TESTS})
    page = tmp_path / "page.html"
    assert compare("--html", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "worse" in text and "&lt;x&gt;" in text and "<x>" not in text
    assert "http:" not in text and "https:" not in text and len(text) < 30_000
    assert text.count("<script") == 1 and "default-src &#39;none&#39;" in text
    first = page.read_bytes()
    assert compare("--html", page).exit_code == 0 and page.read_bytes() == first


@pytest.mark.slow
def test_the_exit_code_of_a_process(compare, tmp_path):
    store(tmp_path / "b", {"m": {**TESTS, "random-logit": moved(0.1)}})
    words = [sys.executable, "-m", "veridical", "compare", "a", "b", "--fail-on-worse"]
    codes = [subprocess.run([*words, *more], cwd=tmp_path, check=False, capture_output=True).returncode
             for more in ((), ("--policy", "none.toml"))]  # fmt: skip
    assert codes == [1, 2]
