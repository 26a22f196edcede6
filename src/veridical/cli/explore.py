"""`veridical explore`: a local page on which maps are looked at, smoothed and manipulated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from veridical.auditing import PRESETS, find_methods, method_names
from veridical.cli.errors import one_line_errors
from veridical.cli.images import Choice, Limit, MaxBroken, Place
from veridical.cli.options import (
    Device,
    Methods,
    Network,
    Normalization,
    Weights,
    bounds_of,
    find_device,
    find_explainers,
    load_material,
)
from veridical.data import MAX_BROKEN
from veridical.explore import MOST_IMAGES, Explored, ExploreServer, Live, StoredRun, Subject, left_out
from veridical.models import LoadedModel
from veridical.serving import LOOPBACK
from veridical.values import Explainer

PORT = 8378

RunDirectory = Annotated[
    Path | None, typer.Argument(metavar="[RUN_DIR]", help="Of an audit; alone, its stored maps are shown.")
]
Spec = Annotated[
    str | None, typer.Option("--model", help="A specification, see veridical models: maps are computed.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the images that --limit draws.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; other than loopback opens it to others.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any free one.")]


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    run: RunDirectory = None,
    model: Spec = None,
    weights: Weights = None,
    preprocessing: Normalization = None,
    images: Place = None,
    limit: Limit = None,
    seed: Seed = 0,
    max_broken: MaxBroken = MAX_BROKEN,
    methods: Methods = None,
    device: Device = "cpu",
    host: Host = LOOPBACK,
    port: Port = PORT,
) -> None:
    """Open a local page: choose image and class, see all maps, smooth them, and watch a manipulation.

    RUN_DIR alone shows what the audit stored; with --model, or with --model alone, maps are computed. Without
    --limit at most 50 images are shown. Nothing leaves this machine; Ctrl-C stops the page.
    """
    with one_line_errors():
        choice = Choice(limit, seed, max_broken, most=MOST_IMAGES)
        choice.check()
        stored = None if run is None else StoredRun(run, limit or MOST_IMAGES)
        explored: Explored
        if model is None:
            given = {"--weights": weights, "--preprocessing": preprocessing, "--images": images}
            explored = _alone(stored, {**given, "--methods": methods})
        elif stored is not None and images is None:
            explainers, notes = _methods(methods, stored)
            network = Network(model, weights, preprocessing, device)
            explored = Live(_of_run(network.load(), stored, explainers, (device, notes)))
        else:
            explainers, notes = _methods(methods, stored)
            material = load_material(Network(model, weights, preprocessing, device), images, choice)
            count, there = len(material.photographs), material.photographs.available
            explored = Live(
                Subject(
                    inputs=material.all_inputs(),
                    names=material.photographs.names,
                    methods=explainers,
                    notes=(*notes, *left_out(count, there)),
                    verdicts={} if stored is None else stored.verdicts,
                    **_facts(material.loaded),
                )
            )
        _serve(explored, host, port)


def _alone(stored: StoredRun | None, others: Mapping[str, object]) -> StoredRun:
    """A stored run without a network.

    Raises:
        ValueError: there is no run, or an option that needs a network.
    """
    if stored is None:
        raise ValueError(
            "expected RUN_DIR or --model, got neither; try --model demo, or the directory of an audit"
        )
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ValueError(f"expected --model where {given[0]} is given, got none; name the network")
    return stored


def _methods(text: str | None, stored: StoredRun | None) -> tuple[dict[str, Explainer], tuple[str, ...]]:
    """The methods that are named, or those of the run, or all; and what has to be said about them."""
    chosen = find_explainers(text)
    notes: tuple[str, ...] = ()
    if chosen is None and stored is not None:
        built_in = set(method_names())
        chosen = [name for name in stored.methods if name in built_in]
        own = [name for name in stored.methods if name not in built_in]
        if own:
            notes = (f"Methods of the run that have to be named with --methods: {', '.join(own)}.",)
    return find_methods(chosen or list(method_names()), PRESETS["quick"]), notes


def _of_run(
    loaded: LoadedModel,
    stored: StoredRun,
    methods: dict[str, Explainer],
    where: tuple[str, tuple[str, ...]],
) -> Subject:
    """A network with the photographs that a run stored.

    Raises:
        ValueError: the network takes images of another size or other channels.
    """
    device, notes = find_device(where[0]), where[1]
    size, found = loaded.preprocessing.input_size, stored.images.shape
    if loaded.preprocessing.channels != found[1] or (size is not None and size != found[2:]):
        wanted = (loaded.preprocessing.channels, *(size or ("any", "any")))
        raise ValueError(
            f"expected photographs {' x '.join(map(str, wanted))} for {loaded.name}, got a run with "
            f"{' x '.join(map(str, found[1:]))}; give your own with --images"
        )
    if loaded.sha256 != stored.run.model.sha256:
        notes += ("The weights are not those that were audited: verdicts are of the other network.",)
    notes += ("The photographs are those that the run stored, rounded to 8 bits.",)
    return Subject(
        inputs=loaded.preprocessing.normalize(torch.from_numpy(stored.images)).to(device),
        names=stored.names,
        methods=methods,
        notes=(*notes, *left_out(len(stored.images), len(stored.run.images))),
        verdicts=stored.verdicts,
        **_facts(loaded),
    )


def _facts(loaded: LoadedModel) -> dict[str, Any]:
    """What a page has to know of a network."""
    return {
        "name": loaded.name,
        "model": loaded.module,
        "display": loaded.preprocessing.denormalize,
        "label": loaded.label,
        "bounds": bounds_of(loaded),
        "many": loaded.output == "labels",
    }


def _serve(explored: Explored, host: str, port: int) -> None:
    with ExploreServer(explored, host, port) as server:
        images = len(server.start["images"])
        typer.echo(f"{server.start['name']}, {images} images; Ctrl-C stops it")
        if host not in (LOOPBACK, "localhost", "::1"):
            typer.echo("warning: reachable from the network; what is sent is not encrypted", err=True)
        typer.echo(server.link)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            typer.echo("stopped")
