import threading
import time

import pytest
import torch

from veridical.explore import ExploreServer
from veridical.explore.server import PAGE, assembled
from veridical.serving.server import MAX_PATH

LOOK = {"image": 0, "target": None, "method": "gradient", "page": "a", "view": 1}


def attack(**changes):
    return {"image": 0, "method": "gradient", "other": 1, "steps": 25, **changes}


def ended(ask):
    """The progress of a manipulation once it runs no more."""
    for _ in range(1000):
        status, _, found = ask("GET", "/manipulation")
        if status == 200 and found["phase"] != "running":
            return found
        time.sleep(0.05)
    pytest.fail("it did not end")


def test_the_page_is_one_file_that_may_load_nothing(ask):
    status, headers, body = ask("GET", "")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    for name in ("explore.js", "explore.css"):
        assert (PAGE / name).read_bytes() in body
    assert b"src=" not in body.split(b"<style>")[0] and b"http://" not in body.replace(
        b"http://www.w3.org", b""
    )
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "img-src data:;" in policy
    assert "unsafe" not in policy and assembled(PAGE)[1] in policy


def test_the_state_has_images_classes_and_methods(ask):
    status, headers, found = ask("GET", "/state")
    assert status == 200 and headers["Cache-Control"] == "no-store" and found["live"]
    assert [image["name"] for image in found["images"]] == ["cat.png", "dog.png", "<b>.png"]
    assert found["labels"] == ["ant", "bee", "cat", "dog"]
    chances = [one["probability"] for one in found["images"][0]["classes"]]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1)
    assert all(image["picture"].startswith("data:image/webp;base64,") for image in found["images"])
    assert [one["name"] for one in found["methods"]][:2] == ["gradient", "gradient-x-input"]


def test_a_map_is_drawn_for_the_class_that_is_asked_for(ask, live, subject):
    predicted = int(subject.model(subject.inputs[:1]).argmax())
    status, _, found = ask("POST", "/map", LOOK)
    assert status == 200 and found["target"] == predicted and found["signed"]
    assert found["picture"].startswith("data:image/png;base64,") and found["label"] == subject.label(
        predicted
    )
    pictures = {ask("POST", "/map", {**LOOK, "target": target})[2]["picture"] for target in range(4)}
    assert len(pictures) == 4 and found["picture"] in pictures


def test_smoothing_changes_the_map(ask):
    ways = ({}, {"beta": 1.0}, {"beta": 50}, {"noise": 0.2, "samples": 4}, {"noise": 0.2, "beta": 1.0})
    assert len({ask("POST", "/map", {**LOOK, **way})[2]["picture"] for way in ways}) == len(ways)
    plain = ask("POST", "/map", LOOK)[2]["picture"]
    assert ask("POST", "/map", {**LOOK, "samples": 40})[2]["picture"] == plain  # without noise: no average


REFUSED = [
    ({"target": 4}, 422, "expected a class of 0 to 3, got 4"),
    ({"image": 3}, 422, "expected an image of 0 to 2, got 3"),
    ({"method": "../../etc/passwd"}, 422, "expected a method of this page"),
    ({"method": "patternnet"}, 422, "patterns"),
    *(({name: value}, 400, name) for name, value in (
        ("image", -1), ("image", "0"), ("image", True), ("target", 1.5), ("beta", 0.1), ("beta", 101),
        ("beta", float("nan")), ("noise", -0.1), ("noise", 0.6), ("samples", 51), ("samples", 0),
        ("page", "../x"), ("page", "A"), ("view", -1), ("file", "/etc/passwd"), ("method", "m" * 101),
    )),
]  # fmt: skip


def test_what_cannot_be_drawn_is_said(ask):
    for change, expected, words in REFUSED:
        status, headers, found = ask("POST", "/map", {**LOOK, **change})
        assert status == expected and words in found["error"], (change, found)
        assert headers["Content-Type"] == "application/json"


def test_whatever_a_method_raises_is_shown_in_its_place(serve, ask_of, subject):
    from dataclasses import replace

    from veridical.explore import Live

    def broken(model, inputs, target=None):
        raise MemoryError("too\nlarge")

    def shapeless(model, inputs, target=None):
        return inputs[0]

    def infinite(model, inputs, target=None):
        return inputs / 0

    methods = {"broken": broken, "shapeless": shapeless, "infinite": infinite}
    with serve(Live(replace(subject, methods=methods))) as server:
        texts = [ask_of(server, "POST", "/map", {**LOOK, "method": name}) for name in methods]
    assert [status for status, *_ in texts] == [422] * 3 and texts[0][2] == {"error": "too large"}


