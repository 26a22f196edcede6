"""What a run leaves on disk: its records, and reading and writing them so that nobody ever sees half a file.

A run directory holds `run.json` (`Run`), `scores.parquet` (`Score` rows), `maps/*.safetensors` and
`report.html`. This file knows the format and nothing else; it needs no torch, so that a report can be made
without it.
"""

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

RUN_FILE = "run.json"
SCORES_FILE = "scores.parquet"
MAPS_FOLDER = "maps"
REPORT_FILE = "report.html"

Decision = Literal["believable", "not believable", "not decided"]
Arrays = dict[str, NDArray[Any]]
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]

SCORE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("method", "test", "image", "layer", "statistic")]
    + [(name, pa.float64()) for name in ("value", "ci_low", "ci_high")]
    + [("n", pa.int64())]
)


class RecordError(ValueError):
    """A stored file of a run is missing, unreadable or does not have the expected form."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class EnvironmentRecord(_Record):
    """The software that made the run."""

    python: str
    torch: str
    platform: str
    threads: int


class ModelRecord(_Record):
    """The audited model; `sha256` is the digest of its weights and buffers.

    `output` says what its numbers mean: one logit for each of several "classes" (softmax), one for two
    classes ("binary"), or one for each of several "labels" that may hold at once (sigmoid of each).
    """

    name: str
    source: str = ""
    sha256: str
    parameters: int
    classes: int
    output: Literal["classes", "binary", "labels"] = "classes"
    preprocessing: dict[str, Any] = Field(default_factory=dict)


class ImageRecord(_Record):
    """One explained image; `sha256` is the digest of the tensor that the model saw.

    `target` is the explained class, with its `label` and `probability`. `truth_label` is the class that the
    data give it, "" where they give none, and `truth` the model's number of that class, where it is known.
    """

    name: str
    sha256: str
    width: int
    height: int
    target: int
    label: str = ""
    probability: Number
    truth: int | None = None
    truth_label: str = ""


class SkippedImage(_Record):
    """A file among the images that could not be used, and why."""

    name: str
    reason: str


class DataRecord(_Record):
    """Where the images come from.

    `available` counts what the source has and `limit` is what the user asked for, drawn by `seed`. `labels`
    says how the network's numbers of the data's classes were found.
    """

    source: str = ""
    available: int = 0
    classes: int = 0
    limit: int | None = None
    seed: int = 0
    labels: str = ""
    skipped: list[SkippedImage] = Field(default_factory=list)


class MethodRecord(_Record):
    """One explanation method: its options, as its `repr`, and a line that says what it does."""

    options: str
    description: str = ""


class TestRecord(_Record):
    """One test of explanations with the settings that it ran under."""

    __test__ = False  # not a test case for pytest

    description: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class SkippedRecord(_Record):
    """A test without a result for a method, and why; with `applies` the method owes that result.

    A method of "" stands for every method.
    """

    method: str
    test: str
    reason: str
    applies: bool = True


class Evidence(_Record):
    """One statistic held against its threshold; `passed` is None where that decides nothing.

    `level` is that of the interval, and `needed` about how many images would decide what is open.
    """

    test: str
    statistic: str
    value: Number
    ci_low: Number
    ci_high: Number
    n: int
    threshold: Number
    direction: str
    passed: bool | None
    source: str = ""
    note: str = ""
    level: Number = math.nan
    needed: int | None = None


class Verdict(_Record):
    """The verdict on one method, its reason in one sentence, and the evidence."""

    verdict: Decision
    reason: str
    evidence: list[Evidence] = Field(default_factory=list)


class Run(_Record):
    """The content of `run.json`."""

    format: Literal[1] = 1
    veridical: str
    created: str
    finished: bool
    command: list[str] = Field(default_factory=list)
    settings: dict[str, Any]
    environment: EnvironmentRecord
    model: ModelRecord
    images: list[ImageRecord]
    data: DataRecord = Field(default_factory=DataRecord)
    methods: dict[str, MethodRecord]
    tests: dict[str, TestRecord]
    policy: dict[str, Any] = Field(default_factory=dict)
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    skipped: list[SkippedRecord] = Field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """One row of `scores.parquet`.

    `image` is "" for an aggregate over images and `layer` is "" where there is none. NaN means not measured.
    `n` is the number of images behind the value.
    """

    method: str
    test: str
    statistic: str
    value: float
    image: str = ""
    layer: str = ""
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    n: int = 1


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or as it was before, also after a crash.

    The bytes go to a temporary file in the same directory, are flushed to the disk and then renamed.

    Args:
        path: The file; its directory is created.
        content: The bytes.

    Raises:
        OSError: The file cannot be written; for a full disk the message says so. No partial file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free some space and run the same command again, finished work is kept"
            raise OSError(error.errno, f"no space left on the disk while writing {path}; {mend}") from error
        raise


def is_temporary(path: Path) -> bool:
    """Whether a file is the remainder of a write that was killed; such files may be ignored or deleted."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RecordError: The file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        mend = "name the directory of a run of `veridical audit`"
        raise RecordError(f"expected a file {path}, got none; {mend}") from error
    except (OSError, ValueError) as error:
        mend = "restore the file or run again"
        raise RecordError(f"expected JSON in {path}, got something else ({error}); {mend}") from error


