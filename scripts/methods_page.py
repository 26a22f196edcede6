"""Write docs/methods.md from the code of the methods; with `--check` only say whether it is current."""

import sys
from pathlib import Path

from veridical.attributions import methods
from veridical.attributions.entry import method_entry, method_summary, problems

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
COMMAND = "python scripts/methods_page.py"
HEAD = f"""\
# The methods, one by one

Written by `{COMMAND}` from the docstrings, rules, options and conventions in the code:
change those, not this page. How to call a method, and what its options mean: [explaining.md](explaining.md).
How rules are applied: [engine.md](engine.md).

Relevance R goes from the output of an operation to its inputs. y = W x + b is a convolution, a linear layer
or a batch normalization, W+ and W- its positive and negative weights, W^T its transpose; [R]+ is the positive
part of R, f' the derivative of an activation. The vector-Jacobian product of max pooling is "winner takes
all", that of reshaping moves values back. An exact zero in a denominator hands on nothing. Every method is
differentiable in the image and treats a batch as its images one by one; the property tests hold each name to
it.
"""


def page() -> str:
    """The whole page: an index and the entry of every method."""
    rows = [f"| [{name}](#{name}) | {method_summary(name)} |" for name in methods()]
    index = "\n".join(["| method | what it is |", "| --- | --- |", *rows])
    return "\n".join([HEAD, index, "", *map(method_entry, methods())])


def main(arguments: list[str]) -> int:
    """Write or check the page, and print what the docstrings lack.

    Returns:
        0 where nothing is lacking and, with `--check`, the page is current; else 1.
    """
    lacking = list(dict.fromkeys(problem for name in methods() for problem in problems(name)))
    print("\n".join(lacking), end="\n" if lacking else "")
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        lacking.append("stale")
        print(f"docs/{PAGE.name} is not what the code says; run: {COMMAND}")
    print(f"{len(methods())} methods, {len(lacking)} problems")
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
