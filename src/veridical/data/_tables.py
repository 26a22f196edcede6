"""A CSV file of paths and labels."""

import csv
from itertools import islice
from pathlib import Path

from veridical.data._files import FileReader, by_name, labels_of, not_an_image
from veridical.data.source import ImageSource

PATHS = ("path", "file", "filename", "file_name", "image")
LABELS = ("label", "class", "target")
MAX_ROWS = 10_000_000
SUFFIXES = (".csv", ".tsv")


def table_of_files(path: Path) -> ImageSource:
    """The images that a table names, with its labels.

    The first row may name the columns: one of `PATHS`, and one of `LABELS` where there are labels. Without
    such a row the first column holds paths and the second, if there is one, labels. Relative paths start at
    the folder of the table.

    Raises:
        ValueError: it is no table of text, has no rows, a row lacks something, or a path is there twice.
    """
    rows = _rows(path)
    where, rows = _columns(path, rows)
    names: list[str] = []
    owners: list[str] = []
    ignored: list[tuple[str, str]] = []
    seen: set[str] = set()
    for line, row in rows:
        name, label = _cells(path, line, row, where)
        if name in seen:
            raise ValueError(
                f"expected every path once in {path}, got {name} again in line {line}; remove it"
            )
        seen.add(name)
        reason = not_an_image(name)
        if reason:
            ignored.append((name, reason))
            continue
        names.append(name)
        owners.append(label)
    read = FileReader(path.parent, names)
    if where[1] is None:
        return ImageSource(str(path), tuple(names), read, ignored=tuple(ignored))
    classes = by_name(set(owners))
    return ImageSource(str(path), tuple(names), read, labels_of(owners, classes), classes, tuple(ignored))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that hold something, with their lines."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in islice(reader, MAX_ROWS + 1) if any(row)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"expected a table in UTF-8, got {path} ({error}); save it again") from error
    if not rows or len(rows) > MAX_ROWS:
        raise ValueError(
            f"expected 1 to {MAX_ROWS} rows in {path}, got {len(rows)}; write one for each image"
        )
    return rows


def _columns(
    path: Path, rows: list[tuple[int, list[str]]]
) -> tuple[tuple[int, int | None], list[tuple[int, list[str]]]]:
    """The columns of paths and labels, and the rows without the one that names them."""
    first = [cell.strip().lower() for cell in rows[0][1]]
    paths = [place for place, cell in enumerate(first) if cell in PATHS]
    labels = [place for place, cell in enumerate(first) if cell in LABELS]
    if not paths:
        if not_an_image(first[0]):
            raise ValueError(
                f"expected paths of images in the first column of {path}, or a first row with a column named "
                f"one of {', '.join(PATHS)}, got {rows[0][1][:5]}; name the columns"
            )
        return (0, 1 if len(first) > 1 else None), rows
    if len(rows) == 1:
        raise ValueError(
            f"expected a row for each image in {path}, got only the names of the columns; add them"
        )
    return (paths[0], labels[0] if labels else None), rows[1:]


def _cells(path: Path, line: int, row: list[str], where: tuple[int, int | None]) -> tuple[str, str]:
    wanted = [place for place in where if place is not None]
    found = [row[place].strip() if place < len(row) else "" for place in wanted]
    if not all(found):
        raise ValueError(
            f"expected a path{' and a label' if len(wanted) > 1 else ''} in line {line} of {path}, got "
            f"{row[:5]}; complete the row"
        )
    return found[0], found[-1]
