"""`veridical manifold measure`: methods against a data set whose tangent spaces are stored."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

import veridical.cli.manifold_generate  # noqa: F401 - adds its commands
from veridical.auditing import PRESETS, find_methods
from veridical.auditing.alignment import measure_alignment, published_methods
from veridical.cli.errors import one_line_errors
from veridical.cli.manifold import app, progress_bar
from veridical.cli.options import Device, Methods, Model, Network, Normalization, find_explainers
from veridical.manifold import Alignment, DataSet, StoredTangents, open_data_set, open_tangents
from veridical.models import LoadedModel
from veridical.records import write_json
from veridical.training import accuracy

SUFFIX = ".safetensors"

Folder = Annotated[
    Path,
    typer.Argument(
        help="A data set of `veridical manifold generate` or `reconstruct` with --tangents.",
        show_default=False,
    ),
]
States = Annotated[
    list[Path] | None,
    typer.Option(
        "--weights",
        help="A state dict for the model, or a directory of them, as steps/ of `veridical train --keep`; "
        "may be given several times.",
    ),
]
Part = Annotated[str, typer.Option("--part", help="Of the data set, or all; with stored tangent spaces.")]
First = Annotated[int, typer.Option("--limit", help="Measure so many of its first images.")]
Out = Annotated[Path | None, typer.Option("--out", help="A JSON file for the figures, of every image too.")]
Convention = Annotated[
    str | None,
    typer.Option(
        "--convention",
        help="The paper's settings of the methods for mnist32 (default), mnist256, cifar10, pneumonia or "
        "retinopathy.",
    ),
]
ByK = Annotated[
    bool,
    typer.Option("--by-k", help="Also print the fraction in the space of the first 1, 2, ... directions."),
]
DENSE = 16
"""Up to so many directions each number of them has a row; then powers of two, and all."""


@dataclass(frozen=True, eq=False)
class Material:
    """Images of a part, with their labels and tangent spaces."""

    images: Tensor
    labels: Tensor
    basis: StoredTangents


@dataclass(frozen=True, eq=False)
class Row:
    """One network: the name of its weights, the share of images that it gets right, and the fractions."""

    name: str
    right: float
    alignment: Alignment


@app.command("measure")
def measure(  # noqa: PLR0913 - the options of a command line are its parameters
    folder: Folder,
    model: Model,
    weights: States = None,
    preprocessing: Normalization = None,
    methods: Methods = None,
    convention: Convention = None,
    part: Part = "test",
    limit: First = 1000,
    by_k: ByK = False,
    out: Out = None,
    device: Device = "cpu",
) -> None:
    """Measure the fraction of every method's maps in the tangent space, of one network or of several.

    Without --methods the four of Bordt et al. 2023, with that paper's settings for the set that
    --convention names; named methods are as in an audit. Of several networks, for example the steps of a
    training, there is one row each.
    """
    with one_line_errors():
        explainers = _explainers(methods, convention)
        material = _material(open_data_set(folder), part, limit)
        rows = []
        for state in _states(weights):
            loaded = Network(model, state, preprocessing, device).load()
            _check_range(loaded)
            rows.append(_measured(loaded, material, explainers, "" if state is None else state.stem))
        typer.echo(rows[0].alignment.table() if len(rows) == 1 else _compared(rows))
        for row in rows if by_k else ():
            typer.echo(f"\n{_by_k(row)}")
        if out is not None:
            facts = {"set": str(folder), "part": part, "convention": _shown(methods, convention)}
            write_json(out, {"format": 1, **facts, "networks": list(_records(rows))})


def _explainers(methods: str | None, convention: str | None) -> Any:
    """Explainers by name."""
    given = find_explainers(methods)
    if given is None:
        return published_methods(convention or "mnist32")
    if convention is not None:
        raise ValueError(
            f"expected --convention only without --methods, got {convention!r}; leave one of them out"
        )
    return find_methods(given, PRESETS["standard"])


def _shown(methods: str | None, convention: str | None) -> str | None:
    return convention or "mnist32" if methods is None else None


def _material(data: DataSet, part: str, limit: int) -> Material:
    if limit < 1:
        raise ValueError(f"expected --limit of at least 1, got {limit}; 1000 is usual")
    rows = None if part == "all" and "all" not in data.parts else part
    images, labels = (data.load(column, rows, limit=limit) for column in ("images", "labels"))
    return Material(images.float(), labels, open_tangents(data.folder / f"tangents-{part}"))


def _states(given: list[Path] | None) -> list[Path | None]:
    """Every file, those of a directory in the order of their names."""
    found: list[Path | None] = []
    for path in given or ():
        inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside:
            raise ValueError(
                f"expected files *{SUFFIX} in {path}, got none; name a file or another directory"
            )
        found += inside
    return found or [None]


def _check_range(loaded: LoadedModel) -> None:
    """Refuse a network that does not take values in [0, 1], in which tangent spaces are."""
    preparation = loaded.preprocessing
    if any(preparation.mean) or any(one != 1 for one in preparation.std):
        raise ValueError(
            f"expected a network that takes values in [0, 1], got mean {preparation.mean} and std "
            f"{preparation.std}; let its first layer normalize, and give --preprocessing none"
        )


def _measured(loaded: LoadedModel, material: Material, explainers: Any, name: str) -> Row:
    place = next(loaded.module.parameters()).device
    images, basis = material.images.to(place), material.basis[: len(material.images)]
    with progress_bar() as bar:

        def told(done: int, total: int) -> None:
            bar(done, total, name or "images")

        found = measure_alignment(loaded.module, images, basis, explainers, progress=told)
    return Row(name, accuracy(loaded.module, images, material.labels).share, found)


def _compared(rows: list[Row]) -> str:
    """A Markdown table: a row a network, a column a method."""
    methods = rows[0].alignment.methods
    lines = [["weights", "error", *(f"`{name}`" for name in methods), "random"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        found = [row.alignment.summary(name) for name in methods]
        means = [f"{one.mean.estimate:.3f} ({one.mean.low:.3f} to {one.mean.high:.3f})" for one in found]
        lines.append([row.name, f"{1 - row.right:.2%}", *means, f"{found[0].random:.4f}"])
    return _table(lines)


def _by_k(row: Row) -> str:
    """A Markdown table: a row a number of directions, a column a method."""
    found = row.alignment
    most = found.by_k.shape[2]
    counts = [k for k in range(1, most + 1) if k <= DENSE or k == most or k & (k - 1) == 0]
    columns = [found.mean_by_k(name, counts) for name in found.methods]
    lines = [[f"k {row.name}".strip(), *(f"`{name}`" for name in found.methods), "random"]]
    lines.append(["---"] * len(lines[0]))
    for place, count in enumerate(counts):
        means = [column[place][0] for column in columns]
        shown = [f"{one.estimate:.3f} ({one.low:.3f} to {one.high:.3f})" for one in means]
        lines.append([str(count), *shown, f"{columns[0][place][1]:.4f}"])
    return _table(lines)


def _table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numbers(values: Tensor) -> list[float | None]:
    """None for what was not measured: JSON has no NaN."""
    return [None if math.isnan(one) else one for one in values.tolist()]


def _records(rows: list[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = row.alignment
        yield {
            "weights": row.name,
            "accuracy": row.right,
            "n": len(found.rank),
            "dimension": found.dimension,
            "rank": sorted(set(found.rank.tolist())),
            "methods": {name: asdict(found.summary(name)) for name in found.methods},
            "fractions": {name: _numbers(found.of(name)) for name in found.methods},
            "by_k": {
                name: _numbers(values.nanmean(dim=0))
                for name, values in zip(found.methods, found.by_k, strict=True)
            },
            "random_by_k": found.random_by_k(range(1, found.by_k.shape[2] + 1)),
        }
