"""The live view's local web server: one page, and five calls that only this machine can make.

    GET  /e/TOKEN               the page, with its script and style in it
    GET  /e/TOKEN/state         images, classes and methods
    POST /e/TOKEN/map           {"page", "view", "image", "target", "method", "beta", "noise", "samples"}
    POST /e/TOKEN/manipulate    {"image", "target", "method", "beta", "noise", "samples", "other", "steps"}
    GET  /e/TOKEN/manipulation  where the manipulation is
    POST /e/TOKEN/stop          {}

Images, classes and methods are named by their places and names on the page, never by a path. A host name
that is not this machine's is refused, so that a page of somebody else cannot reach the server under a name of
its own (DNS rebinding). Whatever is refused is answered with {"error": text}.
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from veridical.explore.asked import Asked, Attack, Smoothing
from veridical.explore.forging import Studio
from veridical.explore.live import Live
from veridical.explore.seen import Explored
from veridical.explore.worker import Bench, Busy, Outdated
from veridical.records import finite_or_null
from veridical.serving import LOOPBACK, Handler, LocalServer, Refused
from veridical.serving.server import HTML

PAGE = Path(__file__).parent / "page"

_ROUTE = re.compile(r"/e/([A-Za-z0-9_-]{22})(?:/(state|map|manipulate|manipulation|stop))?")
_STORED = "this page shows a stored run, which has no network; start it with --model as well"
Request = TypeVar("Request", bound=Smoothing)


class ExploreServer(LocalServer):
    """Serves one live view, see `LocalServer`.

    Args:
        explored: what to look at.
        host: the address to listen at; by default only this machine can reach it.
        port: 0 for any free one.

    Raises:
        OSError: the address cannot be used.
    """

    max_body = 2000

    def __init__(self, explored: Explored, host: str = LOOPBACK, port: int = 0) -> None:
        """Open the port; `serve_forever` answers."""
        self.explored = explored
        self.studio = Studio(explored) if isinstance(explored, Live) else None
        self.bench = Bench()
        self.token = secrets.token_urlsafe(16)
        self.names = {"localhost", host}
        self.page, self.sources = assembled(PAGE)
        self.start = finite_or_null(explored.state())
        super().__init__(host, port, _Handler)

    @property
    def link(self) -> str:
        """The address of the page; whoever does not know it sees nothing."""
        return f"{self.address}/e/{self.token}"

    def knows(self, host: str) -> bool:
        """Whether a request's Host is a number or one of this server's names; others are somebody else's."""
        found = re.fullmatch(r"\[([0-9a-f:.]+)\](?::\d{1,5})?|([a-z0-9.-]+)(?::\d{1,5})?", host.lower())
        if found is None:
            return False
        name = found[1] or found[2]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def server_close(self) -> None:
        """Close the port and end what is being computed."""
        super().server_close()
        self.bench.close()


def assembled(folder: Path) -> tuple[bytes, str]:
    """The page as one file, and the sources that its content security policy allows."""
    html, sources = (folder / "explore.html").read_text(encoding="utf-8"), []
    for tag, name in (("script", "explore.js"), ("style", "explore.css")):
        text = (folder / name).read_text(encoding="utf-8")
        html = html.replace(f"<{tag}></{tag}>", f"<{tag}>{text}</{tag}>")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        sources.append(f"{tag}-src 'sha256-{digest}'")
    return html.encode(), "; ".join([*sources, "img-src data:"])


class _Handler(Handler):
    server: ExploreServer

    def get(self) -> None:
        """Answer a GET."""
        what = self._admitted()
        if what == "":
            self.send(self.server.page, HTML)
        elif what == "state":
            self.send_json(self.server.start)
        elif what == "manipulation":
            self._progress()
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def post(self) -> None:
        """Answer a POST."""
        answers = {"map": self._map, "manipulate": self._manipulate, "stop": self._stop}
        answer = answers.get(self._admitted())
        if answer is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        answer(self.body())

    def refuse(self, status: HTTPStatus, text: str) -> None:
        """Errors are JSON, too."""
        self.send_json({"error": text}, status)

    def _admitted(self) -> str:
        """What is asked for, by somebody who may."""
        if not self.server.knows(self.headers.get("Host", "")):
            text = f"expected the address {self.server.address}, got another host name; open the printed link"
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, text)
        found = _ROUTE.fullmatch(self.path)
        if found is None or not hmac.compare_digest(found[1], self.server.token):
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here; open the printed link")
        return found[2] or ""

    def _studio(self) -> Studio:
        if self.server.studio is None:
            raise Refused(HTTPStatus.CONFLICT, _STORED)
        return self.server.studio

    def _progress(self) -> None:
        # It has ended once the thread is free, so that whoever sees the end can ask for maps.
        ends = {"phase": "running"} if self.server.bench.working else {}
        self.send_json(finite_or_null({**self._studio().progress.as_dict(), **ends}))

    def _map(self, body: dict[str, Any]) -> None:
        asked = _read(Asked, body)
        draw = partial(self.server.explored.draw, asked)
        self.send_json(finite_or_null(_tried(lambda: self.server.bench.ask(asked.page, asked.view, draw))))

    def _manipulate(self, body: dict[str, Any]) -> None:
        studio, attack = self._studio(), _read(Attack, body)
        _tried(lambda: self.server.bench.begin(partial(studio.run, attack), lambda: studio.prepare(attack)))
        self.send_json({"phase": "running"}, HTTPStatus.ACCEPTED)

    def _stop(self, _: dict[str, Any]) -> None:
        self._studio()
        self.server.bench.stop()
        self.send_json({"stopping": self.server.bench.working})


def _read(form: type[Request], body: dict[str, Any]) -> Request:
    try:
        return form.of(body)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


def _tried(compute: Callable[[], Any]) -> Any:
    """The result; what goes wrong is told in the place of the map."""
    try:
        return compute()
    except Outdated:
        raise Refused(HTTPStatus.CONFLICT, "outdated: something newer was asked for") from None
    except Busy as busy:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(busy)) from None
    except Exception as error:
        # A method may be the user's own or another package's, and fail in any way.
        text = " ".join(str(error).split()) or type(error).__name__
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, text) from error
