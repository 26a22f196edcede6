"""The page in a real browser: two participants, a reload, a lost connection and a restart of the server."""

import importlib.util
from pathlib import Path

import pytest

from veridical.study import Answers
from veridical.study.server import link

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshot.py"
PHONE = {"width": 375, "height": 667}
LOST = ("ERR_INTERNET_DISCONNECTED", "ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_FAILED")
PATIENCE = 60_000


@pytest.fixture
def browser():
    pytest.importorskip("playwright", reason="needs Playwright (pip install playwright)")
    specification = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    screenshot = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(screenshot)
    if screenshot.find_chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium, or set CHROMIUM)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=screenshot.find_chromium(), args=screenshot.ARGUMENTS
        )
        yield running
        running.close()


class Person:
    """A participant with a browser of their own, by keyboard or by touch."""

    def __init__(self, browser, address, touch):
        size = PHONE if touch else {"width": 1000, "height": 800}
        self.context = browser.new_context(viewport=size, has_touch=touch)
        self.context.set_default_timeout(PATIENCE)
        self.page, self.touch, self.chosen, self.problems = self.context.new_page(), touch, {}, []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self.hear)
        self.page.goto(address)

    def hear(self, message):
        if message.type in ("error", "warning") and not any(word in message.text for word in LOST):
            self.problems.append(message.text)

    def press(self, name):
        """Press the button that has the focus, or tap it."""
        if self.touch:
            self.page.tap(f"#{name}")
        else:
            self.page.wait_for_selector(f"#{name}")
            self.page.focus(f"#{name}")
            self.page.keyboard.press("Enter")

    def answer(self, side):
        """Answer the question that is shown, and wait until the page has taken the answer."""
        position = len(self.chosen)
        self.page.wait_for_selector("#introduction:visible, #asking:visible")
        if self.page.is_visible("#introduction"):
            self.press("start")
        self.page.wait_for_function(
            "at => document.documentElement.dataset.asking === at && performance.now() >= readyAt",
            arg=str(position),
        )
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        self.page.tap(f"#{side}") if self.touch else self.page.keyboard.press(f"Arrow{side.title()}")
        self.chosen[position] = side
        self.page.wait_for_function("at => study.questions[at].answered", arg=position)

    def settle(self):
        """Wait until every answer is with the server."""
        self.page.wait_for_function("() => document.documentElement.dataset.waiting === '0'")


PLANS = [["left" if (position * step) % 5 < 2 else "right" for position in range(12)] for step in (1, 2)]


def answer_in_turn(people, positions):
    for position in positions:
        for person, plan in zip(people, PLANS, strict=True):
            person.answer(plan[position])


def stored_sides(folder):
    return [[question.side for question in one.questions] for one in Answers(folder).participants()]


def lose_the_connection(people):
    """Each answers two questions without it."""
    for person in people:
        person.settle()
        person.context.set_offline(True)
    answer_in_turn(people, (5, 6))
    for person in people:
        assert person.page.evaluate("Object.keys(localStorage).length") == 2
        person.page.wait_for_function(
            "() => document.getElementById('status').textContent.startsWith('No connection. 2 answer')"
        )


@pytest.mark.slow
def test_no_answer_is_lost_or_counted_twice(browser, folder, serve):
    with serve(folder) as first:
        port = first.server_address[1]
        links = [link(first.address, first.answers.invite()) for _ in PLANS]
        people = [Person(browser, links[0], touch=False), Person(browser, links[1], touch=True)]
        for person in people:
            person.press("agree")
        answer_in_turn(people, (0, 1))
        for person in people:
            person.page.reload()  # in the middle of the first task
        answer_in_turn(people, (2, 3, 4))
        lose_the_connection(people)
        assert stored_sides(folder) == [plan[:5] + [None] * 7 for plan in PLANS]
        for person in people:
            person.context.set_offline(False)
            person.settle()
        assert stored_sides(folder) == [plan[:7] + [None] * 5 for plan in PLANS]
    answer_in_turn(people, (7,))  # without a server; the pictures were loaded in advance
    with serve(folder, port):
        people[0].page.reload()  # with an answer that only this browser has
        answer_in_turn(people, range(8, 12))
        for person in people:
            person.page.wait_for_selector("#done")
            person.settle()
            assert "All your answers are saved" in person.page.inner_text("#done-text")
            assert person.page.evaluate("Object.keys(localStorage).length") == 0
            person.page.reload()
            person.page.wait_for_selector("#done")
    assert [person.problems for person in people] == [[], []]
    assert stored_sides(folder) == PLANS


@pytest.mark.slow
def test_an_answer_whose_confirmation_was_lost_counts_once(browser, folder, serve):
    with serve(folder) as server:
        person = Person(browser, link(server.address, server.answers.invite()), touch=False)
        person.press("agree")
        person.page.wait_for_selector("#introduction")
        sent = []

        def lose_the_first_reply(route):
            sent.append(route.request.post_data)
            if len(sent) == 1:
                route.fetch()  # it arrives and is stored, and the page never hears of it
                route.abort()
            else:
                route.continue_()

        person.page.route("**/answer", lose_the_first_reply)
        person.answer("left")
        person.settle()
        assert len(sent) == 2 and sent[0] == sent[1]
        found = [question.side for question in server.answers.participant(1).questions]
        assert found == ["left"] + [None] * 11 and person.problems == []


@pytest.mark.slow
def test_a_held_key_and_a_double_tap_answer_once(browser, folder, serve):
    with serve(folder) as server:
        person = Person(browser, link(server.address, server.answers.invite()), touch=False)
        person.press("agree")
        person.page.wait_for_selector("#introduction")
        person.answer("right")
        person.page.evaluate("byId('left').click()")  # within the pause after the next pair
        for _ in range(5):
            person.page.evaluate(
                "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', repeat: true}))"
            )
        person.settle()
        found = [question.side for question in server.answers.participant(1).questions]
        assert found == ["right"] + [None] * 11


@pytest.mark.slow
def test_every_screen_has_names_for_its_controls_and_pictures(browser, folder, serve):
    nameless = """() => [...document.querySelectorAll('button, img, progress')]
        .filter(one => one.checkVisibility())
        .filter(one => !(one.alt || one.textContent.trim() || one.labels?.length))
        .map(one => one.outerHTML)"""
    with serve(folder) as server:
        person = Person(browser, link(server.address, server.answers.invite()), touch=True)
        person.page.wait_for_selector("#consent")
        assert person.page.evaluate(nameless) == []
        assert person.page.get_by_role("button", name="I agree, begin").is_visible()
        person.press("agree")
        person.page.wait_for_selector("#introduction")
        assert person.page.evaluate(nameless) == []
        assert person.page.evaluate("document.activeElement.id") == "start"
        person.answer("left")
        assert person.page.evaluate(nameless) == []
        for name in ("Left picture", "Right picture"):
            assert person.page.get_by_role("button", name=name, exact=True).is_visible()
        assert person.page.get_by_role("progressbar", name="1 of 12 answered").is_visible()
        box = person.page.locator("#left").bounding_box()
        assert box["width"] >= 150 and box["height"] >= 150