BAD_BODIES = [
    ("x" * (ExploreServer.max_body + 1), {}, 413),
    ("{}", {"Content-Type": "text/plain"}, 415),
    ("nothing", {"Content-Type": "application/json"}, 400),
    ("[1]", {"Content-Type": "application/json"}, 400),
    ("{}", {"Content-Length": "-1"}, 411),
]


def test_bodies_are_limited(ask):
    for body, headers, expected in BAD_BODIES:
        status, _, found = ask("POST", "/map", body, headers)
        assert status == expected and found["error"], body


OUTSIDE = [
    "/",
    "/e",
    "/e/",
    "/explore.js",
    "/etc/passwd",
    "/../state",
    "/e/../../etc/passwd",
    "*",
    "/favicon.ico",
]
BEYOND = ["/", "/state/", "/state?x=1", "/../state", "/..%2f..%2fetc/passwd", "/maps/gradient.safetensors",
          "/state/../../../../etc/passwd", "/%2e%2e/run.json", "/map/..", "%00", "/map", "/stop",
          "/manipulate"]  # fmt: skip


def test_no_path_leads_anywhere_else(ask):
    for path in OUTSIDE:
        status, _, found = ask("GET", f"/{path}" if path.startswith("/") else f"//{path}")
        assert status == 404 and set(found) == {"error"}, path
    for tail in BEYOND:
        assert ask("GET", tail)[0] == 404, tail
    for tail in ("", "/state", "/manipulation", "/map/"):
        assert ask("POST", tail, {})[0] == 404, tail
    assert ask("GET", "/" + "x" * MAX_PATH)[0] == 414


def test_a_wrong_token_sees_nothing(ask, server):
    for token in ("A" * 22, server.token[:-1] + ("A" if server.token[-1] != "A" else "B"), server.token[:-1]):
        for tail in ("", "/state", "/manipulation"):
            assert ask("GET", f"//e/{token}{tail}")[0] == 404
        assert ask("POST", f"//e/{token}/map", LOOK)[0] == 404


HOSTS = {
    "127.0.0.1:1": 200, "localhost": 200, "LOCALHOST:8378": 200, "[::1]:80": 200, "192.168.0.7:80": 200,
    "evil.example": 421, "evil.example:80": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
    "": 421, "localhost@evil.example": 421, "a b": 421, "[localhost]": 421,
}  # fmt: skip


def test_a_foreign_host_name_is_refused(ask):
    for host, expected in HOSTS.items():
        status, _, found = ask("GET", "/state", None, {"Host": host})
        assert status == expected, host
        assert status == 200 or "open the printed link" in found["error"]
    assert ask("POST", "/map", LOOK, {"Host": "evil.example"})[0] == 421


def test_it_listens_at_loopback_unless_told_otherwise(live):
    with ExploreServer(live) as server:
        assert server.server_address[0] == "127.0.0.1" and server.link.startswith("http://127.0.0.1:")
    with ExploreServer(live, host="localhost") as server:
        assert server.knows("localhost:80")


def test_every_answer_has_the_headers_and_nothing_is_printed(ask, capfd):
    for path in ("", "/state", "/nothing", "/" + "x" * MAX_PATH):
        headers = ask("GET", path)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Frame-Options"] == "DENY" and headers["Server"].strip() == "veridical"
    assert ask("PUT", "/state")[0] == 501
    assert capfd.readouterr() == ("", "")


def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    return thread, found


def test_one_computation_at_a_time_and_both_are_answered(ask, slow):
    first, one = in_thread(lambda: ask("POST", "/map", {**LOOK, "method": "slow"}))
    assert slow.begun.wait(10)
    second, other = in_thread(lambda: ask("POST", "/map", {**LOOK, "method": "gradient", "page": "b"}))
    time.sleep(0.1)
    assert not other and not one and ask("GET", "/state")[0] == 200  # what computes nothing does not wait
    slow.go.set()
    first.join(), second.join()
    assert one[0][0] == other[0][0] == 200


