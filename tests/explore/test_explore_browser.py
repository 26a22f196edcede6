"""The page in a real browser, at the width of a phone and by keyboard."""

import importlib.util
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshot.py"
PHONE = {"width": 375, "height": 667}
PATIENCE = 120_000
FRAMES = ["image before", "image", "change, amplified", "map before", "map", "target map"]


@pytest.fixture
def page():
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
        context = running.new_context(viewport=PHONE)
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
        running.close()


class Viewer:
    """Somebody at the page, who notices what the browser complains about."""

    def __init__(self, page, link):
        self.page, self.problems, self.requests = page, [], []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self.hear)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(link)
        self.settle(0)

    def hear(self, message):
        # Chromium reports every refused request; the page shows the reason in the map's place.
        if message.type in ("error", "warning") and not re.search(r"status of 4(09|22)", message.text):
            self.problems.append(message.text)

    def settle(self, before):
        """Wait for a later view whose maps are drawn; returns its number."""
        self.page.wait_for_function(
            "before => Number(document.documentElement.dataset.drawn || 0) > before", arg=before
        )
        return int(self.page.evaluate("document.documentElement.dataset.drawn"))

    def picture(self, method):
        """The map of a method, "" where there is none."""
        cell = self.page.locator("#grid li", has=self.page.get_by_role("heading", name=method, exact=True))
        shown = cell.locator("img")
        return shown.get_attribute("src") if shown.count() else ""

    def change(self, act):
        """The map of the gradient after something was done."""
        before = int(self.page.evaluate("document.documentElement.dataset.drawn"))
        act()
        self.settle(before)
        return self.picture("gradient")


@pytest.mark.slow
def test_images_classes_and_sliders_change_the_maps_and_a_manipulation_converges(page, serve, live, slow):
    slow.go.set()
    with serve(live) as server:
        viewer = Viewer(page, server.link)
        first = viewer.picture("gradient")
        assert first.startswith("data:image/png") and viewer.picture("patternnet") == ""
        assert "patterns" in page.locator("#grid").inner_text() and "4 of 5 maps" in page.inner_text(
            "#status"
        )
        page.focus("#images input >> nth=0")
        shown = [first, viewer.change(lambda: page.keyboard.press("ArrowRight"))]
        assert "dog.png" in page.get_by_alt_text("Map of gradient for").get_attribute("alt")
        shown.append(viewer.change(lambda: page.click("#classes button >> nth=2")))
        page.focus("#beta")
        shown.append(viewer.change(lambda: [page.keyboard.press("ArrowRight") for _ in range(30)]))
        assert page.get_attribute("#beta", "aria-valuetext") == page.inner_text("#beta-value") != "off"
        page.focus("#noise")
        shown.append(viewer.change(lambda: page.keyboard.press("ArrowRight")))
        assert len(set(shown)) == len(shown) and page.is_enabled("#samples")
        assert viewer.change(lambda: page.keyboard.press("ArrowLeft")) == shown[-2]
        viewer.change(lambda: (page.fill("#other-class", "CAT"), page.press("#other-class", "Enter")))
        assert "cat" in page.inner_text("#classes [aria-pressed=true]")
        page.fill("#steps", "40")
        page.press("#steps", "Enter")
        page.wait_for_function("() => document.documentElement.dataset.attack === 'done'")
        assert "Done. Correlation" in page.inner_text("#attack-status")
        assert page.locator("#frames h3").all_inner_texts() == FRAMES
        assert re.search(r"times [0-9.]+\b", page.inner_text("#frames"))
        assert page.locator("#frames img").count() == 6 and page.locator("#figures dd").count() == 8
        assert page.locator("#curve .net").get_attribute("points").count(",") >= 5
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert viewer.problems == [] and all(
            url.startswith((server.link, "data:")) for url in viewer.requests
        )


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(page, serve, live, slow, dark):
    axe = pytest.importorskip("axe_playwright_python.base", reason="needs pip install axe-playwright-python")
    slow.go.set()
    page.emulate_media(color_scheme="dark" if dark else "light")
    with serve(live) as server:
        Viewer(page, server.link)
        page.fill("#steps", "3")
        page.click("#start")
        page.wait_for_function("() => document.documentElement.dataset.attack === 'done'")
        page.evaluate(axe.AXE_SCRIPT)
        found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not {one["id"]: [node["html"][:150] for node in one["nodes"]][:3] for one in serious}


@pytest.mark.slow
def test_a_manipulation_can_be_stopped(page, serve, live, slow):
    slow.go.set()
    with serve(live) as server:
        viewer = Viewer(page, server.link)
        page.fill("#steps", "2000")
        page.click("#start")
        page.wait_for_function("() => document.getElementById('progress').value > 12")
        page.click("#stop")
        page.wait_for_function("() => document.documentElement.dataset.attack === 'done'")
        assert "Stopped" in page.inner_text("#attack-status") and page.is_enabled("#start")
        assert viewer.problems == []


@pytest.mark.slow
def test_a_stored_run_has_no_controls_that_need_a_network(page, serve, run_directory):
    from veridical.explore import StoredRun

    with serve(StoredRun(run_directory)) as server:
        viewer = Viewer(page, server.link)
        assert viewer.picture("gradient").startswith("data:") and "stored map of own" in page.inner_text(
            "#grid"
        )
        assert not page.is_visible("#beta") and not page.is_visible("#attack")
        page.click("#images label >> nth=2")
        viewer.settle(1)
        assert viewer.problems == []


CIFAR = """
from networks_real import CifarResNet
from veridical.models import Preprocessing

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()

def build():
    return CifarResNet(3), Preprocessing(resize=None, crop=None), tuple(CLASSES)
"""


@contextmanager
def command_serving(folder, *arguments):
    """The link of a running `veridical explore`."""
    (folder / "cifarmodule.py").write_text(CIFAR)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    command = [sys.executable, "-m", "veridical", "explore", "--model", "cifarmodule:build", "--port", "0"]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        try:
            yield next(line.strip() for line in process.stdout if line.startswith("http"))
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.real_data
def test_a_manipulation_of_a_trained_network_converges(page, data_folder, tmp_path):
    weights, images = data_folder / "models" / "resnet20_cifar10.pt", data_folder / "cifar10" / "test.zip"
    options = ("--weights", weights, "--images", images, "--limit", 4, "--methods", "gradient,lrp-zplus")
    with command_serving(tmp_path, *options) as link:
        viewer = Viewer(page, link)
        assert "4 of 10000 images" in page.inner_text("body") and viewer.picture("lrp-zplus")
        page.fill("#steps", "150")
        page.click("#start")
        page.wait_for_function("() => document.getElementById('progress').value > 12")
        assert page.locator("#frames img").count() >= 3 and page.is_disabled("#start")
        page.wait_for_function("() => document.documentElement.dataset.attack === 'done'")
        before, after = page.evaluate(PCC)
        assert before < 0.6 and after > before + 0.2
        assert float(page.inner_text("#figures").split("PSNR")[1].split()[0]) > 25
        assert viewer.problems == []


PCC = """() => [...document.querySelectorAll('#figures dd')][0].textContent.match(/-?[0-9.]+/g).map(Number)"""
