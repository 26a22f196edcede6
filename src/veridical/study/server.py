"""The study's local web server, of the standard library: a page, its pictures, and three calls.

    GET  /s/TOKEN                     the page
    GET  /s/TOKEN/state               words, questions, and which are answered
    GET  /s/TOKEN/pictures/NAME.png   a picture of this study
    POST /s/TOKEN/consent             {}
    POST /s/TOKEN/answer              {"position": 0, "side": "left"}
    GET  /study.js, /study.css, /study.svg

Whatever does not match one of these exactly is not found: a path of the request never becomes one of a file.
Nothing is logged, and nothing about a request but its token and answer is looked at or kept.
"""

import re
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from veridical.serving import LOOPBACK, Handler, LocalServer, Refused
from veridical.study.answers import Answers, Outcome, Participant
from veridical.study.record import Study, Task, picture_path

PAGE = Path(__file__).parent / "page"

_ROUTE = re.compile(r"/s/([A-Za-z0-9_-]{22})(?:/(state|consent|answer|pictures/([0-9a-f]{20})\.png))?")
_STATIC = ("study.js", "study.css", "study.svg")
_KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_KINDS |= {".css": "text/css; charset=utf-8", ".png": "image/png", ".svg": "image/svg+xml"}
_NO_LINK = "This link belongs to no participant of this study. Please ask for a new one."
_OUTCOMES: dict[Outcome, HTTPStatus] = {
    "stored": HTTPStatus.OK,
    "repeated": HTTPStatus.OK,
    "conflict": HTTPStatus.CONFLICT,
    "unknown": HTTPStatus.BAD_REQUEST,
}


class _Request(NamedTuple):
    participant: int
    what: str
    picture: str


class StudyServer(LocalServer):
    """Serves one study, see `LocalServer`.

    Args:
        folder: of a prepared study.
        host: the address to listen at; by default only this machine can reach it.
        port: 0 for any free one.

    Raises:
        RecordError: there is no study in the folder.
        OSError: the address cannot be used.
    """

    def __init__(self, folder: str | Path, host: str = LOOPBACK, port: int = 0) -> None:
        """Open the study and the port; `serve_forever` answers."""
        self.folder = Path(folder)
        self.answers = Answers(folder)
        self.static = {f"/{name}": (PAGE / name).read_bytes() for name in _STATIC}
        self.page = (PAGE / "study.html").read_bytes()
        self.pictures = self.answers.study.pictures()
        super().__init__(host, port, _Handler)


def link(address: str, token: str) -> str:
    """The link of a participant."""
    return f"{address.rstrip('/')}/s/{token}"


class _Handler(Handler):
    server: StudyServer

    def get(self) -> None:
        """Answer a GET."""
        if self.path in self.server.static:
            self.send(self.server.static[self.path], _KINDS[Path(self.path).suffix])
            return
        request = self._request()
        if request.what == "":
            self.send(self.server.page, _KINDS[".html"])
        elif request.what == "state":
            self.send_json(state(self.server.answers.study, self._participant(request)))
        elif request.picture in self.server.pictures:
            content = picture_path(self.server.folder, request.picture).read_bytes()
            self.send(content, _KINDS[".png"], cache="private, max-age=86400, immutable")
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def post(self) -> None:
        """Answer a POST."""
        request = self._request()
        if request.what not in ("consent", "answer"):
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        body = self.body()
        if request.what == "consent":
            self.server.answers.consent(request.participant)
            self.send_json({"consented": True})
            return
        position, side = body.get("position"), body.get("side")
        if type(position) is not int or not 0 <= position < 2**31 or side not in ("left", "right"):
            raise Refused(HTTPStatus.BAD_REQUEST, 'expected a position of 0 or more and "left" or "right"')
        if not self._participant(request).consented:
            raise Refused(HTTPStatus.FORBIDDEN, "expected consent before answers")
        outcome = self.server.answers.record(request.participant, position, side)
        self.send_json({"outcome": outcome}, _OUTCOMES[outcome])

    def _request(self) -> _Request:
        found = _ROUTE.fullmatch(self.path)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        participant = self.server.answers.find(found[1])
        if participant is None:
            raise Refused(HTTPStatus.NOT_FOUND, _NO_LINK)
        return _Request(participant, found[2] or "", found[3] or "")

    def _participant(self, request: _Request) -> Participant:
        return self.server.answers.participant(request.participant)


def state(study: Study, participant: Participant) -> dict[str, Any]:
    """What the page of a participant needs; it does not tell which picture is A and which is B."""
    return {
        "title": study.title,
        "consent": study.consent,
        "consented": participant.consented,
        "tasks": [_words(task) for task in study.tasks],
        "questions": [_question(study, question) for question in participant.questions],
    }


def _words(task: Task) -> dict[str, Any]:
    return {
        **task.model_dump(mode="json", include={"name", "title", "instructions", "question"}),
        "examples": [{"picture": one.picture, "text": one.text} for one in task.examples],
    }


def _question(study: Study, question: Any) -> dict[str, Any]:
    pair = study.task(question.task).pairs[question.pair]
    left, right = (pair.a, pair.b) if question.left == "A" else (pair.b, pair.a)
    return {
        "position": question.position,
        "task": question.task,
        "left": left,
        "right": right,
        "shown": pair.shown,
        "answered": question.side is not None,
    }
