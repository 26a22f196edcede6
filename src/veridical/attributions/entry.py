"""A method's entry in the documentation: a page of Markdown from its docstrings, rules and options."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from veridical.attributions import _CATALOG, CONVENTIONS, method, methods
from veridical.rules import RuleSet, propagate, record
from veridical.values import Explainer

SECTIONS = ("Args", "Source", "Deviations", "Peers")
"""The sections that the docstring of a method's class has, in this order."""

KINDS = {
    "normalization": "layer, group or instance normalization",
    "activation": "activation",
    "max_pool": "max pooling",
    "average_pool": "average pooling, mean, interpolation",
    "sum": "sum of branches (residual)",
    "shift": "constant added",
    "scale": "constant factor",
    "product": "product of branches",
    "softmax": "softmax",
    "matmul": "matrix product of branches",
    "structure": "reshaping, padding, concatenation",
}
"""The kinds of operations whose rules a method chooses one by one, in words."""

_SEEDS = {
    "one": "1 at the explained class, 0 elsewhere",
    "value": "the value of its logit at the explained class, 0 elsewhere",
}
_OUTPUTS = {
    "logit": "the logit of the explained class",
    "logit-value": "the logit of the explained class, the map scaled by its value",
    "probability": "the softmax probability of the explained class",
}
_WIDTH = 110


class Docstring(NamedTuple):
    """The parts of a docstring: its first line, the text below it, and its sections by header."""

    summary: str
    text: str
    sections: Mapping[str, str]


