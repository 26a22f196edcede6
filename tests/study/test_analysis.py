import json
import math

import pytest
from scipy import stats

from veridical.study import Answers, analyze, write_analysis
from veridical.study.account import markdown
from veridical.study.analysis import tally
from veridical.study.answers import Question


def given(choices, start=0):
    """Answered questions with these choices, A on the left every second time."""
    made = []
    for position, choice in enumerate(choices, start):
        left = "A" if position % 2 else "B"
        made.append(Question(position, "parts", position, left, "left" if choice == left else "right"))
    return made


def test_the_figures_of_one_task_are_those_of_the_textbook():
    """The published counts of the second task, by two participants."""
    first, second = given("A" * 100 + "B" * 100), given("A" * 43 + "B" * 215)
    found = tally("fractions", [(1, one) for one in first] + [(2, one) for one in second])
    n, share, z = 458, 315 / 458, stats.norm.ppf(0.975)
    center, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert (found.a, found.b, found.participants, found.share) == (143, 315, 2, share)
    assert found.low == pytest.approx((center - spread) / (1 + z**2 / n))
    assert found.high == pytest.approx((center + spread) / (1 + z**2 / n))
    assert found.binomial_p == pytest.approx(2 * stats.binom.cdf(143, n, 0.5))
    deviation = math.sqrt(share * (1 - share) * n / (n - 1))
    assert found.t == pytest.approx((share - 0.5) / (deviation / math.sqrt(n)))
    assert found.t_p == pytest.approx(2 * stats.t.sf(found.t, n - 1)) and found.t_p < 0.01
    shares = (0.5, 215 / 258)
    assert found.participant_shares == shares
    mean, half = sum(shares) / 2, abs(shares[1] - shares[0]) / 2  # the standard error of two values
    assert found.participants_t == pytest.approx((mean - 0.5) / half)
    assert found.participants_high == pytest.approx(mean + stats.t.ppf(0.975, 1) * half)
    assert found.participants_p > 0.05  # two people alone show nothing


def test_equal_answers_are_decided_by_the_binomial_test():
    found = tally("parts", [(one, question) for one in (1, 2) for question in given("B" * 290)])
    assert (found.a, found.b, found.share, found.high) == (0, 580, 1, 1)
    assert found.low == pytest.approx(1 / (1 + stats.norm.ppf(0.975) ** 2 / 580))
    assert found.binomial_p == pytest.approx(2 * 0.5**580)
    assert math.isnan(found.t_p) and math.isnan(found.participants_p)


def test_a_preference_of_one_side_is_seen():
    answers = [Question(at, "parts", at, "A" if at % 2 else "B", "left") for at in range(20)]
    found = tally("parts", [(1, one) for one in answers])
    assert (found.left, found.a, found.b) == (20, 10, 10)
    assert found.left_p == pytest.approx(2 * 0.5**20) and found.binomial_p == 1


def test_no_answers_are_not_measured():
    found = tally("parts", [])
    assert (found.a, found.b, found.participants) == (0, 0, 0)
    assert all(
        math.isnan(value) for value in (found.share, found.low, found.binomial_p, found.t, found.left_p)
    )


@pytest.fixture
def answered(folder):
    """One participant finished and took B, one stopped after 6 of A, one only agreed, one never came."""
    answers = Answers(folder)
    for _ in range(4):
        answers.invite()
    for number in (1, 2, 3):
        answers.consent(number)
    for question in answers.participant(1).questions:
        answers.record(1, question.position, "left" if question.left == "B" else "right")
    for question in answers.participant(2).questions[:6]:
        answers.record(2, question.position, "left" if question.left == "A" else "right")
    return folder


def test_unfinished_participants_are_counted_and_told_apart(answered):
    found = analyze(answered)
    assert [(one.a, one.b, one.participants) for one in found.every] == [(4, 4, 2), (2, 4, 2), (0, 4, 1)]
    assert [(one.a, one.b, one.participants) for one in found.complete] == [(0, 4, 1)] * 3
    assert [one.complete for one in found.progress] == [True, False, False, False]
    assert found.progress[1].answered == {"parts": 4, "fractions": 2, "object": 0}
    text = markdown(found)
    assert "4 invited, 2 gave answers, 1 finished." in text
    assert "| 2 | yes | parts 4 of 4, fractions 2 of 4, object 0 of 4 |" in text
    assert "| 4 | no | parts 0 of 4" in text and "0, 580" in text


def test_the_files_are_written(answered, tmp_path):
    paths = write_analysis(analyze(answered), tmp_path / "out")
    assert [path.name for path in paths] == ["analysis.json", "analysis.md", "choices.png"]
    stored = json.loads(paths[0].read_text())
    assert stored["every"][0]["b"] == 4 and stored["complete"][0]["t_p"] is None
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_study_without_answers_is_analyzed_too(folder, tmp_path):
    found = analyze(folder)
    assert found.progress == () and "not measured" in markdown(found) and "None." in markdown(found)
    write_analysis(found, tmp_path / "out")


def test_a_level_outside_its_range_is_refused(folder):
    with pytest.raises(ValueError, match="level"):
        analyze(folder, 1.0)
