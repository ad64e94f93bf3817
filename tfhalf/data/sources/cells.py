"""A CSV or TSV file as cells, with the lines that they stand in."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfhalf.data import memory
from tfhalf.errors import DataError
from tfhalf.files import check_regular
from tfhalf.text import is_empty_cell, one_line, printable

SUFFIXES = (".csv", ".tsv")
DELIMITERS = (",", ";", "\t")
_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MOST_COLUMNS = 10_000
_BYTES_EACH = 24  # of memory for each byte of the file: a cell of two characters is an object of fifty
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Cells:
    """The rows of a file below its header: ``columns`` are texts [N] by name, ``lines`` the first line of each row,
    counted from 1 as editors do."""

    path: Path
    delimiter: str
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int, name: str) -> str:
        """Where a cell stands, for messages."""
        return f"{self.path.name}, line {self.lines[row]}, column {printable(name, 60)!r}"


def read(path: Path, source: str) -> Cells:
    """The cells of ``path``: UTF-8, a header row, cells separated by tabs (.tsv), or by what the header shows of comma,
    semicolon and tab; in quotes where they hold such, or line ends. Empty lines are skipped.

    Raises:
        DataError: names file and line of what does not fit.
    """
    text = _text(path, source)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=lambda one: _width(text, one))
    rows, lines = _rows(text, delimiter, path, source)
    if not rows:
        raise DataError(f"{source}: {path.name} is empty; a header row and rows below it are needed; add them")
    names = _header(rows[0], path, source)
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise DataError(
                f"{source}: {path.name}, line {line} has {len(row)} cells where the header has {len(names)}, separated "
                f"by {_WORDS[delimiter]}; as many are needed; put cells that hold {_WORDS[delimiter]} into double "
                "quotes, or correct the line"
            )
    if len(rows) == 1:
        raise DataError(f"{source}: {path.name} has no row below its header; add some")
    columns = dict(zip(names, map(list, zip(*rows[1:], strict=True)), strict=True))
    return Cells(path, delimiter, columns, lines[1:])


def numbers(column: list[str]) -> tuple[npt.NDArray[np.float64], int | None]:
    """Cells as float64 [N], NaN where they are empty (or say so: NA, N/A, NaN, null, None), and the index of the first
    that is not a number."""
    values = np.full(len(column), math.nan)
    for index, cell in enumerate(column):
        try:
            values[index] = float(cell)
        except ValueError:
            if not is_empty_cell(cell):
                return values, index
    # Python reads 1_000 as a number; in a table it is a name.
    underscore = next((index for index, cell in enumerate(column) if "_" in cell), None)
    return values, underscore


def _text(path: Path, source: str) -> str:
    try:
        check_regular(path)
        size = path.stat().st_size
        memory.guard(_BYTES_EACH * size, source, "split the file, or keep the columns that are needed as an npz file")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{source}: {path} cannot be read ({one_line(error, 120)}); make it readable") from error
    remedy = "save it as UTF-8, for example by `iconv -t utf-8`"
    if content.startswith(_UTF16):
        raise DataError(f"{source}: {path.name} is UTF-16; accepted: UTF-8; {remedy}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{source}: {path.name}, line {line} is not UTF-8; accepted: UTF-8; {remedy}") from error


def _width(text: str, delimiter: str) -> int:
    """How many cells the header has, if ``delimiter`` separates them; 0 where that makes none."""
    try:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
    except csv.Error:
        return 0


def _rows(text: str, delimiter: str, path: Path, source: str) -> tuple[list[list[str]], list[int]]:
    """Rows, and the line that each begins at."""
    try:
        rows, lines, quoted_ends = _parse(text, delimiter, csv.QUOTE_MINIMAL)
        if delimiter != "\t" or not quoted_ends:
            return rows, lines
    except _ParseError as error:
        if delimiter != "\t":
            raise DataError(
                f"{source}: {path.name}, line {error.line}: {error}; a cell in double quotes ends with one, and holds "
                f"them doubled; correct it"
            ) from error
    # Many files with tabs know no quotes: then one is a character like others, and no cell runs over several lines.
    try:
        return _parse(text, delimiter, csv.QUOTE_NONE)[:2]
    except _ParseError as error:
        raise DataError(f"{source}: {path.name}, line {error.line}: {error}; shorten or correct it") from error


class _ParseError(Exception):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _parse(text: str, delimiter: str, quoting: int) -> tuple[list[list[str]], list[int], bool]:
    """Rows, their lines, and whether a quoted cell runs over several lines.

    Raises:
        _ParseError: what the csv module refuses, among it a cell of more than 131,072 characters.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    rows: list[list[str]] = []
    lines: list[int] = []
    line, several = 1, False
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                rows.append(row)
                lines.append(line)
                several = several or reader.line_num > line
            line = reader.line_num + 1
    except csv.Error as error:
        raise _ParseError(line, one_line(error, 80)) from error
    return rows, lines, several


def _header(row: list[str], path: Path, source: str) -> list[str]:
    names = [name.strip() for name in row]
    where = f"{source}: {path.name}: the header"
    if len(names) > _MOST_COLUMNS:
        raise DataError(f"{where} has {len(names)} columns; accepted: up to {_MOST_COLUMNS:,}; take some out")
    if all(map(_is_number, names)):
        raise DataError(f"{where} row holds numbers ({printable(', '.join(names), 80)}); add a row of column names")
    for index, name in enumerate(names):
        if not name:
            raise DataError(f"{where} has no name for column {index + 1}; name it, for data.columns to give it a role")
        if name in names[:index]:
            raise DataError(f"{where} has {printable(name, 60)!r} twice; each column needs its own name; rename one")
    return names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
