"""The gate: exit codes, the table, JSON, annotations, JUnit."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from cli.runs import POLICY, spread, store
from veridical.cli.main import app

GOOD = {"random-logit": spread(0.2, 0.6), "pixel-flipping": spread(0.1, 0.3)}
BAD = {"random-logit": spread(0.95, 1.0), "pixel-flipping": spread(-0.3, -0.1)}
OPEN = {"random-logit": spread(0.75, 1.0), "pixel-flipping": spread(-0.1, 0.1)}


@pytest.fixture
def gate(tmp_path):
    store(tmp_path / "run", {"good": GOOD, "bad": BAD, "open": OPEN})

    def run(methods, *more, text=POLICY):
        policy = tmp_path / "policy.toml"
        policy.write_text(text.format(methods=json.dumps(methods)))
        words = ["gate", tmp_path / "run", "--policy", policy, *more]
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


@pytest.mark.parametrize(
    ("methods", "code"),
    [(["good"], 0), (["bad"], 1), (["open"], 1), (["good", "bad"], 1), ([], 1), (["god"], 2)],
)
def test_the_exit_code_is_that_of_the_listed_methods(gate, methods, code):
    result = gate(methods)
    assert result.exit_code == code, result.output
    if code < 2:
        listed = methods or ["good", "bad", "open"]
        assert f"{listed.count('good')} of {len(listed)} methods" in result.stdout
    else:
        assert result.stdout == "" and "no 'god'; did you mean good?" in result.stderr


def test_the_table_has_a_line_a_method(gate):
    lines = gate([]).stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["ok", "good"], ["FAIL", "bad"], ["FAIL", "open"]]
    assert "images would decide it" in lines[2]


def test_a_policy_may_let_open_verdicts_pass(gate):
    text = POLICY.replace("level", 'admit = ["believable", "not decided"]\nlevel')
    assert gate(["open", "good"], text=text).exit_code == 0


def test_a_typing_error_is_answered_with_the_nearest_key(gate):
    result = gate([], text=POLICY.replace("threshold = 0.9", "treshold = 0.9"))
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "policy.toml: unknown key 'tests.random-logit.treshold' (= 0.9)" in result.stderr
    assert "did you mean threshold?" in result.stderr


def test_json_is_json_and_annotations_do_not_disturb_it(gate):
    result = gate([], "--json", "--github")
    found = json.loads(result.stdout)
    assert found["passed"] is False and found["methods"]["good"]["admissible"] is True
    assert found["methods"]["bad"]["evidence"][0]["threshold"] == 0.9
    assert found["policy"]["name"] == "small" and "::error" in result.stderr


def test_annotations_are_escaped_and_of_the_right_kind(gate):
    lines = [line for line in gate([], "--github").stdout.splitlines() if line.startswith("::")]
    assert [line.split("::")[1] for line in lines] == [
        "error title=bad%3A not believable",
        "warning title=bad%3A fails pixel-flipping (advisory)",
        "error title=open%3A not decided",
    ]
    assert all("%" not in line.replace("%25", "").replace("%3A", "") for line in lines)


def test_nothing_in_an_annotation_can_end_it_early():
    from veridical.cli.gate_output import _annotation

    line = _annotation("error", "a,b:c\n::warning::x", "100 %\r\n::error::y")
    assert line == "::error title=a%2Cb%3Ac%0A%3A%3Awarning%3A%3Ax::100 %25%0D%0A::error::y"


def junit_of(gate, tmp_path, methods, **more):
    result = gate(methods, "--junit", tmp_path / "deep" / "junit.xml", **more)
    root = ElementTree.parse(tmp_path / "deep" / "junit.xml").getroot()
    return result, root


def test_junit_has_a_case_for_every_method_and_test(gate, tmp_path):
    result, root = junit_of(gate, tmp_path, [])
    cases = {
        (case.get("classname"), case.get("name")): [one.tag for one in case] for case in root.iter("testcase")
    }
    assert result.exit_code == 1 and len(cases) == 9
    assert cases["veridical.good", "random-logit"] == []
    assert cases["veridical.bad", "random-logit"] == ["failure"] == cases["veridical.bad", "verdict"]
    assert cases["veridical.bad", "pixel-flipping"] == ["skipped"]
    assert cases["veridical.open", "random-logit"] == ["failure"]
    assert not [path.name for path in (tmp_path / "deep").iterdir() if path.name != "junit.xml"]


@pytest.mark.parametrize("methods", [["good"], ["bad"], ["open"], []])
def test_junit_fails_exactly_where_the_gate_does(gate, tmp_path, methods):
    result, root = junit_of(gate, tmp_path, methods)
    suite = root[0]
    assert (int(suite.get("failures")) > 0) == (result.exit_code == 1)
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
        assert int(suite.get(name)) == len(list(suite.iter(tag)))


ATTRIBUTES = {
    "testsuites": set(), "properties": set(), "system-out": set(), "system-err": set(),
    "testsuite": {"name", "package", "id", "hostname", "time", "timestamp", "skipped", "tests", "failures",
                  "errors"},
    "property": {"name", "value"}, "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"}, "skipped": {"message"},
}  # fmt: skip


def test_junit_has_the_form_of_the_schema(gate, tmp_path):
    _, root = junit_of(gate, tmp_path, [])
    for element in root.iter():
        assert set(element.keys()) == ATTRIBUTES[element.tag]
    tags = [child.tag for child in root[0]]
    assert tags == ["properties", *["testcase"] * 9, "system-out", "system-err"]
    assert root[0].get("timestamp") == "2026-01-02T03:04:05"


def test_a_validator_accepts_junit(gate, tmp_path):
    xmlschema = pytest.importorskip("xmlschema", reason="needs pip install xmlschema")
    schema = xmlschema.XMLSchema(Path(__file__).parent / "junit.xsd")
    path = tmp_path / "deep" / "junit.xml"
    junit_of(gate, tmp_path, [])
    schema.validate(path)
    path.write_text(path.read_text().replace('time="0"', 'time="soon"', 1))
    assert not schema.is_valid(path)


def test_another_program_reads_the_same_counts(gate, tmp_path):
    junitparser = pytest.importorskip("junitparser", reason="needs pip install junitparser")
    result, root = junit_of(gate, tmp_path, [])
    found = junitparser.JUnitXml.fromfile(str(tmp_path / "deep" / "junit.xml"))
    suite = next(iter(found))
    failed = [case.name for case in suite if any(isinstance(one, junitparser.Failure) for one in case.result)]
    assert (suite.tests, suite.failures, suite.skipped) == (9, len(failed), int(root[0].get("skipped")))
    assert result.exit_code == 1 and failed.count("verdict") == 2


def test_what_xml_cannot_hold_is_replaced(gate, tmp_path):
    skipped = [{"method": "good", "test": "random-logit", "reason": "a \x00 <b> & \x1b[0m", "applies": True}]
    store(tmp_path / "run", {"good": GOOD}, skipped=skipped)
    _, root = junit_of(gate, tmp_path, [])
    assert "a ? <b> & ?[0m" in root.find(".//testcase[@name='random-logit']/failure").get("message")


def test_what_does_not_apply_is_skipped_and_what_is_missing_fails(gate, tmp_path):
    text = (
        POLICY + '[tests.cosine-convergence]\nstatistic = "median_cosine"\nthreshold = 0.99\nsource = "s"\n'
    )
    _, root = junit_of(gate, tmp_path, ["good"], text=text)
    assert [one.tag for one in root.find(".//testcase[@name='cosine-convergence']")] == ["failure"]
    skipped = [{"method": "good", "test": "cosine-convergence", "reason": "no rules", "applies": False}]
    store(tmp_path / "run", {"good": GOOD}, skipped=skipped)
    result, root = junit_of(gate, tmp_path, ["good"], text=text)
    assert [one.tag for one in root.find(".//testcase[@name='cosine-convergence']")] == ["skipped"]
    assert result.exit_code == 0


@pytest.mark.parametrize("change", [{"finished": False}, {"methods": {}}])
def test_a_run_that_cannot_be_judged_is_refused(gate, tmp_path, change):
    store(tmp_path / "run", {"good": GOOD}, **change)
    assert gate([]).exit_code == 2


def test_a_file_that_cannot_be_written_is_an_error(gate, tmp_path):
    result = gate(["good"], "--junit", tmp_path)
    assert result.exit_code == 2 and "Is a directory" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "code"), [(["good"], 0), (["bad"], 1), (["nobody"], 2)])
def test_the_exit_codes_of_a_process(tmp_path, methods, code):
    store(tmp_path / "run", {"good": GOOD, "bad": BAD})
    (tmp_path / "policy.toml").write_text(POLICY.format(methods=json.dumps(methods)))
    words = [sys.executable, "-m", "veridical", "gate", "run", "--policy", "policy.toml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