def explain_invalid(path: Path | str, error: ValidationError) -> str:
    """One line that names the file and the first wrong field of a validation error."""
    first, more = error.errors()[0], error.error_count() - 1
    field = ".".join(str(part) for part in first["loc"]) or "the whole file"
    rest = f" (and {more} more)" if more else ""
    given = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]!r}"
    return f"{path}: field {field!r}: {first['msg'].lower()}{given}{rest}"


def write_run(directory: Path, run: Run) -> None:
    """Write `run.json` of a run directory."""
    write_json(Path(directory) / RUN_FILE, finite_or_null(run.model_dump(mode="python")))


def finite_or_null(value: Any) -> Any:
    """The same structure with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_run(directory: Path) -> Run:
    """Read and validate `run.json` of a run directory.

    Raises:
        RecordError: It is missing, not JSON, or a field is wrong; the message names file and field.
    """
    path = Path(directory) / RUN_FILE
    try:
        return Run.model_validate(read_json(path))
    except ValidationError as error:
        reason = "the file was edited or not written by this version"
        raise RecordError(f"{explain_invalid(path, error)}; {reason}") from error


def write_scores(directory: Path, scores: Iterable[Score]) -> None:
    """Write `scores.parquet` of a run directory, in the order given."""
    names = ("method", "test", "statistic", "value", "image", "layer", "ci_low", "ci_high", "n")
    columns = dict(zip(names, zip(*(astuple(score) for score in scores), strict=True), strict=False))
    table = pa.table({name: list(columns.get(name, ())) for name in SCORE_SCHEMA.names}, schema=SCORE_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(Path(directory) / SCORES_FILE, sink.getvalue().to_pybytes())


def read_scores(directory: Path) -> list[Score]:
    """Read `scores.parquet` of a run directory, rows in stored order.

    Raises:
        RecordError: It is missing, not parquet, or lacks a column.
    """
    path = Path(directory) / SCORES_FILE
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise RecordError(f"expected a file {path}, got none; let `veridical audit` finish first") from error
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"expected parquet in {path}, got something else ({error}); run again") from error
    missing = [name for name in SCORE_SCHEMA.names if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names)
        raise RecordError(f"{path}: expected a column {missing[0]!r}, got only {found}; run again")
    return [Score(**row) for row in table.select(SCORE_SCHEMA.names).to_pylist()]


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write arrays as safetensors, atomically; every value of `metadata` is stored as JSON."""
    # np.ascontiguousarray would give a number the shape (1,).
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    texts = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    write_bytes(path, save_arrays(whole, metadata=texts or None))


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read arrays and metadata that `write_arrays` wrote.

    Raises:
        RecordError: The file is missing or not safetensors.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            texts = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RecordError(f"expected safetensors in {path}, got {error}; run again") from error
    return arrays, {name: json.loads(text) for name, text in texts.items()}
