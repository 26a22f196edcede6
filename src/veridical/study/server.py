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

import json
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from veridical.study.answers import Answers, Outcome, Participant
from veridical.study.record import Study, Task, picture_path

PAGE = Path(__file__).parent / "page"
LOOPBACK = "127.0.0.1"
MAX_PATH, MAX_BODY, MAX_CONNECTIONS = 200, 1000, 64

_ROUTE = re.compile(r"/s/([A-Za-z0-9_-]{22})(?:/(state|consent|answer|pictures/([0-9a-f]{20})\.png))?")
_STATIC = ("study.js", "study.css", "study.svg")
_KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_KINDS |= {".css": "text/css; charset=utf-8", ".png": "image/png", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NO_LINK = "This link belongs to no participant of this study. Please ask for a new one."
_OUTCOMES: dict[Outcome, HTTPStatus] = {
    "stored": HTTPStatus.OK,
    "repeated": HTTPStatus.OK,
    "conflict": HTTPStatus.CONFLICT,
    "unknown": HTTPStatus.BAD_REQUEST,
}


class _Refused(Exception):
    """A request that is answered with a status and a line of text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class _Request(NamedTuple):
    participant: int
    what: str
    picture: str


class StudyServer(ThreadingHTTPServer):
    """Serves one study; each request in a thread of its own, at most 64 at once.

    Args:
        folder: of a prepared study.
        host: the address to listen at; by default only this machine can reach it.
        port: 0 for any free one.

    Raises:
        RecordError: there is no study in the folder.
        OSError: the address cannot be used.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: str | Path, host: str = LOOPBACK, port: int = 0) -> None:
        """Open the study and the port; `serve_forever` answers."""
        self.folder = Path(folder)
        self.answers = Answers(folder)
        self.static = {f"/{name}": (PAGE / name).read_bytes() for name in _STATIC}
        self.page = (PAGE / "study.html").read_bytes()
        self.pictures = self.answers.study.pictures()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """Where the server is, as http://HOST:PORT."""
        return web_address(str(self.server_address[0]), int(self.server_address[1]))

    def server_bind(self) -> None:
        """Bind without looking up the machine's name, which can take long and is not needed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close the connection where all places are taken; the page tries again."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer and free the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a connection that broke is tried again by the page."""


def web_address(host: str, port: int) -> str:
    """The address http://HOST:PORT."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def link(address: str, token: str) -> str:
    """The link of a participant."""
    return f"{address.rstrip('/')}/s/{token}"


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    server_version = "veridical"
    sys_version = ""
    timeout = 15  # seconds that a connection may keep its place without sending anything

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer(self._post)

    def _answer(self, respond: Any) -> None:
        try:
            if len(self.path) > MAX_PATH:
                raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"expected at most {MAX_PATH} characters")
            respond()
        except _Refused as refused:
            self._send(f"{refused.text}\n".encode(), "text/plain; charset=utf-8", refused.status)
        except Exception as error:
            text = f"the study could not answer ({type(error).__name__}); try again\n"
            self._send(text.encode(), "text/plain; charset=utf-8", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _get(self) -> None:
        if self.path in self.server.static:
            self._send(self.server.static[self.path], _KINDS[Path(self.path).suffix])
            return
        request = self._request()
        if request.what == "":
            self._send(self.server.page, _KINDS[".html"])
        elif request.what == "state":
            self._send_json(state(self.server.answers.study, self._participant(request)))
        elif request.picture in self.server.pictures:
            content = picture_path(self.server.folder, request.picture).read_bytes()
            self._send(content, _KINDS[".png"], cache="private, max-age=86400, immutable")
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _post(self) -> None:
        request = self._request()
        if request.what not in ("consent", "answer"):
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        body = self._body()
        if request.what == "consent":
            self.server.answers.consent(request.participant)
            self._send_json({"consented": True})
            return
        position, side = body.get("position"), body.get("side")
        if type(position) is not int or not 0 <= position < 2**31 or side not in ("left", "right"):
            raise _Refused(HTTPStatus.BAD_REQUEST, 'expected a position of 0 or more and "left" or "right"')
        if not self._participant(request).consented:
            raise _Refused(HTTPStatus.FORBIDDEN, "expected consent before answers")
        outcome = self.server.answers.record(request.participant, position, side)
        self._send_json({"outcome": outcome}, _OUTCOMES[outcome])

    def _request(self) -> _Request:
        found = _ROUTE.fullmatch(self.path)
        if found is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        participant = self.server.answers.find(found[1])
        if participant is None:
            raise _Refused(HTTPStatus.NOT_FOUND, _NO_LINK)
        return _Request(participant, found[2] or "", found[3] or "")

    def _participant(self, request: _Request) -> Participant:
        return self.server.answers.participant(request.participant)

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length) > MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_BODY} bytes")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return body

    def _send_json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, cache: str = "no-store"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", cache)
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """Add what every response has, those to broken requests too."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a log would hold addresses and tokens."""


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
