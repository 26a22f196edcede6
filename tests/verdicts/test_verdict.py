import math
import random
import statistics

import pytest

from veridical.records import Run, Score, SkippedRecord
from veridical.verdicts import judge, load_policy

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
    assert "which 5 images can keep with at most 93.8 %" in found.evidence[0].note


def test_every_threshold_cites_its_source():
    assert all(entry.source and entry.direction == "below" for entry in verdict(PASS).evidence)


def imaged(test, values, method="m"):
    """The rows of an audit: one an image, and the median with a stored interval that must not be used."""
    one = {"random-logit": "ssim", "cascading-randomization": "ssim", "cosine-convergence": "cosine"}[test]
    rows = [
        Score(method, test, one, value, image=f"{place}.png", layer=LAYER[test])
        for place, value in enumerate(values)
    ]
    median = statistics.median(values)
    stored = {"ci_low": median, "ci_high": median, "n": len(values)}
    return [*rows, Score(method, test, STATISTIC[test], median, layer=LAYER[test], **stored)]


def spread(low, high, n):
    return [low + (high - low) * place / (n - 1) for place in range(n)]


def judged(scores, methods=("m",), listed=(), **changes):
    policy = load_policy().model_copy(update={"methods": list(listed), **changes})
    run = run_of().model_copy(update={"methods": {name: run_of().methods["m"] for name in methods}})
    return judge(run, scores, policy)


def everything(values, method="m"):
    return [row for test in ALL for row in imaged(test, values, method)]


def test_the_interval_is_made_anew_from_the_images():
    entry = judged(everything(spread(0.2, 0.6, 24)))["m"].evidence[0]
    assert entry.ci_low < entry.value < entry.ci_high and entry.n == 24
    assert entry.level == pytest.approx(0.99)


def test_an_old_run_without_values_by_image_has_its_interval_widened():
    entry = verdict([row(test, 0.85, 0.995) for test in ALL]).evidence[0]
    assert entry.ci_low < 0.85 and entry.ci_high > 0.995 and "widened" in entry.note
    factor = quantile(entry.level) / quantile(0.99)
    assert entry.ci_high - entry.value == pytest.approx(0.0725 * factor)


def retrained(value, half, n):
    """The margin of some trainings, with its stored interval."""
    ends = {"ci_low": value - half, "ci_high": value + half, "n": n}
    return Score("m", "roar", "mean_roar_margin", value, **ends)


@pytest.mark.parametrize(
    ("value", "half", "passed"), [(0.2, 0.1, True), (-0.2, 0.1, False), (0.0, 0.1, None), (0.05, 0.1, None)]
)
@pytest.mark.parametrize("trainings", [3, 5])
def test_retrained_networks_are_advisory_and_counted_as_trainings(value, half, passed, trainings):
    found = verdict([*PASS, retrained(value, half, trainings)], tests=(*ALL, "roar"))
    evidence = next(one for one in found.evidence if one.test == "roar")
    assert found.verdict == "believable" and evidence.passed is passed and evidence.n == trainings
    assert f"Student's over {trainings} trainings" in evidence.note and "widened" not in evidence.note
    few = judge(run_of((*ALL, "roar")), [*PASS, retrained(value, half, 2)], load_policy())["m"].evidence[-1]
    assert few.passed is None and "needs 3 trainings, has 2" in few.note


def test_students_interval_is_widened_by_his_quantiles():
    from scipy.stats import t

    policy = load_policy().model_copy(update={"level": 0.9995})
    scores = [*PASS, retrained(0.1, 0.05, 3)]
    evidence = judge(run_of((*ALL, "roar")), scores, policy)["m"].evidence[-1]
    wanted = 0.05 * t.ppf(0.99975, 2) / t.ppf(0.995, 2)
    assert (evidence.level, evidence.ci_low) == (0.9995, pytest.approx(0.1 - wanted))
    scale = 0.05 / (t.ppf(0.995, 2) / 3**0.5)
    assert evidence.passed is None and evidence.needed == next(
        n for n in range(2, 99) if scale * t.ppf(0.99975, n - 1) / n**0.5 <= 0.1
    )


def test_what_is_asked_of_trainings_and_pairs_is_told_in_these():
    policy = load_policy()
    rules = {name: rule.model_copy(update={"required": True}) for name, rule in policy.tests.items()}
    policy = policy.model_copy(update={"tests": {name: rules[name] for name in ("roar", "manipulation")}})

    def reason(*scores):
        return judge(run_of(("roar", "manipulation")), scores, policy)["m"].reason

    few = reason(retrained(0.1, 0.05, 2), row("manipulation", -0.5, -0.1, n=1))
    assert "Roar has 2 of the 3 trainings that it needs" in few
    assert "manipulation has 1 of the 5 pairs that it needs" in few
    near = reason(retrained(0.01, 0.05, 4), row("manipulation", -0.5, 0.1))
    assert "trainings would decide it" in near and "pairs would decide it" in near
    on = reason(retrained(0.0, 0.05, 4), row("manipulation", -0.5, -0.1))
    assert "more trainings will hardly decide it" in on


