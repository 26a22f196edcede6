"""Check the Markdown files: relative links lead somewhere, and nothing names a workplace path."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|<img[^>]*\ssrc=\"([^\"]+)\"")
CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
EXTERNAL = re.compile(r"^(https?:|mailto:)")
WORKPLACE = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/\w+")


def markdown_files() -> list[Path]:
    """The Markdown files that belong to the project: tracked ones and new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in set(listed.stdout.splitlines()) if (path := ROOT / name).is_file())


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them.

    Args:
        text: of a Markdown file.

    Returns:
        One anchor for each heading.
    """
    headings = re.findall(r"^#+\s+(.*?)\s*#*$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def link_problem(source: Path, target: str) -> str | None:
    """What is wrong with one link.

    Args:
        source: the file that holds it.
        target: what it leads to.

    Returns:
        A sentence, or None where the link is good.
    """
    if EXTERNAL.match(target):
        return None
    name, _, anchor = target.partition("#")
    if name.startswith("/"):
        return f"absolute link {target}; write it relative to the file"
    found = (source.parent / name).resolve() if name else source
    if not found.is_relative_to(ROOT):
        return f"link {target} leads out of the repository"
    if not found.exists():
        return f"link {target} leads nowhere"
    if anchor and found.suffix == ".md" and anchor not in anchors(found.read_text(encoding="utf-8")):
        return f"link {target} names no heading of {found.name}"
    return None


def problems(path: Path) -> list[str]:
    """Everything that is wrong with one file.

    Args:
        path: of a Markdown file.

    Returns:
        One sentence for each problem.
    """
    text = path.read_text(encoding="utf-8")
    targets = ["".join(groups) for groups in LINK.findall(CODE.sub("", text))]
    found = [problem for target in targets if (problem := link_problem(path, target)) is not None]
    return found + [f"path of a workplace: {match}" for match in sorted(set(WORKPLACE.findall(text)))]


def main() -> int:
    """Check all files and print what is wrong.

    Returns:
        0 where nothing is wrong, else 1.
    """
    files = markdown_files()
    found = [f"{path.relative_to(ROOT)}: {problem}" for path in files for problem in problems(path)]
    print("\n".join([*found, f"{len(files)} Markdown files, {len(found)} problems"]))
    return int(bool(found) or not files)


if __name__ == "__main__":
    sys.exit(main())
