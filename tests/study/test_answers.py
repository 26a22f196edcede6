import sqlite3
import threading
from collections import Counter

import pytest

from veridical.records import RecordError
from veridical.study import Answers, read_study
from veridical.study.answers import draw_questions


@pytest.fixture
def answers(folder):
    return Answers(folder)


def test_questions_are_random_recorded_and_repeatable(folder, answers):
    study = read_study(folder)
    first, second = draw_questions(study, 1), draw_questions(study, 2)
    assert first == draw_questions(study, 1) != second
    answers.invite()
    assert list(answers.participant(1).questions) == first
    assert [question.position for question in first] == list(range(12))
    assert [question.task for question in first] == ["parts"] * 4 + ["fractions"] * 4 + ["object"] * 4
    for name in ("parts", "fractions", "object"):
        pairs = [question.pair for question in first if question.task == name]
        assert len(set(pairs)) == 4 and max(pairs) < len(study.task(name).pairs)
    assert draw_questions(study.model_copy(update={"seed": 1}), 1) != first


def test_sides_and_pairs_are_balanced_over_participants(folder):
    study = read_study(folder)
    drawn = [question for number in range(400) for question in draw_questions(study, number)]
    lefts = Counter(question.left for question in drawn)
    assert abs(lefts["A"] - 2400) < 4 * 35  # four standard deviations of a fair coin
    pairs = Counter(question.pair for question in drawn if question.task == "fractions")
    assert len(pairs) == 10 and all(abs(count - 160) < 40 for count in pairs.values())


def test_the_first_answer_counts_and_repeating_it_changes_nothing(answers):
    answers.invite()
    assert answers.record(1, 3, "left") == "stored"
    assert answers.record(1, 3, "left") == "repeated"
    assert answers.record(1, 3, "right") == "conflict"
    assert answers.record(1, 12, "left") == answers.record(2, 0, "left") == "unknown"
    given = [question for question in answers.participant(1).questions if question.side is not None]
    assert [(question.position, question.side) for question in given] == [(3, "left")]


def test_the_choice_follows_from_the_side(answers):
    answers.invite()
    for question in answers.participant(1).questions:
        assert question.choice is None
        answers.record(1, question.position, "left" if question.position % 2 else "right")
    for question in answers.participant(1).questions:
        other = "B" if question.left == "A" else "A"
        assert question.choice == (question.left if question.position % 2 else other)
    assert {question.choice for question in answers.participant(1).questions} == {"A", "B"}


def test_tokens_are_long_different_and_not_stored(answers, folder):
    tokens = {answers.invite() for _ in range(20)}
    assert len(tokens) == 20 and all(len(token) == 22 for token in tokens)
    stored = b"".join(path.read_bytes() for path in folder.glob("answers.sqlite*"))
    assert not any(token.encode() in stored for token in tokens)
    assert sorted(answers.find(token) for token in tokens) == list(range(1, 21))
    assert answers.find("x" * 22) is None
    with pytest.raises(KeyError):
        answers.participant(21)


def test_many_at_once_lose_nothing_and_count_nothing_twice(answers, folder):
    """Four participants, each sending every answer from two threads; invitations go on meanwhile."""
    for _ in range(4):
        answers.invite()
    outcomes = []

    def send(number):
        mine = Answers(folder)
        outcomes.extend(mine.record(number, position, "left") for position in range(6))
        mine.invite()

    threads = [threading.Thread(target=send, args=(number,)) for number in list(range(1, 5)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"stored": 24, "repeated": 24}
    people = answers.participants()
    assert [one.number for one in people] == list(range(1, 13))
    assert sum(question.side is not None for one in people for question in one.questions) == 24


def test_the_file_itself_refuses_a_second_or_a_foreign_answer(answers):
    answers.invite()
    answers.record(1, 0, "left")
    with answers._connected() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for values in ((1, 0, "right"), (1, 99, "left"), (1, 1, "up")):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute("INSERT INTO answers VALUES (?, ?, ?)", values)


def test_a_failed_invitation_leaves_nothing(answers, monkeypatch):
    def fail(*_):
        raise RuntimeError("stop")

    monkeypatch.setattr("veridical.study.answers.draw_questions", fail)
    with pytest.raises(RuntimeError):
        answers.invite()
    monkeypatch.undo()
    answers.invite()
    assert [one.number for one in answers.participants()] == [1]


def test_a_file_that_is_no_database_is_refused(folder):
    (folder / "answers.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(RecordError, match="restore the file"):
        Answers(folder)
