"""`veridical gate`: an exit code for continuous integration."""

from pathlib import Path
from typing import Annotated

import typer

from veridical.auditing import judge, load_policy
from veridical.checks import nearest_names
from veridical.cli.errors import one_line_errors
from veridical.records import read_run, read_scores

RunDirectory = Annotated[Path, typer.Argument(help="A run directory of `veridical audit`.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A policy file; default: the package's.")]


def command(run_dir: RunDirectory, policy: PolicyFile = None) -> None:
    """Exit with 0 where every method that the policy lists is admissible, 1 where not, 2 on an error."""
    with one_line_errors():
        rules = load_policy(policy)
        run = read_run(run_dir)
        if not run.finished:
            raise ValueError(f"expected a finished run, got {run_dir}; run the same `veridical audit` again")
        verdicts = judge(run, read_scores(run_dir), rules)
        for name in rules.methods:
            if name not in verdicts:
                near = nearest_names(name, verdicts)
                raise ValueError(f"expected the methods of the policy in the run, got no {name!r}; {near}")
        listed = {name: verdicts[name] for name in rules.methods or verdicts}
        for name, verdict in listed.items():
            mark = "ok  " if verdict.verdict in rules.admit else "FAIL"
            typer.echo(f"{mark} {name}: {verdict.verdict}. {verdict.reason}")
    if any(verdict.verdict not in rules.admit for verdict in listed.values()):
        raise typer.Exit(1)
