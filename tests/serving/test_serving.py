import socket
import threading
from http.client import HTTPConnection

import pytest

from veridical.serving import LOOPBACK, Handler, LocalServer, Refused, web_address


class Doubling(Handler):
    """Answers with twice the number that it is sent, and breaks over what is no number."""

    def post(self):
        self.send_json({"twice": 2 * int(self.body()["number"])})


@pytest.fixture
def ask():
    with LocalServer(LOOPBACK, 0, Doubling) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()

        def send(method, body=None):
            connection = HTTPConnection(*server.server_address[:2], timeout=60)
            connection.request(method, "/", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            found = reply.status, reply.getheader("Content-Security-Policy"), reply.read()
            connection.close()
            return found

        yield send
        server.shutdown()
        thread.join()


def test_what_a_page_answers_is_sent_with_its_policy(ask):
    status, policy, body = ask("POST", '{"number": 21}')
    assert (status, body) == (200, b'{"twice": 42}') and policy.startswith(
        "default-src 'none'; script-src 'self'"
    )


def test_what_it_does_not_answer_is_not_found(ask):
    status, policy, body = ask("GET")
    assert status == 404 and body == b"there is nothing here\n" and policy


def test_a_failure_is_told_without_its_text(ask):
    status, _, body = ask("POST", '{"number": "secret"}')
    assert status == 500 and b"ValueError" in body and b"secret" not in body


def test_an_address_and_a_refusal():
    assert web_address("::1", 80) == "http://[::1]:80" and web_address(LOOPBACK, 80) == "http://127.0.0.1:80"
    assert (Refused(404, "no").status, str(Refused(404, "no"))) == (404, "no")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port} .*in use.*--port"):
            LocalServer("127.0.0.1", port, Handler)