def read_docstring(documented: object) -> Docstring:
    """Take a Google-style docstring apart; headers are lines of one capitalized word and a colon."""
    summary, _, rest = (inspect.getdoc(documented) or "").partition("\n")
    text, *parts = re.split(r"^([A-Z]\w+):[ ]*\n", rest, flags=re.MULTILINE)
    sections = {
        header: textwrap.dedent(body).strip() for header, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return Docstring(summary.strip(), text.strip(), sections)


def read_arguments(section: str) -> dict[str, str]:
    """The text of each argument of an Args section; "low, high: text" documents both."""
    found = re.findall(r"^(\w[\w, ]*): *(.*(?:\n[ \n].*)*)", section, flags=re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in found for name in names.split(",")}


def problems(name: str) -> list[str]:
    """What the entry of a method lacks: sections, options without text, rules without a docstring."""
    explainer = method(name)
    kind = type(explainer)
    sections, options = read_docstring(kind).sections, _options(explainer)
    rows = _rule_rows(getattr(explainer, "rules", None))
    documented = read_arguments(sections.get("Args", ""))
    needed = SECTIONS if options else SECTIONS[1:]
    return [
        *(f"{kind.__name__}: no section {header}" for header in needed if not sections.get(header)),
        *(f"{kind.__name__}: no text for the option {key}" for key in options if key not in documented),
        *(f"{name}: no docstring of the rule of {row}" for row, text in rows if not text),
    ]


def method_summary(name: str) -> str:
    """What a built-in method is, in one line; where several share a class, with the options of this one.

    Raises:
        ValueError: if there is no method of that name.
    """
    explainer = method(name)
    options = _preset(name, explainer)
    return read_docstring(type(explainer)).summary + (f" Here: {', '.join(options)}." if options else "")


def method_entry(name: str) -> str:
    """The entry of a built-in method, as Markdown: what it computes, its rules, options, source and peers.

    Raises:
        ValueError: if there is no method of that name.
    """
    explainer = method(name)
    described = read_docstring(type(explainer))
    parts = [
        f"## {name}",
        _prose(described.summary),
        _prose(described.text),
        _prose(_definition(name, explainer)),
        _table(("operation", "rule"), _rule_rows(getattr(explainer, "rules", None))),
        _table(("everywhere", ""), _facts(explainer)),
        _table(("option", "default", "meaning"), _option_rows(explainer, described)),
        _table(("convention", "sets"), _convention_rows(name)),
        *(
            _prose(f"**{header}.** {described.sections.get(header, 'Not written.')}")
            for header in SECTIONS[1:]
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- what is told -------------------------------------------------------------------------------------------


def _definition(name: str, explainer: Explainer) -> str:
    """The class behind a name, the options that define the name, and the names that share the class."""
    kind, _ = _CATALOG[name]
    described = type(explainer)
    options = _preset(name, explainer)
    text = f"Class: `{described.__module__}.{described.__qualname__}`"
    text += f" with {', '.join(options)}." if options else "."
    others = [f"`{other}`" for other in methods() if other != name and _CATALOG[other][0] is kind]
    return f"{text} The same class: {', '.join(others)}." if others else text


def _preset(name: str, explainer: Explainer) -> list[str]:
    """The options that define a name."""
    known = _options(explainer)
    return [f"`{key}={_value(value)}`" for key, value in _CATALOG[name][1].items() if key in known]


def _rule_rows(rules: RuleSet | None) -> list[tuple[str, str]]:
    """Each kind of operation and the first line of its rule's docstring; kinds with one rule share a row."""
    if rules is None:
        return []
    affine = _rule_text(rules.affine)
    if rules.dense is None:
        rows = [("convolution, linear", affine)]
    else:
        rows = [("convolution", affine), ("linear", _rule_text(rules.dense))]
    rows.append(("first layer", "no rule of its own" if rules.first is None else _rule_text(rules.first)))
    rows += [("last layer", _rule_text(rules.last))] if rules.last is not None else []
    rows.append(("batch normalization", _batch_norm(rules)))
    grouped: dict[str, list[str]] = {}
    for kind, words in KINDS.items():
        rule = rules.rules.get(kind, rules.otherwise)
        text = "none: an error that names the operation and the way out" if rule is None else _rule_text(rule)
        grouped.setdefault(text, []).append(words)
    return rows + [("; ".join(words), text) for text, words in grouped.items()]


def _rule_text(rule: object) -> str:
    while isinstance(rule, partial):
        rule = rule.func
    return (inspect.getdoc(rule) or "").partition("\n")[0].strip()


def _batch_norm(rules: RuleSet) -> str:
    own = "a layer of its own, with the rule of convolutions"
    folded = "folded into the convolution or linear layer before it where nothing else uses that one's output"
    return f"{folded}; else {own}" if rules.fold_batch_norm else own


def _facts(explainer: Explainer) -> list[tuple[str, str]]:
    rules = getattr(explainer, "rules", None)
    rows = []
    output = getattr(explainer, "output", None)
    if output is not None:
        rows.append(("explained score", _OUTPUTS.get(output, str(output))))
    elif rules is not None:
        rows.append(("start", _SEEDS[rules.seed]))
    if rules is None:
        rows.append(("rules", "none: relevance at inner layers, and tests that need it, do not exist"))
    elif rules.dense is None:
        rows.append(("bias", bias_text(rules, "convolution")))
    else:
        rows += [(f"bias, {kind}", bias_text(rules, kind)) for kind in ("convolution", "linear")]
    rows.append(("differentiable", "yes, in the image; max-pooling switches and masks count as constants"))
    return rows


def bias_text(rules: RuleSet, kind: str) -> str:
    """What a bias does to the relevance that a "convolution" or "linear" layer hands on, measured at a unit.

    The unit has the input 1 and the weight 1; what it hands on with a bias of 1 and of -1/2 is compared with
    what it hands on without. Rules that are not complete without more (patterns) cannot be measured.
    """
    try:
        without, positive, negative = (_handed_on(rules, kind, bias) for bias in (0.0, 1.0, -0.5))
    except ValueError:
        return "as the text above says"
    share = (round(positive / without, 3), round(negative / without, 3)) if without else (0.0, 0.0)
    known = {
        (1.0, 1.0): "has no part",
        (0.5, 2.0): "takes its share like an input; what it takes is lost to the image",
        (
            0.5,
            1.0,
        ): "its positive part takes a share beside the positive products, its negative part does not",
    }
    unit = f"a unit of input 1 and weight 1 hands on {without:.3g} of 1 without bias"
    return known.get(share, f"{unit}, {positive:.3g} with a bias of 1, {negative:.3g} with one of -1/2")


def _handed_on(rules: RuleSet, kind: str, bias: float) -> float:
    """What a layer of one unit, between two others, hands to its input from a relevance of 1."""
    layers = (nn.Flatten(), nn.Linear(1, 1)) if kind == "linear" else (nn.Conv2d(1, 1, 1), nn.Flatten())
    ends = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False)
    network = nn.Sequential(ends[0], nn.ReLU(), *layers, nn.ReLU(), ends[1]).double().eval()
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, bias if name.endswith("bias") else 1.0)
    trace = record(network, torch.ones(1, 1, 1, 1, dtype=torch.float64))
    unit = next(operation for operation in trace.operations[1:] if operation.kind == kind)
    start = torch.ones_like(unit.output)[None]
    return propagate(trace, rules, start, at=unit.name, keep=("1",)).layers["1"].item()


def _options(explainer: Explainer) -> dict[str, Any]:
    """The options of a method and their values; the label is no option."""
    return {
        field.name: getattr(explainer, field.name)
        for field in fields(explainer)  # type: ignore[arg-type]
        if field.name != "label"
    }


def _option_rows(explainer: Explainer, described: Docstring) -> list[tuple[str, str, str]]:
    texts = read_arguments(described.sections.get("Args", ""))
    return [
        (f"`{option}`", f"`{_value(value)}`", texts.get(option, "Not written."))
        for option, value in _options(explainer).items()
    ]


def _convention_rows(name: str) -> list[tuple[str, str]]:
    rows = []
    for paper, table in CONVENTIONS.items():
        if name in table:
            sets = [f"`{key}={_value(value)}`" for key, value in table[name].items()]
            rows.append((f"`{paper}`", ", ".join(sets) or "nothing: the defaults"))
    return rows


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


# --- how it is written --------------------------------------------------------------------------------------


def _escape(text: str) -> str:
    """Formulas in plain text as Markdown; what stands between backticks stays."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[*<]|(?<![A-Za-z0-9])_|(?<=\])\(", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _prose(text: str) -> str:
    """Paragraphs, wrapped; lists and indented formulas stay as they are."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(_paragraph(block) for block in blocks if block.strip())


def _paragraph(block: str) -> str:
    if re.match(r"\s+|[-*] ", block):
        return block
    bold = re.match(r"\*\*\w+\.\*\* ", block)
    head = bold.group() if bold else ""
    lines = textwrap.wrap(
        head + _escape(block[len(head) :]), _WIDTH, break_long_words=False, break_on_hyphens=False
    )
    # A minus sign or a number with a dot at the start of a line would begin a list.
    lines = [re.sub(r"^(\d+)([.)] )", r"\1\\\2", re.sub(r"^([-+#=>|])", r"\\\1", line)) for line in lines]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; nothing where there are no rows."""
    lines = [[_escape(cell).replace("|", "\\|") for cell in row] for row in rows]
    if not lines:
        return ""
    ruled = [list(header), ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)
