import math

import pytest

from veridical.auditing import judge, load_policy
from veridical.records import Run, Score, SkippedRecord

ALL = ("random-logit", "cascading-randomization", "cosine-convergence")
STATISTIC = {"random-logit": "median_ssim", "cascading-randomization": "median_ssim",
             "cosine-convergence": "median_cosine", "manipulation": "median_pcc_margin"}  # fmt: skip
LAYER = {
    "random-logit": "",
    "cascading-randomization": "top",
    "cosine-convergence": "conv1",
    "manipulation": "",
}


def run_of(tests=ALL, skipped=()):
    return Run(
        veridical="0", created="now", finished=True, settings={}, images=[],
        environment={"python": "3", "torch": "2", "platform": "x", "threads": 1},
        model={"name": "m", "sha256": "0", "parameters": 1, "classes": 2},
        methods={"m": {"options": ""}},
        tests={test: {"settings": {"first_convolution": "conv1"}} for test in tests},
        skipped=list(skipped),
    )  # fmt: skip


def row(test, low, high, n=8, **changes):
    layer = changes.get("layer", LAYER[test])
    return Score("m", test, STATISTIC[test], (low + high) / 2, layer=layer, ci_low=low, ci_high=high, n=n)


PASS = [
    row("random-logit", 0.4, 0.6),
    row("cascading-randomization", 0.3, 0.6),
    row("cosine-convergence", 0.3, 0.5),
]


def verdict(scores, **run):
    return judge(run_of(**run), scores, load_policy())["m"]


def replaced(test, new):
    return [new if score.test == test else score for score in PASS]


def test_all_passed_is_believable():
    assert verdict(PASS).verdict == "believable"
    assert [entry.passed for entry in verdict(PASS).evidence] == [True, True, True]


@pytest.mark.parametrize("test", ALL)
@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [
        (0.995, 1.0, 8, "not believable"),
        (0.99, 1.0, 8, "not believable"),
        (0.2, 0.995, 8, "not decided"),
        (0.1, 0.89, 8, "believable"),
        (0.995, 1.0, 1, "not decided"),
        (0.1, 0.2, 1, "not decided"),
        (math.nan, math.nan, 8, "not decided"),
    ],
)
def test_one_test_decides_by_its_interval(test, low, high, n, expected):
    assert verdict(replaced(test, row(test, low, high, n))).verdict == expected


def test_the_threshold_itself_fails():
    assert verdict(replaced("random-logit", row("random-logit", 0.9, 0.95))).verdict == "not believable"


def test_a_failure_outweighs_what_is_missing():
    assert verdict([row("random-logit", 0.95, 1.0)], tests=("random-logit",)).verdict == "not believable"


def test_a_required_test_that_was_not_run_leaves_it_open():
    found = verdict(PASS[:2], tests=ALL[:2])
    assert found.verdict == "not decided" and "gave no result: it was not run" in found.reason


def test_a_test_that_does_not_apply_is_not_held_against_the_method():
    skipped = SkippedRecord(method="m", test="cosine-convergence", reason="no rules", applies=False)
    found = verdict(PASS[:2], skipped=[skipped])
    assert found.verdict == "believable" and "does not apply: no rules" in found.reason


def test_a_test_that_broke_is():
    skipped = SkippedRecord(method="m", test="cosine-convergence", reason="boom", applies=True)
    assert verdict(PASS[:2], skipped=[skipped]).verdict == "not decided"


def test_no_test_at_all_decides_nothing():
    skipped = [SkippedRecord(method="m", test=test, reason="no", applies=False) for test in ALL]
    assert verdict([], skipped=skipped).verdict == "not decided"


def test_manipulation_is_advisory():
    found = verdict([*PASS, row("manipulation", 0.5, 0.9)], tests=(*ALL, "manipulation"))
    assert found.verdict == "believable" and found.evidence[-1].passed is False
    assert "advisory" in found.evidence[-1].note


@pytest.mark.parametrize(("low", "high", "passed"), [(0.1, 0.2, True), (-0.2, 0.0, False), (-0.1, 0.1, None)])
def test_pixel_flipping_is_advisory_and_fails_at_the_height_of_random_orders(low, high, passed):
    score = Score("m", "pixel-flipping", "median_morf_margin", 0.0, ci_low=low, ci_high=high, n=8)
    found = verdict([*PASS, score], tests=(*ALL, "pixel-flipping"))
    evidence = next(one for one in found.evidence if one.test == "pixel-flipping")
    assert found.verdict == "believable" and evidence.passed is passed and evidence.direction == "above"
    assert "advisory" in evidence.note and "Samek" in evidence.source


def test_the_first_randomized_layer_is_judged():
    later = row("cascading-randomization", 0.99, 1.0, layer="bottom")
    assert verdict([*PASS, later]).verdict == "believable"


def test_few_images_are_said_to_be_few():
    found = verdict(replaced("random-logit", row("random-logit", 0.1, 0.2, n=5)))
    assert "at most 93.8%" in found.evidence[0].note


def test_every_threshold_cites_its_source():
    assert all(entry.source and entry.direction == "below" for entry in verdict(PASS).evidence)
