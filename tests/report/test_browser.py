"""The pages in a real browser: whole, accessible, filtered, sorted, printed."""

import re

import pytest

from report.browser import opened, screenshot_script
from veridical.report import comparison_page, render

WIDER = """() => [...document.querySelectorAll('.scroll')]
    .filter(box => box.scrollWidth > box.clientWidth).map(box => box.getAttribute('aria-label'))"""
BROKEN_STOCK = """async () => {
    const sources = [...document.querySelectorAll('image')].map(one => one.getAttribute('href'));
    const load = (source) => new Promise((done) => {
        const one = new Image();
        one.onload = () => done(true);
        one.onerror = () => done(false);
        one.src = source;
    });
    const all = await Promise.all(sources.map(load));
    return [all.length, all.filter(one => !one).length];
}"""
UNSEEN = """() => [...document.querySelectorAll('details.photo[open] svg[role=img]')]
    .filter(one => one.querySelector('use').getBBox().width < 2).length"""
SERIOUS = ("serious", "critical")

pytestmark = pytest.mark.slow


@pytest.fixture
def screenshot():
    return screenshot_script()


@pytest.fixture(scope="module")
def report(example):
    return render(example)


@pytest.fixture
def fresh(report):
    with opened(report) as page:
        yield page


def rows(page):
    return page.locator("table.results tbody tr:visible th").all_inner_texts()


def test_tables_are_whole_on_a_screen_of_1200_pixels_and_on_paper(run_directory, screenshot):
    """A phone scrolls the wide ones."""
    with opened(render(run_directory)) as page:
        assert page.evaluate(WIDER) == []
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 within margins of a centimeter
        assert page.evaluate(screenshot.OVERFLOW) <= 0


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_well_in_chromium(run_directory, tmp_path, screenshot, dark):
    out = tmp_path / "page.png"
    assert screenshot.look(render(run_directory), out, dark=dark) == []
    assert out.stat().st_size > 10_000
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='data:image/png;base64,AAAA' alt='x'><p style='width: 900px'>wide</p>")
    problems = screenshot.look(broken, None)
    assert any("not loaded" in text for text in problems) and any("wider" in text for text in problems)


def findings(page):
    """What axe-core finds, with its gravity; evaluated, as the page lets no other script in."""
    axe = pytest.importorskip("axe_playwright_python.base", reason="needs pip install axe-playwright-python")
    page.evaluate(axe.AXE_SCRIPT)
    result = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return {
        one["id"]: (one["impact"], [node["html"][:120] for node in one["nodes"]][:3])
        for one in result["violations"]
    }


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 375])
def test_axe_finds_nothing_serious(report, dark, width):
    look = {"color_scheme": "dark" if dark else "light", "viewport": {"width": width, "height": 900}}
    with opened(report, **look) as page:
        page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert not {name: one for name, one in findings(page).items() if one[0] in SERIOUS}
        page.evaluate("() => document.querySelector('h1').style.color = '#ccc'")
        assert dark or "color-contrast" in findings(page)


def comparison(example, folder):
    change = {
        "method": "gradient", "test": "random-logit", "statistic": "median_ssim", "required": True,
        "before": 0.3, "after": 0.5, "difference": 0.2,
        "low": 0.1, "high": 0.3, "level": 0.99, "n": 2, "paired": True,
        "direction": "worse", "note": "",
    }  # fmt: skip
    better = {**change, "method": "lrp-zplus", "direction": "better", "difference": -0.1}
    content = {
        "before": str(example), "after": str(example), "changes": [change, better], "notes": ["Images: 2."],
        "verdicts": {"gradient": ("believable", "not decided"), "lrp-zplus": ("not decided", "believable")},
    }  # fmt: skip
    path = folder / "comparison.html"
    path.write_text(comparison_page([content], [example, example], folder))
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_the_comparison_is_accessible_filtered_and_whole(report, example, tmp_path, dark):
    path = comparison(example, tmp_path)
    with opened(path, color_scheme="dark" if dark else "light") as page:
        assert not {name: one for name, one in findings(page).items() if one[0] in SERIOUS}
        assert page.evaluate(BROKEN_STOCK)[1] == 0 and page.evaluate(UNSEEN) == 0
        page.locator("select[name=is]").select_option("worse")
        assert page.locator("tbody tr[data-item]:visible").count() == 1
        link = page.get_by_role("link", name=re.compile("report of")).first.get_attribute("href")
        assert (tmp_path / link).resolve() == (example / "report.html").resolve()