def quantile(level):
    return statistics.NormalDist().inv_cdf((1 + level) / 2)


def test_many_methods_widen_the_intervals_of_what_is_not_clear():
    close = spread(0.5, 0.95, 40)
    alone = judged(everything(close))["m"]
    names = [f"n{place}" for place in range(30)]
    # Thirty others that lie about the threshold, so that none of them is decided.
    others = [row for name in names for row in everything(spread(0.85, 0.999, 40), name)]
    among = judged([*everything(close), *others], ("m", *names))["m"]
    without = judged([*everything(close), *others], ("m", *names), comparisons="none")["m"]
    assert among.evidence[0].level > without.evidence[0].level == 0.99
    assert among.evidence[0].ci_high > without.evidence[0].ci_high
    assert alone.evidence[0].ci_high == without.evidence[0].ci_high


def test_methods_that_are_not_listed_do_not_widen_the_intervals_of_those_that_are():
    names = [f"n{place}" for place in range(30)]
    others = [row for name in names for row in everything(spread(0.85, 0.999, 40), name)]
    found = judged([*everything(spread(0.5, 0.95, 40)), *others], ("m", *names), listed=["m"])
    alone = judged(everything(spread(0.5, 0.95, 40)))
    assert found["m"] == alone["m"] and found["n0"].evidence[0].level > found["m"].evidence[0].level


@pytest.mark.parametrize("interval", ["bootstrap", "exact"])
def test_so_many_images_as_advised_do_decide(interval):
    generator = random.Random(0)
    draw = [generator.gauss(0.87, 0.06) for _ in range(4000)]
    scores = [*everything(draw[:30]), *imaged("cosine-convergence", [0.2] * 30)]
    first = judged(scores, interval=interval)["m"]
    open_entry = next(entry for entry in first.evidence if entry.passed is None)
    assert first.verdict == "not decided" and f"about {open_entry.needed} images would decide" in first.reason
    later = judged(everything(draw[: 2 * open_entry.needed]), interval=interval)["m"]
    assert next(entry for entry in later.evidence if entry.test == open_entry.test).passed is True


def test_the_advice_follows_the_formula():
    values = spread(0.7, 1.0, 31)
    entry = judged(imaged("random-logit", values))["m"].evidence[0]
    # The median is 0.85, and the interval goes beyond 0.9 by construction.
    expected = math.ceil(31 * ((entry.ci_high - 0.85) / (0.9 - 0.85)) ** 2)
    assert entry.passed is None and entry.needed == max(32, expected)


def test_a_value_on_the_threshold_is_decided_by_no_number_of_images():
    values = [0.8] * 6 + [0.9] + [1.0] * 6
    found = judged(imaged("random-logit", values))["m"]
    assert found.evidence[0].needed is None and "more images will hardly decide it" in found.reason


def test_exact_intervals_ask_for_enough_images():
    found = judged(everything([0.1, 0.2, 0.3, 0.2, 0.1]), interval="exact")["m"]
    assert found.verdict == "not decided" and found.evidence[0].needed == 10
    assert "5 images cannot have an interval of 99.67 %" in found.reason
    assert judged(everything(spread(0.1, 0.3, 10)), interval="exact")["m"].verdict == "believable"


def test_a_share_is_judged_by_its_own_interval():
    rule = (
        load_policy()
        .tests["random-logit"]
        .model_copy(update={"statistic": "flipped_share", "threshold": 0.5})
    )
    rows = [Score("m", "random-logit", "flipped", 0.0, image=f"{place}") for place in range(30)]
    rows.append(Score("m", "random-logit", "flipped_share", 0.0, ci_low=0.0, ci_high=0.1, n=30))
    entry = judged(rows, tests={"random-logit": rule})["m"].evidence[0]
    assert entry.passed is True and 0.1 < entry.ci_high < 0.3


def test_seldom_a_verdict_is_wrong_where_the_truth_lies_on_the_wrong_side():
    """Methods whose true median is just above the threshold: "believable" is a false alarm."""
    generator, false_alarms, families = random.Random(1), 0, 40
    names = [f"n{place}" for place in range(4)]
    for _ in range(families):
        draws = {name: [generator.gauss(0.9, 0.05) for _ in range(25)] for name in names}
        scores = [row for name in names for row in imaged("random-logit", draws[name], name)]
        tests = {"random-logit": load_policy().tests["random-logit"]}
        found = judged(scores, names, tests=tests, level=0.9, interval="exact")
        false_alarms += any(one.verdict == "believable" for one in found.values())
    assert false_alarms <= 0.1 * families + 3
