"""The page says what the run stored, is whole, and is the same for the same files."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from veridical.records import RecordError, read_run, read_scores, write_run, write_scores
from veridical.report import comparison_page, render
from veridical.report.overview import docs_home
from veridical.report.words import TESTS

DOCS = Path(__file__).parents[2] / "docs"

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Collects what the checks need, and whether every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.drawings = []
        self.open, self.headings, self.images, self.links, self.cells, self.ids = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            self.drawings.append(found)
        if tag == "th":
            self.cells.append(found.get("scope"))
        if tag == "img":
            self.images.append(found)
        self.links += [found[key] for key in ("href", "src") if key in found]
        self.ids += [found["id"]] if "id" in found else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(example):
    return render(example).read_text(encoding="utf-8")


def test_the_page_lies_beside_the_run_and_nothing_else_is_left(run_directory):
    before = {path.name for path in run_directory.iterdir()}
    assert render(str(run_directory)) == run_directory / "report.html"
    assert {path.name for path in run_directory.iterdir()} == before | {"report.html"}


def test_the_same_files_give_the_same_bytes(run_directory):
    first = render(run_directory).read_bytes()
    assert render(run_directory).read_bytes() == first


def test_the_answer_comes_first(text):
    assert "<h1>1 of 3 explanation methods may be believed</h1>" in text
    assert text.index("<h1>") < text.index("<table")


def test_the_page_is_self_contained_and_well_formed(text):
    page = Page(text)
    assert page.open == []
    assert page.images
    outside = {link for link in page.links if not link.startswith(("data:", "#"))}
    assert all(link.startswith("https://arxiv.org/abs/") for link in outside)
    assert text.count("<script") == text.count("<script>") == 1
    assert "@import" not in text and "url(" not in text and "http-equiv" in text
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_page_can_be_read_without_seeing_it(text):
    page = Page(text)
    assert '<html lang="en">' in text
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    steps = [later - earlier for earlier, later in zip(page.headings, page.headings[1:], strict=False)]
    assert max(steps) <= 1
    assert all(image["alt"] for image in page.images)
    assert all(drawn["aria-label"] for drawn in page.drawings if drawn.get("role") == "img")
    assert set(page.cells) == {"col", "row"}
    assert text.count("<table") == text.count("<caption>")


def test_every_method_test_and_photograph_is_named(run_directory, text):
    run = read_run(run_directory)
    for name in [
        *run.methods,
        *(image.name for image in run.images),
        *(image.sha256 for image in run.images),
    ]:
        assert name in text
    assert text.count("<h4>Manipulation</h4>") == len(run.methods)
    assert "0.31" in text and "SSIM 0.31" in text
    assert "Sixt et al. 2020, section 5" in text
    assert "target.png" in text


def test_the_curves_of_pixel_flipping_are_shown_for_every_method(run_directory, text):
    assert text.count("<h4>As pixels are removed in the order of the map</h4>") == 3
    alt = "Median probability with 40 % of the pixels removed: 0.295 most relevant first"
    assert alt in text and "gain over random removal, most relevant first" in text
    kept = [row for row in read_scores(run_directory) if row.test != "pixel-flipping"]
    write_scores(run_directory, kept)
    assert "As pixels are removed" not in render(run_directory).read_text(encoding="utf-8")


def test_skipped_and_unmeasured_are_said(text):
    assert "it is not differentiable" in text
    assert "not measured" in text
    assert not re.search(r"\bnan\b", re.sub(r'"data:[^"]*"', "", text), re.IGNORECASE)


def test_tests_that_decide_come_first_and_what_was_skipped_leads_to_the_reason(run_directory):
    run = read_run(run_directory)
    run.policy["tests"]["random-logit"]["required"] = False
    (skipped,) = run.skipped
    found = run.verdicts[skipped.method].evidence
    found[:] = [one for one in found if one.test != skipped.test]
    write_run(run_directory, run)
    text = render(run_directory).read_text(encoding="utf-8")
    table = text[text.index('<table class="results') : text.index("</table>")]
    heads = re.findall(r'href="#test-([a-z-]+)"', table)
    assert sorted(heads) == sorted(run.tests)
    advisory = [run.policy["tests"].get(name, {}).get("required", True) is False for name in heads]
    assert advisory == sorted(advisory) and advisory[0] is False and heads.index("random-logit") > 0
    assert 'href="#skipped">skipped</a>' in table and 'id="skipped"' in text
    assert "it is not differentiable" not in table


def test_names_are_escaped(run_directory):
    run = read_run(run_directory)
    run.model.name = "<script>alert(1)</script>"
    write_run(run_directory, run)
    text = render(run_directory).read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;" in text


def test_an_unfinished_run_without_maps_scores_or_verdicts_has_a_page(run_directory):
    run = read_run(run_directory)
    run.finished, run.verdicts = False, {}
    write_run(run_directory, run)
    write_scores(run_directory, [])
    for path in (run_directory / "maps").rglob("*.safetensors"):
        path.unlink()
    text = render(run_directory).read_text(encoding="utf-8")
    assert "not finished" in text and "None of the 3" in text
    assert Page(text).open == []


def test_scores_that_were_not_measured_have_a_page(run_directory):
    rows = [row.__class__(**{**row.__dict__, "value": math.nan}) for row in read_scores(run_directory)]
    write_scores(run_directory, rows)
    assert Page(render(run_directory).read_text(encoding="utf-8")).open == []


@pytest.mark.parametrize("name", ["run.json", "scores.parquet"])
def test_a_missing_file_is_named(run_directory, name):
    (run_directory / name).unlink()
    with pytest.raises(RecordError, match=re.escape(name)):
        render(run_directory)
    assert not (run_directory / "report.html").exists()


@pytest.mark.parametrize("name", ["run.json", "scores.parquet", "maps/gradient.safetensors"])
def test_a_broken_file_is_named(run_directory, name):
    (run_directory / name).write_bytes(b"broken")
    with pytest.raises(RecordError, match=re.escape(name)):
        render(run_directory)


def test_a_wrong_field_is_named(run_directory):
    document = json.loads((run_directory / "run.json").read_text())
    document["images"][0]["width"] = "wide"
    (run_directory / "run.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="width"):
        render(run_directory)


def test_a_broken_run_keeps_the_old_page(run_directory):
    before = render(run_directory).read_bytes()
    (run_directory / "run.json").unlink()
    with pytest.raises(RecordError):
        render(run_directory)
    assert (run_directory / "report.html").read_bytes() == before


def test_no_torch_is_needed():
    code = "import sys; import veridical.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_photograph_opens_to_the_maps_of_all_methods_and_its_own_values(run_directory, text):
    one = text[text.index('<details class="photo" id="photo-2"') :].partition("</details>")[0]
    assert "photo-1.png" in one and "thing 1" in one
    for method in read_run(run_directory).methods:
        assert f'aria-label="Map of {method} for photo-1.png, explaining thing 1"' in one
    row = one[one.index('<th scope="row">gradient') :].partition("</tr>")[0]
    assert re.findall("<td>(.*?)</td>", row) == ["0.29", "0.31", "–", "–"]


def test_a_picture_is_stored_once_however_often_it_is_shown(text):
    sources = re.findall('href="(data:image[^"]+)"', text)
    assert len(sources) == len(set(sources)) == 2 + 2 * 3
    assert text.count('<use href="#p-photo-1"/>') == 1 + 3 + 1


def test_a_run_without_a_policy_lists_its_photographs_without_values(run_directory):
    run = read_run(run_directory)
    run.policy = {}
    write_run(run_directory, run)
    text = render(run_directory).read_text(encoding="utf-8")
    assert text.count('<details class="photo"') == 2 and "What the tests measured on" not in text


def test_every_test_leads_to_its_words_and_its_documentation(text, monkeypatch):
    for name in read_names(text):
        assert f'<h3 id="test-{name}">' in text and text.count(f'href="#test-{name}"') >= 4
    assert "<code>docs/faithfulness.md#random-logit</code>" in text
    for known in TESTS.values():
        page, _, section = known.docs.partition("#")
        content = (DOCS / page).read_text(encoding="utf-8")
        headings = re.findall("^#+ (.*)$", content, re.MULTILINE)
        assert not section or section in [head.lower().replace(" ", "-") for head in headings]


def read_names(text):
    return re.findall('<h3 id="test-([a-z-]+)">', text)


@pytest.mark.parametrize(
    ("entries", "home"),
    [
        (["Documentation, https://example.org/docs/"], "https://example.org/docs"),
        (["Home, x"], ""),
        (None, ""),
    ],
)
def test_links_lead_to_the_documentation_that_the_package_names(entries, home, monkeypatch, run_directory):
    class Metadata:
        def get_all(self, name):
            return entries

    monkeypatch.setattr("veridical.report.overview.metadata", lambda name: Metadata())
    assert docs_home() == home
    link = f'<a href="{home}/manipulation.md">'
    assert (link in render(run_directory).read_text(encoding="utf-8")) == bool(home)


def change(**more):
    return {
        "method": "gradient", "test": "random-logit", "statistic": "median_ssim", "required": True,
        "before": 0.3, "after": math.nan, "difference": 0.2,
        "low": 0.1, "high": 0.3, "level": 0.99, "n": 2, "paired": True,
        "direction": "worse", "note": "", **more,
    }  # fmt: skip


def compared(run_directory, runs, beside=None):
    content = {
        "before": "one", "after": "two", "changes": [change(), change(direction="better")],
        "notes": ["Images: 2."], "verdicts": {"gradient": ("believable", "not decided")},
    }  # fmt: skip
    return comparison_page([content], runs, beside)


def test_the_comparison_shows_the_maps_of_both_runs_side_by_side(run_directory, example, tmp_path):
    render(run_directory)
    text = compared(run_directory, [run_directory, example], tmp_path)
    assert Page(text).open == []
    for when in ("before", "after"):
        assert text.count(f'alt="Map of gradient for photo-0.png, {when}"') == 1
    assert "Shown are 2 of 2 photographs that both runs have." in text
    assert f'href="{run_directory.name}/report.html"' in text


def test_the_comparison_takes_photographs_of_the_same_name_where_no_digest_agrees(run_directory, example):
    run = read_run(run_directory)
    for image in run.images:
        image.sha256 = "other"
    run.images[0].name = "elsewhere.png"
    write_run(run_directory, run)
    text = compared(run_directory, [example, run_directory])
    assert "Shown are 1 of 1 photographs" in text and "photo-1.png, after" in text
    (run_directory / "maps" / "gradient.safetensors").unlink()
    assert "Maps side by side" not in compared(run_directory, [example, run_directory])
    assert "Maps side by side" not in compared(run_directory, [])
