"""Chromium for the tests of pages."""

import importlib.util
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshot.py"


def screenshot_script():
    """scripts/screenshot.py; the test is skipped where there is no Playwright or no Chromium."""
    pytest.importorskip("playwright", reason="needs Playwright (pip install playwright)")
    specification = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    found = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)
    if found.find_chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium, or set CHROMIUM)")
    return found


@contextmanager
def opened(path, **settings):
    """A page of headless Chromium that shows a file."""
    script = screenshot_script()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=script.find_chromium(), args=script.ARGUMENTS)
        try:
            page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **settings})
            page.set_default_timeout(20_000)
            page.goto(path.resolve().as_uri(), wait_until="load")
            yield page
        finally:
            browser.close()
