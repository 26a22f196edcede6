"""The page in a real browser."""

import importlib.util
from pathlib import Path

import pytest

from veridical.report import render

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshot.py"


WIDER = """() => [...document.querySelectorAll('.scroll')]
    .filter(box => box.scrollWidth > box.clientWidth).map(box => box.getAttribute('aria-label'))"""


@pytest.fixture
def screenshot():
    pytest.importorskip("playwright", reason="needs Playwright (pip install playwright)")
    specification = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    found = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)
    if found.find_chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium, or set CHROMIUM)")
    return found


@pytest.mark.slow
def test_tables_are_whole_on_a_screen_of_1200_pixels_and_on_paper(run_directory, screenshot):
    """A phone scrolls the wide ones."""
    from playwright.sync_api import sync_playwright

    address = render(run_directory).resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=screenshot.find_chromium(), args=screenshot.ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(address, wait_until="load")
        wide = page.evaluate(WIDER)
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 within margins of a centimeter
        on_paper = page.evaluate(screenshot.OVERFLOW)
        browser.close()
    assert wide == [] and on_paper <= 0


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_well_in_chromium(run_directory, tmp_path, screenshot, dark):
    out = tmp_path / "page.png"
    assert screenshot.look(render(run_directory), out, dark=dark) == []
    assert out.stat().st_size > 10_000
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='data:image/png;base64,AAAA' alt='x'><p style='width: 900px'>wide</p>")
    problems = screenshot.look(broken, None)
    assert any("not loaded" in text for text in problems) and any("wider" in text for text in problems)
