"""The page in a real browser."""

import importlib.util
from pathlib import Path

import pytest

from veridical.report import render

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshot.py"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_well_in_chromium(run_directory, tmp_path, dark):
    pytest.importorskip("playwright", reason="needs Playwright (pip install playwright)")
    specification = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    screenshot = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(screenshot)
    if screenshot.find_chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium, or set CHROMIUM)")
    out = tmp_path / "page.png"
    assert screenshot.look(render(run_directory), out, dark=dark) == []
    assert out.stat().st_size > 10_000
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='data:image/png;base64,AAAA' alt='x'><p style='width: 900px'>wide</p>")
    problems = screenshot.look(broken, None)
    assert any("not loaded" in text for text in problems) and any("wider" in text for text in problems)
