"""Rows of a table for `tfhalf predict`: CSV and TSV files, and rows on the command line, as a version's inputs.

Where a version takes images beside other inputs, their columns hold paths of files.
"""

from __future__ import annotations

import json
import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.artifacts.fields import CellError, Field, as_inputs
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.data.sources import cells
from tfhalf.errors import InputError
from tfhalf.text import is_empty_cell, one_line, printable
from tfhalf.workflows.image_files import ImageInput

MAX_ROW = 1 << 20
"""Characters of a row on the command line."""
_SOURCE = "predict"
_LISTED = 6


@dataclass(frozen=True)
class Columns:
    """What a version takes of a row: its ``fields``, and of those that are ``images`` the inputs by name, whose black
    and white become ``value_range``."""

    fields: Sequence[Field]
    manifest: Manifest
    lookups: Lookups
    images: Mapping[str, ImageInput]
    value_range: tuple[float, float]


@dataclass(frozen=True)
class Table:
    """The columns that a version takes, of the rows of a file: ``facts`` say of each where it stands. Images are paths
    still."""

    columns: Mapping[str, Sequence[Any]]
    facts: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.facts)

    def inputs(self, rows: slice, taken: Columns) -> dict[str, Any]:
        """Some rows as inputs by name, each [N, ...].

        Raises:
            InputError: names row and column of an image that cannot be read.
        """
        columns = {name: column[rows] for name, column in self.columns.items()}
        for name, image in taken.images.items():
            columns[name] = [
                _read(image, path, f"{_where(fact)}, column {printable(name, 60)!r}", taken.value_range)
                for path, fact in zip(columns[name], self.facts[rows], strict=True)
            ]
        return as_inputs(taken.fields, columns, taken.manifest, taken.lookups)


def _where(fact: Mapping[str, Any]) -> str:
    return f"{Path(fact['file']).name}, line {fact['line']}" if "file" in fact else f"--row {fact['row']}"


def _read(image: ImageInput, path: Path, where: str, value_range: tuple[float, float]) -> Any:
    try:
        return image.read(path, value_range)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def read_files(files: Sequence[Path], fields: Sequence[Field], say: Callable[[str], None]) -> Iterator[Table]:
    """The rows of each file: columns by name in any order; ``say`` hears what is left out, or not known.

    Raises:
        InputError: names file, line and column of what does not fit.
    """
    known = [field.name for field in fields]
    for path in files:
        if path.suffix.lower() not in cells.SUFFIXES:
            problem = "is not a table" if path.is_file() else "is not a file"
            raise InputError(
                f"{path}: {problem}; this version takes tables: give a .csv or .tsv file with a header, "
                f"{printable(_listed(known), 200)}"
            )
        table = cells.read(path, _SOURCE)
        _check_names(path.name, list(table.columns), fields)
        extra = [printable(name, 40) for name in table.columns if name not in known]
        if extra:
            more = f" and {len(extra) - _LISTED} more" if len(extra) > _LISTED else ""
            say(f"{path.name}: the version does not take {', '.join(extra[:_LISTED])}{more}: ignored")
        columns = {field.name: _column(table, field) for field in fields}
        _say_unknown(path.name, fields, columns, say)
        yield Table(columns, [{"file": str(path), "line": line} for line in table.lines])


def read_row(text: str, number: int, fields: Sequence[Field], say: Callable[[str], None]) -> Table:
    """A row of the command line: a JSON object with a value for each column.

    Raises:
        InputError: it is not one, or a column is missing or does not fit.
    """
    where = f"--row {number}"
    example = json.dumps({field.name: _example(field) for field in fields[:3]}, ensure_ascii=False)
    try:
        values = json.loads(text) if len(text) <= MAX_ROW else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({one_line(error, 80)}); give an object such as '{example}'") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{where} is not a JSON object of at most {MAX_ROW:,} characters; give one such as '{example}'"
        )
    known = [field.name for field in fields]
    _check_names(where, list(values), fields)
    if extra := next((name for name in values if name not in known), None):
        raise InputError(f"{where}: {printable(extra, 60)!r} is not a column; accepted: {_listed(known)}; take it out")
    columns = {field.name: [_row_value(field, values[field.name], where)] for field in fields}
    _say_unknown(where, fields, columns, say)
    return Table(columns, [{"row": number}])