def test_methods_are_filtered_by_name_and_verdict(fresh):
    assert len(rows(fresh)) == 3
    fresh.get_by_label("Name contains").fill("LRP")
    assert rows(fresh) == ["lrp-zplus"]
    assert fresh.locator("section.method:visible").count() == 1
    assert fresh.get_by_text("1 of 3 methods shown").is_visible()
    fresh.get_by_role("button", name="Show all").first.click()
    fresh.locator("select[name=is]").select_option("believable")
    assert rows(fresh) == ["gradient"]


def test_a_link_to_a_method_that_is_filtered_away_shows_it(fresh):
    fresh.get_by_label("Name contains").fill("lrp")
    fresh.locator(".answer a", has_text="guided-backprop").click()
    fresh.wait_for_function("document.querySelectorAll('section.method:not([hidden])').length === 3")
    assert fresh.locator("#method-guided-backprop").is_visible()


@pytest.mark.parametrize(
    ("column", "first", "then"),
    [("method", "gradient", "lrp-zplus"), ("Other class", "gradient", "lrp-zplus")],
)
def test_methods_are_sorted_by_name_and_by_each_statistic_from_the_keyboard(fresh, column, first, then):
    button = fresh.get_by_role("button", name=f"Sort by {column}", exact=True)
    button.focus()
    fresh.keyboard.press("Enter")
    assert rows(fresh)[0] == first
    assert fresh.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    fresh.keyboard.press("Space")
    assert rows(fresh)[0] == then and fresh.locator("[aria-sort=descending]").count() == 1


def test_what_was_not_measured_is_sorted_last(fresh):
    button = fresh.get_by_role("button", name="Sort by Manipulation", exact=True)
    for _ in range(2):
        button.click()
        assert sorted(rows(fresh)) == ["gradient", "guided-backprop", "lrp-zplus"]


def test_photographs_are_filtered_sorted_and_opened(fresh):
    fresh.get_by_label("Name or class contains").fill("thing 1")
    photos = fresh.locator("details.photo:visible")
    assert photos.count() == 1 and "photo-1.png" in photos.inner_text()
    fresh.get_by_role("button", name="Show all").last.click()
    fresh.locator("select[name=sort]").select_option("probability")
    assert "photo-1.png" in photos.first.inner_text()
    fresh.locator("a[href='#photo-2']").first.click()
    opened_one = fresh.locator("details.photo[open]")
    assert opened_one.count() == 1 and opened_one.locator("svg[role=img]").count() == 4
    assert fresh.evaluate(UNSEEN) == 0 and fresh.evaluate(BROKEN_STOCK) == [8, 0]


def test_without_scripts_everything_can_be_read_and_no_dead_control_is_shown(report):
    with opened(report, java_script_enabled=False) as page:
        assert page.locator("form:visible, button:visible").count() == 0
        assert page.locator("section.method:visible").count() == 3
        page.locator("details.photo summary").first.click()
        assert page.locator("details.photo[open] svg[role=img]:visible").count() == 4


def test_the_page_is_printed_whole(report):
    with opened(report) as page:
        pages = page.pdf(format="A4", print_background=False).count(b"/Type /Page\n")
        page.emulate_media(media="print")
        assert page.locator("form:visible, button:visible").count() == 0
        assert page.locator("table.results:visible, section.method:visible").count() == 4
        assert page.get_by_text("On paper those photographs are open").is_visible()
    assert 3 <= pages < 40
