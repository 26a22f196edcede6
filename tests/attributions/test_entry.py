"""A method's entry says what the code does: docstrings taken apart, rules and bias as they are."""

from dataclasses import dataclass, replace
from functools import partial

import pytest

from veridical import attributions
from veridical.attributions import CONVENTIONS, entry, method, methods
from veridical.attributions.entry import (
    SECTIONS,
    bias_text,
    method_entry,
    method_summary,
    problems,
    read_arguments,
    read_docstring,
)
from veridical.rules import RuleSet

GOOD = """One line.

    R = x (W^T R) for _x in [a, b].
    Second line of the paragraph.

    Args:
        low, high: the range,
            on two lines.
        seed: a number.

    Source:
        Somebody 2020: eq. 1.

    Deviations:
        None.

    Peers:
        None known.
    """


@dataclass(frozen=True)
class Sample:
    """Replaced below."""

    low: float = 0.0
    high: float = 1.0
    seed: str = "one"
    label: str = "sample"

    @property
    def rules(self) -> RuleSet:
        return method("gradient").rules


Sample.__doc__ = GOOD


@pytest.fixture
def sample(monkeypatch):
    """A catalog with a method whose docstring and rules a test can change."""
    catalog = {**attributions._CATALOG, "sample": (Sample, {"low": 0.5}), "other": (Sample, {})}
    for module in (attributions, entry):
        monkeypatch.setattr(module, "_CATALOG", catalog)
    monkeypatch.setattr(Sample, "__doc__", GOOD)
    return monkeypatch


def test_a_docstring_is_taken_apart() -> None:
    found = read_docstring(Sample)
    assert found.summary == "One line."
    assert found.text == "R = x (W^T R) for _x in [a, b].\nSecond line of the paragraph."
    assert list(found.sections) == list(SECTIONS)
    assert found.sections["Source"] == "Somebody 2020: eq. 1."
    assert read_docstring(object()).sections == {}


def test_the_arguments_are_taken_apart() -> None:
    assert read_arguments(read_docstring(Sample).sections["Args"]) == {
        "low": "the range, on two lines.", "high": "the range, on two lines.", "seed": "a number.",
    }  # fmt: skip
    assert read_arguments("") == {}


def test_an_entry_has_everything(sample) -> None:
    text = method_entry("sample")
    assert text.startswith("## sample\n\nOne line.\n\nR = x (W^T R) for \\_x in [a, b]. Second line")
    assert "test_entry.Sample` with `low=0.5`. The same class: `other`." in text
    assert "| convolution, linear | R_in = W^T R. |" in text
    assert "| `high` | `1.0` | the range, on two lines. |" in text and '| `seed` | `"one"` |' in text
    assert "label" not in text
    assert text.endswith(
        "**Source.** Somebody 2020: eq. 1.\n\n**Deviations.** None.\n\n**Peers.** None known.\n"
    )
    assert problems("sample") == []


@pytest.mark.parametrize("header", SECTIONS)
def test_a_missing_section_is_named(header: str, sample) -> None:
    sample.setattr(Sample, "__doc__", GOOD.replace(f"{header}:", f"{header} are"))
    assert f"Sample: no section {header}" in problems("sample")


def test_an_option_without_text_is_named(sample) -> None:
    sample.setattr(Sample, "__doc__", GOOD.replace("seed:", "sead:"))
    assert problems("sample") == ["Sample: no text for the option seed"]


def test_a_rule_without_a_docstring_is_named(sample) -> None:
    def silent(operation, relevance):
        return relevance

    rules = replace(method("lrp-z").rules, dense=lambda at, relevance: relevance)
    rules = replace(rules, rules={**rules.rules, "activation": silent})
    sample.setattr(Sample, "rules", rules)
    assert problems("sample") == [
        "sample: no docstring of the rule of linear", "sample: no docstring of the rule of activation"
    ]  # fmt: skip


def test_a_rule_with_bound_arguments_has_its_functions_text(sample) -> None:
    def rule(operation, relevance, size):
        """R_in = size | R."""

    known = method("lrp-z").rules
    sample.setattr(Sample, "rules", replace(known, rules={**known.rules, "matmul": partial(rule, size=2)}))
    assert "| matrix product of branches | R_in = size \\| R. |" in method_entry("sample")


def test_first_last_and_dense_layers_have_rows(sample) -> None:
    z, plus = method("lrp-z").rules, method("lrp-zplus").rules
    rules = replace(z, first=plus.affine, last=plus.affine, dense=plus.affine, fold_batch_norm=False)
    sample.setattr(Sample, "rules", rules)
    lines = method_entry("sample").splitlines()
    for row in ("convolution", "linear", "first layer", "last layer"):
        assert sum(line.startswith(f"| {row} | R_in = ") for line in lines) == 1
    assert "| batch normalization | a layer of its own, with the rule of convolutions |" in lines


def test_an_operation_without_a_rule_is_said_to_be_an_error(sample) -> None:
    rules = replace(method("lrp-z").rules, rules={}, otherwise=None)
    sample.setattr(Sample, "rules", rules)
    assert "reshaping, padding, concatenation | none: an error that names" in method_entry("sample")


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("gradient", {}, "has no part"),
        ("lrp-z", {}, "takes its share like an input"),
        ("lrp-epsilon", {}, "takes its share like an input"),
        ("lrp-zplus", {}, "has no part"),
        ("lrp-alpha1-beta0", {}, "its positive part takes a share beside the positive products"),
        ("lrp-alpha1-beta0", {"bias": "whole"}, "takes its share like an input"),
        ("lrp-epsilon", {"epsilon": 1.0}, "hands on 0.5 of 1 without bias, 0.333 with a bias of 1, 0.667"),
    ],
)
@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_the_part_of_the_bias_is_measured(name, options, part, kind) -> None:
    assert part in bias_text(method(name, **options).rules, kind)


def test_rules_that_are_not_complete_refer_to_the_text() -> None:
    def bind(trace):
        raise ValueError("expected patterns, got none")

    rules = replace(method("gradient").rules, bind=bind)
    assert bias_text(rules, "convolution") == "as the text above says"


def test_conventions_are_those_of_the_table() -> None:
    for name in methods():
        text = method_entry(name)
        for paper, table in CONVENTIONS.items():
            assert (f"| `{paper}` | " in text) == (name in table)
            assert all(f"`{option}=" in text for option in table.get(name, {}))


def test_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the name of a method, got 'lrp-zz'"):
        method_entry("lrp-zz")


def test_wrapped_lines_begin_no_list_and_formulas_stay(sample) -> None:
    formula = "a " * 55 + "- b " + "a " * 53 + "1. c < d * e [x](y)"
    sample.setattr(Sample, "__doc__", GOOD.replace("R = x (W^T R)", formula + "\n\n        R = 1 * 2\n\n   "))
    lines = method_entry("sample").splitlines()
    assert max(len(line) for line in lines if not line.startswith("|")) <= 111  # one for the backslash
    assert any(line.startswith("\\- b") for line in lines)
    assert any(line.startswith("1\\. c \\< d \\* e [x]\\(y)") for line in lines)
    assert "    R = 1 * 2" in lines


def test_a_line_tells_methods_of_one_class_apart() -> None:
    assert method_summary("gradient").startswith("The gradient of the class's score")
    assert method_summary("lrp-alpha5-beta4").endswith("members. Here: `alpha=5.0`, `beta=4.0`.")
    assert len({method_summary(name) for name in methods()}) == len(methods())
