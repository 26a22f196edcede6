"""Participants, their questions and their answers in SQLite: nothing lost, nothing counted twice.

A participant is a number and the digest of a random token. No name, address, time or device is stored.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from veridical.records import RecordError
from veridical.study.record import Group, Study, read_study

ANSWERS_FILE = "answers.sqlite"
TOKEN_BYTES = 16

Side = Literal["left", "right"]
Outcome = Literal["stored", "repeated", "conflict", "unknown"]

_TABLES = """
CREATE TABLE IF NOT EXISTS participants (
    number INTEGER PRIMARY KEY,
    token_digest TEXT NOT NULL UNIQUE,
    consented INTEGER NOT NULL DEFAULT 0 CHECK (consented IN (0, 1))
);
CREATE TABLE IF NOT EXISTS questions (
    participant INTEGER NOT NULL REFERENCES participants (number),
    position INTEGER NOT NULL,
    task TEXT NOT NULL,
    pair INTEGER NOT NULL,
    left_group TEXT NOT NULL CHECK (left_group IN ('A', 'B')),
    PRIMARY KEY (participant, position),
    UNIQUE (participant, task, pair)
);
CREATE TABLE IF NOT EXISTS answers (
    participant INTEGER NOT NULL,
    position INTEGER NOT NULL,
    side TEXT NOT NULL CHECK (side IN ('left', 'right')),
    PRIMARY KEY (participant, position),
    FOREIGN KEY (participant, position) REFERENCES questions (participant, position)
);
"""


class Question(NamedTuple):
    """One question of a participant: the pair, and the group whose picture is on the left.

    `side` is the answer, or None.
    """

    position: int
    task: str
    pair: int
    left: Group
    side: Side | None = None

    @property
    def choice(self) -> Group | None:
        """The group that was chosen, or None."""
        if self.side is None:
            return None
        return self.left if self.side == "left" else ("B" if self.left == "A" else "A")


class Participant(NamedTuple):
    """A participant with all questions, answered or not."""

    number: int
    consented: bool
    questions: tuple[Question, ...]


def draw_questions(study: Study, participant: int) -> list[Question]:
    """The questions of a participant: tasks in the study's order, pairs and sides at random.

    The same study and number give the same questions. Each task draws from a generator of its own, seeded by
    (seed, number, task): pairs without replacement, each group on the left with probability 1/2.
    """
    questions: list[Question] = []
    for index, task in enumerate(study.tasks):
        generator = np.random.default_rng([study.seed, participant, index])
        chosen = generator.permutation(len(task.pairs))[: task.questions]
        lefts = generator.integers(2, size=len(chosen))
        for pair, left in zip(chosen.tolist(), lefts.tolist(), strict=True):
            questions.append(Question(len(questions), task.name, pair, "B" if left else "A"))
    return questions


class Answers:
    """The answers of one study, safe for several threads and processes at once.

    Every call opens its own connection; SQLite's write-ahead log lets readers go on while one writes, and an
    answer is on the disk before `record` returns.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open the answers of a study folder; the file is made where there is none.

        Raises:
            RecordError: there is no study, or the file is none of SQLite's.
        """
        self.study = read_study(folder)
        self.path = Path(folder) / ANSWERS_FILE
        try:
            with self._connected() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_TABLES)
        except sqlite3.Error as error:
            raise RecordError(f"expected answers in {self.path}, got {error}; restore the file") from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: everything in it is stored, or nothing."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def invite(self) -> str:
        """Add a participant with their questions and return their token, which is stored nowhere."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        with self._writing() as connection:
            (number,) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM participants").fetchone()
            connection.execute(
                "INSERT INTO participants (number, token_digest) VALUES (?, ?)", (number, _digest(token))
            )
            connection.executemany(
                "INSERT INTO questions VALUES (?, ?, ?, ?, ?)",
                [(number, *question[:4]) for question in draw_questions(self.study, number)],
            )
        return token

    def find(self, token: str) -> int | None:
        """The number of the participant with that token, or None."""
        with self._connected() as connection:
            row = connection.execute(
                "SELECT number FROM participants WHERE token_digest = ?", (_digest(token),)
            ).fetchone()
        return None if row is None else int(row[0])

    def consent(self, participant: int) -> None:
        """Store that a participant agreed."""
        with self._writing() as connection:
            connection.execute("UPDATE participants SET consented = 1 WHERE number = ?", (participant,))

    def participant(self, number: int) -> Participant:
        """A participant.

        Raises:
            KeyError: there is none of that number.
        """
        return {one.number: one for one in self._read("WHERE p.number = ?", (number,))}[number]

    def participants(self) -> list[Participant]:
        """All that were invited, by number."""
        return self._read("", ())

    def record(self, participant: int, position: int, side: Side) -> Outcome:
        """Store an answer; the first one to a question counts, and sending it again changes nothing.

        Returns:
            "stored", "repeated" (the same answer was there), "conflict" (another one was there and stays) or
            "unknown" (no such question).
        """
        key = (participant, position)
        with self._writing() as connection:
            known = connection.execute("SELECT 1 FROM questions WHERE participant = ? AND position = ?", key)
            if known.fetchone() is None:
                return "unknown"
            added = connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (*key, side)
            ).rowcount
            (stored,) = connection.execute(
                "SELECT side FROM answers WHERE participant = ? AND position = ?", key
            ).fetchone()
        if added:
            return "stored"
        return "repeated" if stored == side else "conflict"

    def _read(self, where: str, values: tuple[int, ...]) -> list[Participant]:
        query = (
            "SELECT p.number, p.consented, q.position, q.task, q.pair, q.left_group, a.side "
            "FROM participants p JOIN questions q ON q.participant = p.number "
            f"LEFT JOIN answers a ON a.participant = q.participant AND a.position = q.position {where} "
            "ORDER BY p.number, q.position"
        )
        with self._connected() as connection:
            rows = connection.execute(query, values).fetchall()
        grouped: dict[tuple[int, bool], list[Question]] = {}
        for number, consented, *question in rows:
            grouped.setdefault((number, bool(consented)), []).append(Question(*question))
        return [Participant(*key, tuple(questions)) for key, questions in grouped.items()]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
