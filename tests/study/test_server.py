import json
import socket

import pytest

from veridical.serving import web_address
from veridical.serving.server import MAX_CONNECTIONS
from veridical.study import Answers, StudyServer
from veridical.study.server import link, state


@pytest.fixture
def base(server):
    return f"/s/{server.answers.invite()}"


def test_the_page_and_its_files_are_served(ask, base):
    for path, kind in (
        (base, "text/html"),
        ("/study.js", "text/javascript"),
        ("/study.css", "text/css"),
        ("/study.svg", "image/svg+xml"),
    ):
        status, headers, body = ask("GET", path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and body


def test_the_state_says_what_to_ask_and_not_which_is_which(ask, base, server):
    status, headers, body = ask("GET", f"{base}/state")
    found = json.loads(body)
    assert status == 200 and headers["Cache-Control"] == "no-store" and not found["consented"]
    assert [task["name"] for task in found["tasks"]] == ["parts", "fractions", "object"]
    assert set(found["questions"][0]) == {"position", "task", "left", "right", "shown", "answered"}
    for question, stored in zip(found["questions"], server.answers.participant(1).questions, strict=True):
        pair = server.answers.study.task(stored.task).pairs[stored.pair]
        assert (question["left"], question["right"]) in ((pair.a, pair.b), (pair.b, pair.a))
        assert (question["left"] == pair.a) == (stored.left == "A")
        assert (question["shown"] is not None) == (question["task"] == "object")
        status, headers, picture = ask("GET", f"{base}/pictures/{question['left']}.png")
        assert status == 200 and headers["Content-Type"] == "image/png" and picture.startswith(b"\x89PNG")


def test_answers_need_consent_and_are_stored_once(ask, base, server):
    answer = {"position": 2, "side": "right"}
    assert ask("POST", f"{base}/answer", answer)[0] == 403
    assert ask("POST", f"{base}/consent", {})[0] == 200
    for expected in ("stored", "repeated"):
        status, _, body = ask("POST", f"{base}/answer", answer)
        assert (status, json.loads(body)) == (200, {"outcome": expected})
    assert ask("POST", f"{base}/answer", {**answer, "side": "left"})[0] == 409
    assert ask("POST", f"{base}/answer", {**answer, "position": 12})[0] == 400
    assert [one.side for one in server.answers.participant(1).questions if one.side] == ["right"]
    assert json.loads(ask("GET", f"{base}/state")[2])["questions"][2]["answered"]


BAD_ANSWERS = [
    {},
    {"position": 2, "side": "up"},
    *({"position": position, "side": "left"} for position in ("2", -1, True, 1.0, 2**40)),
]


def test_answers_of_another_form_are_refused(ask, base):
    ask("POST", f"{base}/consent", {})
    for body in BAD_ANSWERS:
        assert ask("POST", f"{base}/answer", body)[0] == 400, body


BAD_REQUESTS = [
    ("x" * (StudyServer.max_body + 1), {}, 413),
    ("{}", {"Content-Type": "text/plain"}, 415),
    ("nothing", {"Content-Type": "application/json"}, 400),
    ("[1]", {"Content-Type": "application/json"}, 400),
    ("[" * 900, {"Content-Type": "application/json"}, 400),
    ("{}", {"Content-Length": "-1"}, 411),
    ("{}", {"Content-Length": "1e3"}, 411),
]


def test_requests_are_limited(ask, base):
    for body, headers, status in BAD_REQUESTS:
        assert ask("POST", f"{base}/consent", body, headers)[0] == status, (body, headers)


def test_a_body_of_unknown_length_is_refused(server, base):
    head = f"POST {base}/consent HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert connection.recv(64).split()[1] == b"411"


OUTSIDE = ["/", "/s", "/s/", "/study.html", "/study.py", "/study.json", "/answers.sqlite", "/pictures",
     "/etc/passwd", "/../study.json", "//study.js/../study.json",
     "/study.js/../../server.py", "/favicon.ico", "*"]  # fmt: skip


def test_nothing_else_is_served(ask):
    for path in OUTSIDE:
        assert ask("GET", path)[0] == 404, path


BEYOND = ["/", "/study.json", "/answers.sqlite", "/../../study.json", "/pictures/../study.json", "/pictures/",
     "/pictures/..%2f..%2fstudy.json", "/pictures/%2e%2e/study.json", "/pictures/..\\study.json", "/state/",
     "/pictures//etc/passwd", "/pictures/" + "0" * 20 + ".png", "/pictures/....//study.json", "/state?x=1",
     "/pictures/../../answers.sqlite", "/consent", "/answer", "%00"]  # fmt: skip


def test_no_path_leads_out_of_the_pictures(ask, base):
    for tail in BEYOND:
        status, _, body = ask("GET", base + tail)
        assert status == 404 and b"SQLite" not in body and b"consent" not in body, tail


def test_a_file_that_is_no_picture_of_the_study_is_not_served(ask, base, folder):
    (folder / "pictures" / ("f" * 20 + ".png")).write_bytes(b"secret")
    assert ask("GET", f"{base}/pictures/{'f' * 20}.png")[0] == 404


def test_foreign_tokens_see_nothing(ask, base, server):
    picture = next(iter(server.pictures))
    for tail in ("", "/state", f"/pictures/{picture}.png"):
        assert ask("GET", "/s/" + "A" * 22 + tail)[0] == 404
    assert ask("POST", "/s/" + "A" * 22 + "/answer", {"position": 0, "side": "left"})[0] == 404
    assert ask("GET", "/s/" + "A" * 500)[0] == 414
    assert ask("POST", base, {})[0] == ask("POST", f"{base}/state", {})[0] == 404


def test_other_methods_are_refused(ask, base):
    for method in ("PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"):
        status, headers, _ = ask(method, base)
        assert status == 501 and "default-src 'none'" in headers["Content-Security-Policy"]


def test_every_response_has_the_headers_and_no_version(ask, base):
    for path in (base, f"{base}/state", "/study.js", "/nothing", "/s/" + "A" * 500):
        headers = ask("GET", path)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"].strip() == "veridical"


def test_nothing_is_printed_about_requests(ask, base, capfd):
    ask("GET", base)
    ask("GET", "/nothing")
    assert capfd.readouterr() == ("", "")


def test_a_failure_is_told_without_its_text(ask, base, server, monkeypatch):
    def fail(*_):
        raise OSError("/secret/path")

    monkeypatch.setattr(server.answers, "participant", fail)
    status, _, body = ask("GET", f"{base}/state")
    assert status == 500 and b"secret" not in body


def test_there_is_a_limit_of_connections_and_it_passes(server, ask, base):
    held = [socket.create_connection(server.server_address[:2]) for _ in range(MAX_CONNECTIONS)]
    try:
        with socket.create_connection(server.server_address[:2], timeout=10) as late:
            assert late.recv(1) == b""
    finally:
        for one in held:
            one.close()
    for _ in range(100):
        try:
            assert ask("GET", base)[0] == 200
            return
        except OSError:
            continue
    pytest.fail("no place became free")


def test_it_listens_at_loopback_unless_told_otherwise(folder):
    with StudyServer(folder) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.address == f"http://127.0.0.1:{server.server_address[1]}"
    assert web_address("::1", 80) == "http://[::1]:80"
    assert link("http://host:1/", "token") == "http://host:1/s/token"


def test_a_restart_keeps_links_and_answers(folder, serve):
    with serve(folder) as first:
        token = first.answers.invite()
        first.answers.record(1, 0, "left")
    with serve(folder) as second:
        assert second.answers.find(token) == 1
        found = state(second.answers.study, second.answers.participant(1))
    assert [question["answered"] for question in found["questions"]] == [True] + [False] * 11
    assert Answers(folder).record(1, 0, "left") == "repeated"
