"""Counts, tests and intervals of the answers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veridical.study.answers import Answers, Participant, Question
from veridical.study.record import Study, TaskName

NAN = float("nan")


@dataclass(frozen=True)
class Tally:
    """One task's answers. NaN means that a figure cannot be computed from so few or so equal answers.

    Attributes:
        task: "parts", "fractions" or "object".
        a: how often A was chosen.
        b: how often B, the picture nearer to the tangent space, was chosen.
        participants: how many gave an answer.
        share: b / (a + b).
        low: lower end of Wilson's score interval of the share, all answers taken as independent.
        high: upper end.
        binomial_p: exact two-sided binomial test of share 1/2.
        t: of a two-sided t-test of the answers (A = 0, B = 1) against 1/2; NaN where all are equal.
        t_p: its p-value.
        participant_shares: the share of B of each participant, by number.
        participants_low: lower end of the t-interval of the mean of these shares.
        participants_high: upper end.
        participants_t: of the t-test of these shares against 1/2, for which the answers of one person need
            not be independent.
        participants_p: its p-value.
        left: how often the left picture was chosen.
        left_p: exact binomial test of the left side against 1/2: a preference of the side.
    """

    task: TaskName
    a: int
    b: int
    participants: int
    share: float
    low: float
    high: float
    binomial_p: float
    t: float
    t_p: float
    participant_shares: tuple[float, ...]
    participants_low: float
    participants_high: float
    participants_t: float
    participants_p: float
    left: int
    left_p: float


@dataclass(frozen=True)
class Progress:
    """How far a participant came: answered and asked questions of each task."""

    number: int
    consented: bool
    answered: dict[str, int]
    asked: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether every question is answered."""
        return self.answered == self.asked


@dataclass(frozen=True)
class Analysis:
    """All answers of a study, and again those of the participants who finished.

    Attributes:
        title: of the study.
        level: of all intervals.
        progress: of everybody who was invited.
        every: one `Tally` a task of all answers, those of unfinished participants included.
        complete: the same of participants who answered every question.
    """

    title: str
    level: float
    progress: tuple[Progress, ...]
    every: tuple[Tally, ...]
    complete: tuple[Tally, ...]


def analyze(folder: str | Path, level: float = 0.95) -> Analysis:
    """Analyze the answers that a study folder holds at this moment; may be called while the study runs.

    Source: Bordt et al. 2023, section 4.4, report counts and t-tests, without saying of what; the binomial
    test, the intervals and the tests over participants are ours.

    Args:
        folder: of the study.
        level: of the intervals, in (0, 1).

    Raises:
        RecordError: there is no study.
        ValueError: the level is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 means 95 %")
    answers = Answers(folder)
    people = answers.participants()
    progress = tuple(_progress(answers.study, one) for one in people)
    finished = [one for one, state in zip(people, progress, strict=True) if state.complete]
    return Analysis(
        answers.study.title,
        level,
        progress,
        *(
            tuple(tally(task.name, _answered(chosen, task.name), level) for task in answers.study.tasks)
            for chosen in (people, finished)
        ),
    )


def tally(task: TaskName, answers: Sequence[tuple[int, Question]], level: float = 0.95) -> Tally:
    """The figures of one task from (participant, answered question) of all participants."""
    chose_b = np.array([question.choice == "B" for _, question in answers], dtype=np.float64)
    owners = np.array([participant for participant, _ in answers])
    shares = [float(chose_b[owners == one].mean()) for one in np.unique(owners)]
    left = sum(question.side == "left" for _, question in answers)
    count, b = len(answers), int(chose_b.sum())
    low, high, binomial_p = _binomial(b, count, level)
    t, t_p, _, _ = _t_test(chose_b, level)
    participants_t, participants_p, participants_low, participants_high = _t_test(shares, level)
    return Tally(
        task=task,
        a=count - b,
        b=b,
        participants=len(shares),
        share=b / count if count else NAN,
        low=low,
        high=high,
        binomial_p=binomial_p,
        t=t,
        t_p=t_p,
        participant_shares=tuple(shares),
        participants_low=participants_low,
        participants_high=participants_high,
        participants_t=participants_t,
        participants_p=participants_p,
        left=left,
        left_p=_binomial(left, count, level)[2],
    )


def _binomial(successes: int, count: int, level: float) -> tuple[float, float, float]:
    """Wilson's interval and the p-value of share 1/2."""
    if not count:
        return NAN, NAN, NAN
    from scipy import stats

    test = stats.binomtest(successes, count)
    interval = test.proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high), float(test.pvalue)


def _t_test(values: Iterable[float], level: float) -> tuple[float, float, float, float]:
    """Statistic, p-value and the interval of the mean; NaN for fewer than two values or equal ones."""
    sample = np.asarray(list(values), dtype=np.float64)
    if sample.size < 2 or math.isclose(float(np.ptp(sample)), 0, abs_tol=1e-12):
        return NAN, NAN, NAN, NAN
    from scipy import stats

    test = stats.ttest_1samp(sample, 0.5)
    interval = test.confidence_interval(level)
    return float(test.statistic), float(test.pvalue), float(interval.low), float(interval.high)


def _answered(people: Sequence[Participant], task: str) -> list[tuple[int, Question]]:
    return [
        (one.number, question)
        for one in people
        for question in one.questions
        if question.task == task and question.side is not None
    ]


def _progress(study: Study, person: Participant) -> Progress:
    asked = {task.name: [one for one in person.questions if one.task == task.name] for task in study.tasks}
    return Progress(
        person.number,
        person.consented,
        {name: sum(one.side is not None for one in questions) for name, questions in asked.items()},
        {name: len(questions) for name, questions in asked.items()},
    )