def _check_names(where: str, names: Sequence[str], fields: Sequence[Field]) -> None:
    missing = [field for field in fields if field.name not in names]
    if missing:
        others = f", and of {len(missing) - 1} more" if len(missing) > 1 else ""
        may_be_empty = all(field.optional for field in missing)
        raise InputError(
            f"{where} has no column {printable(missing[0].name, 60)!r}{others}; needed: "
            f"{_listed([field.name for field in fields])}; add it"
            + (", with empty cells where it is not known" if may_be_empty else "")
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, 40) for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _column(table: cells.Cells, field: Field) -> Sequence[Any]:
    column = table.columns[field.name]
    if field.kind == "category":
        return [cell.strip() for cell in column]
    if field.kind == "text":
        return column
    if field.kind == "image":
        return [_image_path(cell, table.path.parent, table.at(row, field.name)) for row, cell in enumerate(column)]
    return [_value(field, cell, table, row) for row, cell in enumerate(column)]


def _image_path(cell: str, folder: Path, where: str) -> Path:
    """The file that a cell names, relative to ``folder``."""
    if is_empty_cell(cell):
        raise InputError(f"{where} is empty; accepted: the path of an image file; fill it in")
    path = folder / cell.strip()
    if not os.path.isfile(path):  # False also for a name that no file can have
        raise InputError(
            f"{where} is {printable(cell, 80)!r}; accepted: the path of an image file, relative to "
            f"{folder if folder.name else 'the working directory'}; correct it"
        )
    return path


def _value(field: Field, cell: str, table: cells.Cells, row: int) -> float:
    try:
        return field.number(cell)
    except CellError as error:
        raise InputError(f"{table.at(row, field.name)} {error}") from None


def _row_value(field: Field, value: Any, where: str) -> Any:
    """A number or a text of what JSON holds."""
    here = f"{where}, column {printable(field.name, 60)!r}"
    if isinstance(value, dict | list | bool):
        raise InputError(f"{here} is {json.dumps(value)[:40]}; accepted: a text or a number; correct it")
    cell = "" if value is None else str(value)
    if field.kind == "image":
        return _image_path(cell, Path(), here)
    if field.kind in ("category", "text"):
        return cell.strip() if field.kind == "category" else cell
    try:
        return field.number(cell)
    except CellError as error:
        raise InputError(f"{here} {error}") from None


def _example(field: Field) -> Any:
    if field.kind == "category":
        return field.categories[0] if field.categories else ""
    if field.kind == "image":
        return "photo.png"
    return "some words" if field.kind == "text" else round(field.mean or 0, 2)


def _say_unknown(
    where: str, fields: Sequence[Field], columns: Mapping[str, Sequence[Any]], say: Callable[[str], None]
) -> None:
    """Categories that training did not hold, each column's once."""
    for field in fields:
        if field.kind == "category":
            say_unknown(f"{where}: column {printable(field.name, 60)!r}", columns[field.name], field.categories, say)


def say_unknown(where: str, values: Sequence[str], categories: Sequence[str], say: Callable[[str], None]) -> None:
    """Have ``say`` hear which of ``values`` are none of ``categories``, and how often; ``where`` begins that."""
    known = {*categories, ""}
    unknown = [value for value in values if value not in known]
    if unknown:
        names = list(dict.fromkeys(printable(value, 40) for value in unknown))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        say(
            f"{where} holds {', '.join(map(repr, names[:_LISTED]))}{more}, "
            f"which training did not: in {len(unknown):,} row{'s' * (len(unknown) != 1)} it counts as not known"
        )
