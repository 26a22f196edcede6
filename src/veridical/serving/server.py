"""A small web server: limits of path, body and connections, strict headers, JSON in and out, and no log.

Whoever serves a page derives from `LocalServer` and `Handler` and says which paths there are. A path of a
request never becomes one of a file: what does not match a known path exactly is not found.
"""

import json
import re
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"
MAX_PATH, MAX_CONNECTIONS = 200, 64
HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"

_OWN_FILES = "script-src 'self'; style-src 'self'; img-src 'self'"
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with a status and a line of text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        """Nothing is sent yet."""
        super().__init__(text)
        self.status, self.text = status, text


class LocalServer(ThreadingHTTPServer):
    """Answers each request in a thread of its own, at most 64 at once.

    Args:
        host: the address to listen at; loopback is reached from this machine alone.
        port: 0 for any free one.
        handler: answers the requests.

    Attributes:
        sources: where a page's scripts, styles and pictures may come from, for its content security policy.
        max_body: bytes of a request at most.

    Raises:
        OSError: the address cannot be used.
    """

    daemon_threads = True
    request_queue_size = 64
    sources = _OWN_FILES
    max_body = 1000

    def __init__(self, host: str, port: int, handler: type["Handler"]) -> None:
        """Open the port; `serve_forever` answers."""
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), handler)
        except OSError as error:
            raise OSError(
                error.errno,
                f"expected an address that can be served, got {web_address(host, port)} "
                f"({(error.strerror or str(error)).lower()}); give another --port, or --host",
            ) from error

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


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `get` and `post` raise `Refused` for what they do not answer."""

    server: LocalServer
    server_version = "veridical"
    sys_version = ""
    timeout = 15  # seconds that a connection may keep its place without sending anything

    def get(self) -> None:
        """Answer a GET."""
        raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def post(self) -> None:
        """Answer a POST."""
        raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def refuse(self, status: HTTPStatus, text: str) -> None:
        """Say why a request is not answered."""
        self.send(f"{text}\n".encode(), TEXT, status)

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer(self.get)

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer(self.post)

    def _answer(self, respond: Callable[[], None]) -> None:
        try:
            if len(self.path) > MAX_PATH:
                raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"expected at most {MAX_PATH} characters")
            respond()
        except Refused as refused:
            self.refuse(refused.status, refused.text)
        except Exception as error:
            text = f"this could not be answered ({type(error).__name__}); try again"
            self.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def body(self) -> dict[str, Any]:
        """The JSON object that was sent.

        Raises:
            Refused: it is too long, of unknown length, or something else.
        """
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length) > self.server.max_body:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {self.server.max_body} bytes"
            )
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        try:
            content = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return content

    def send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send JSON."""
        self.send(json.dumps(content).encode(), "application/json", status)

    def send(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, cache: str = "no-store"
    ) -> None:
        """Send bytes of a content type."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", cache)
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """Add what every response has, those to broken requests too."""
        policy = f"default-src 'none'; {self.server.sources}; connect-src 'self'; "
        policy += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a log would hold addresses and tokens."""
