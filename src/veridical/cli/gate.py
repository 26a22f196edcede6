"""`veridical gate`: an exit code for continuous integration."""

import json
from pathlib import Path
from typing import Annotated

import typer

from veridical.cli.errors import one_line_errors
from veridical.cli.gate_output import Judgement, annotations, as_json, junit, table
from veridical.records import finite_or_null, read_run, read_scores, write_bytes
from veridical.verdicts import judge, load_policy

RunDirectory = Annotated[Path, typer.Argument(help="A run directory of `veridical audit`.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A policy file; default: the package's.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML into this file.")]
Github = Annotated[bool, typer.Option("--github", help="Print annotations for GitHub Actions.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in the place of the table.")]


def command(
    run_dir: RunDirectory,
    policy: PolicyFile = None,
    junit_file: Junit = None,
    github: Github = False,
    json_output: AsJson = False,
) -> None:
    """Exit with 0 where every method that the policy lists is admissible, 1 where not, 2 on an error."""
    with one_line_errors():
        found = _judged(run_dir, policy)
        if junit_file is not None:
            write_bytes(junit_file, junit(found))
        text = json.dumps(finite_or_null(as_json(found)), indent=1) if json_output else table(found)
        typer.echo(text)
        for line in annotations(found) if github else ():
            typer.echo(line, err=json_output)
    if not found.passed:
        raise typer.Exit(1)


def _judged(run_dir: Path, policy: Path | None) -> Judgement:
    rules = load_policy(policy)
    run = read_run(run_dir)
    if not run.finished:
        raise ValueError(f"expected a finished run, got {run_dir}; run the same `veridical audit` again")
    listed = rules.listed(run.methods)
    if not listed:
        raise ValueError(f"expected at least one method in {run_dir}, got none; run the audit again")
    verdicts = judge(run, read_scores(run_dir), rules)
    return Judgement(run, rules, {name: verdicts[name] for name in listed})
