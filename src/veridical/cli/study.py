"""`veridical study`: the A/B user study, from its pictures to its analysis."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from veridical.cli.errors import names, one_line_errors
from veridical.serving import LOOPBACK, web_address
from veridical.study import Answers, StudyPlan, StudyServer, analyze, prepare, read_study, write_analysis
from veridical.study.account import markdown
from veridical.study.server import link

PORT = 8377

app = typer.Typer(
    help="Ask people which picture of an explanation shows more: prepare, invite, serve, analyze.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(help="The folder of the study.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; other than loopback opens it to others.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any free one.")]


@app.command("prepare")
def prepare_command(  # noqa: PLR0913 - the options of a command line are its parameters
    folder: Folder,
    parts: Annotated[
        Path | None, typer.Option("--parts", help="Task 1: arrays tangent and orthogonal, or map and basis.")
    ] = None,
    fractions: Annotated[
        Path | None, typer.Option("--fractions", help="Task 2: two or more maps, and basis or NAME.fraction.")
    ] = None,
    object_: Annotated[
        Path | None, typer.Option("--object", help="Task 3: images and the two maps to compare.")
    ] = None,
    compare: Annotated[
        str, typer.Option("--compare", help="Task 3: the maps A,B.")
    ] = "gradient,gradient-x-input",
    images: Annotated[int, typer.Option("--images", help="At most this many images a task.")] = 100,
    questions: Annotated[int, typer.Option("--questions", help="Questions of a task a participant.")] = 30,
    seed: Annotated[int, typer.Option("--seed", help="Of choice, order and side.")] = 0,
) -> None:
    """Make a study folder from arrays: .safetensors files, or folders of .npy files."""
    with one_line_errors():
        pair = names(compare) or []
        if len(pair) != 2:
            raise ValueError(f"expected --compare A,B, got {compare!r}; name two maps")
        plan = StudyPlan(parts, fractions, object_, images=images, questions=questions, seed=seed)
        study = prepare(folder, replace(plan, compare=(pair[0], pair[1])))
        for task in study.tasks:
            typer.echo(f"{task.name}: {len(task.pairs)} pairs, {task.questions} for each participant")
        typer.echo(f"titles, instructions and consent can be edited in {folder / 'study.json'}")


@app.command("invite")
def invite_command(
    folder: Folder,
    count: Annotated[int, typer.Option("--count", min=1, help="How many participants.")] = 1,
    address: Annotated[
        str, typer.Option("--address", help="Where participants reach the study.")
    ] = web_address(LOOPBACK, PORT),
) -> None:
    """Add participants and print a link for each; links are stored nowhere, so keep them."""
    with one_line_errors():
        answers = Answers(folder)
        for _ in range(count):
            typer.echo(link(address, answers.invite()))


@app.command("serve")
def serve_command(folder: Folder, host: Host = LOOPBACK, port: Port = PORT) -> None:
    """Serve the study until Ctrl-C; where nobody was invited yet, invite one and print the link."""
    with one_line_errors():
        with StudyServer(folder, host, port) as server:
            typer.echo(f"serving {server.answers.study.title!r} at {server.address}, Ctrl-C stops it")
            if host not in (LOOPBACK, "localhost", "::1"):
                typer.echo(
                    "warning: reachable from the network; links travel unencrypted",
                    err=True,
                )
            if not server.answers.participants():
                typer.echo(link(server.address, server.answers.invite()))
            typer.echo(f"more links: veridical study invite {folder} --address {server.address}")
            _serve(server)
        people = server.answers.participants()
        count = sum(question.side is not None for one in people for question in one.questions)
        typer.echo(f"stopped; {count} answers are stored, and the links go on working with the next serve")


def _serve(server: StudyServer) -> None:
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        return


@app.command("analyze")
def analyze_command(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="Default: FOLDER/analysis.")] = None,
    level: Annotated[float, typer.Option("--level", help="Of the intervals.")] = 0.95,
) -> None:
    """Write counts, tests, intervals and a figure of the answers so far; may run beside serve."""
    with one_line_errors():
        read_study(folder)
        analysis = analyze(folder, level)
        paths = write_analysis(analysis, out or folder / "analysis")
        typer.echo(markdown(analysis))
        for path in paths:
            typer.echo(str(path.resolve()))
