"""Look at a report in a real browser: check that it is whole, and save a picture of it.

    python scripts/screenshot.py REPORT OUT.png [--width 1200] [--dark] [--viewport]

Needs Chromium (Debian: apt-get install chromium) and Playwright for Python (pip install playwright). Exit
status 1 where the page has a console error, a picture that did not load, any request besides the file
itself, or is wider than a phone of 375 pixels; 2 where there is no Chromium.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

PHONE = 375
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROKEN_PICTURES = (
    """() => [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt)"""
)
OVERFLOW = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""


def find_chromium() -> str | None:
    """Return the path of a Chromium on this machine, or None; the environment variable CHROMIUM wins."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def look(
    report: Path, out: Path | None, *, width: int = 1200, dark: bool = False, whole: bool = True
) -> list[str]:
    """Open a report in headless Chromium and return what is wrong with it (nothing, if all is well).

    Args:
        report: The HTML file.
        out: Where to save a screenshot, or None.
        width: Width of the window for the screenshot, in CSS pixels.
        dark: Ask for the dark color scheme.
        whole: Save the whole page and not only the first screen.

    Raises:
        FileNotFoundError: There is no Chromium, or no report.
    """
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        raise FileNotFoundError(
            "expected a Chromium, got none; install it (apt-get install chromium) or set CHROMIUM"
        )
    address = report.resolve(strict=True).as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
            )
            problems = _watch(page, address)
            page.goto(address, wait_until="load")
            problems += [f"picture not loaded: {alt}" for alt in page.evaluate(BROKEN_PICTURES)]
            if out is not None:
                page.screenshot(path=str(out), full_page=whole)
            page.set_viewport_size({"width": PHONE, "height": 812})
            excess = page.evaluate(OVERFLOW)
            if excess > 0:
                problems.append(f"the page is {excess} pixels wider than a window of {PHONE}")
        finally:
            browser.close()
    return problems


def _watch(page: Any, address: str) -> list[str]:
    """Collect console errors, page errors and foreign requests while the page loads."""
    problems: list[str] = []

    def on_console(message: Any) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"console {message.type}: {message.text}")

    def on_request(request: Any) -> None:
        if request.url != address and not request.url.startswith("data:"):
            problems.append(f"request: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("request", on_request)
    return problems


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Check a report in headless Chromium and save a screenshot.")
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--viewport", action="store_true", help="save the first screen only")
    options = parser.parse_args()
    try:
        problems = look(
            options.report, options.out, width=options.width, dark=options.dark, whole=not options.viewport
        )
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if not problems:
        sys.stdout.write(f"{options.report}: well; screenshot in {options.out}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