def test_a_newer_view_ends_the_older_one_of_the_same_page(ask, slow):
    first, one = in_thread(lambda: ask("POST", "/map", {**LOOK, "method": "slow"}))
    assert slow.begun.wait(10)
    waiting, two = in_thread(lambda: ask("POST", "/map", LOOK))
    time.sleep(0.05)
    status, _, found = ask("POST", "/map", {**LOOK, "view": 2})
    first.join(), waiting.join()
    assert status == 200 and found["picture"] and slow.ended == 1
    assert [answer[0][0] for answer in (one, two)] == [409, 409] and "outdated" in one[0][2]["error"]
    assert ask("POST", "/map", LOOK)[0] == 409
    assert ask("POST", "/map", {**LOOK, "page": "other"})[0] == 200


def test_a_manipulation_can_be_watched_and_reaches_its_target(ask, subject):
    assert ask("GET", "/manipulation")[2]["phase"] == "idle"
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    status, _, _ = ask("POST", "/manipulate", attack(steps=60))
    assert status == 202
    found = ended(ask)
    assert found["phase"] == "done" and found["step"] == 60 and found["request"]["other"] == 1
    assert set(found["pictures"]) == {"clean", "image", "change", "original", "map", "target"}
    figures = found["figures"]
    assert figures["after"]["to_target"]["pcc"] > figures["before"]["to_target"]["pcc"]
    assert [one["step"] for one in found["curve"]] == list(range(61))
    assert found["curve"][0]["pcc"] == pytest.approx(figures["before"]["to_target"]["pcc"], abs=1e-4)
    best = max(one["pcc"] for one in found["curve"] if not one["smoothed"])
    assert figures["after"]["to_target"]["pcc"] <= best + 1e-4
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_stop_keeps_the_best_and_maps_are_drawn_again(ask):
    ask("POST", "/manipulate", attack(steps=2000))
    while ask("GET", "/manipulation")[2]["step"] < 12:
        time.sleep(0.05)
    status, _, found = ask("POST", "/map", LOOK)
    assert status == 503 and "manipulation is running" in found["error"]
    assert ask("POST", "/manipulate", attack())[0] == 503
    assert ask("POST", "/stop", {})[2] == {"stopping": True}
    found = ended(ask)
    assert found["phase"] == "done" and found["figures"]["interrupted"] and found["step"] < 2000
    assert found["figures"]["after"]["to_target"]["pcc"] >= found["figures"]["before"]["to_target"]["pcc"]
    assert ask("POST", "/map", LOOK)[0] == 200
    assert ask("POST", "/stop", {})[2] == {"stopping": False}


def test_a_manipulation_goes_before_maps(ask, slow):
    first, one = in_thread(lambda: ask("POST", "/map", {**LOOK, "method": "slow"}))
    assert slow.begun.wait(10)
    assert ask("POST", "/manipulate", attack(steps=2))[0] == 202
    first.join()
    assert one[0][0] == 409 and ended(ask)["phase"] == "done"


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"other": 0}, 422, "another image as the target"),
        ({"other": 9}, 422, "expected an image of 0 to 2"),
        ({"target": 9}, 422, "expected a class"),
        ({"method": "nothing"}, 422, "expected a method"),
        ({"steps": 0}, 400, "steps"),
        ({"steps": 2001}, 400, "steps"),
        ({"path": "/etc"}, 400, "path"),
    ],
)
def test_a_manipulation_that_cannot_work_is_refused(ask, change, status, words):
    found = ask("POST", "/manipulate", attack(**change))
    assert found[0] == status and words in found[2]["error"]
    assert ask("GET", "/manipulation")[2]["phase"] == "idle"


def test_a_manipulation_that_fails_says_why(ask):
    ask("POST", "/manipulate", attack(method="patternnet"))
    found = ended(ask)
    assert found["phase"] == "failed" and "patterns" in found["message"]
    assert ask("POST", "/map", LOOK)[0] == 200


def test_closing_ends_what_is_computed(serve, ask_of, live, slow):
    with serve(live) as server:
        thread, one = in_thread(lambda: ask_of(server, "POST", "/map", {**LOOK, "method": "slow"}))
        assert slow.begun.wait(10)
    thread.join(10)
    assert not thread.is_alive() and slow.ended == 1 and one[0][0] == 409
