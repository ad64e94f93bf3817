"""What the columns of a table are."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from tfhalf.data.sources.cells import Cells, numbers
from tfhalf.errors import DataError
from tfhalf.text import printable

ROLES = "number, category, text, target, weight, ignore"
NUMBERS = "numbers"
"""The input that holds all number columns."""
_FEW = 50  # different texts: up to here a column is a category without being named one
_LISTED = 30

Parts = dict[str, Cells]


def roles_of(parts: Parts, named: Mapping[str, str], source: str) -> dict[str, str]:
    """The role of each column, in the order of the training part: that which is named, else number where every cell is
    one or empty, else category.

    Raises:
        DataError: a name that is not a column's, no target, or a column that is neither.
    """
    names = list(parts["train"].columns)
    listed = ", ".join(printable(name, 40) for name in names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    for name in named:
        if name not in names:
            plain = {column.lower(): column for column in names}
            near = difflib.get_close_matches(name.strip().lower(), plain, n=1)
            hint = f"did you mean {plain[near[0]]!r}?" if near else "correct the name"
            raise DataError(
                f"{source}: data.columns names {printable(name, 60)!r}, which {parts['train'].path.name} lacks; "
                f"accepted: {listed}; {hint}"
            )
    if "target" not in named.values():
        raise DataError(
            f"{source}: no column is the target; accepted: data.columns: {{NAME: target}}, NAME one of {listed}; add it"
        )
    if list(named.values()).count("weight") > 1:
        raise DataError(f"{source}: data.columns has several columns of role weight; accepted: one; ignore the others")
    roles = {name: named.get(name) or _role(parts, name, source) for name in names}
    if roles.get(NUMBERS) in ("category", "text"):
        raise DataError(f"{source}: the column {NUMBERS!r} has the name of the input of all numbers; rename it")
    return roles


def _role(parts: Parts, name: str, source: str) -> str:
    """number or category.

    Raises:
        DataError: it would be a category of about as many names as rows.
    """
    if all(numbers(table.columns[name])[1] is None for table in parts.values()):
        return "number"
    train = parts["train"]
    different = len(set(train.columns[name]))
    if different > max(_FEW, len(train) / 2):
        bad = numbers(train.columns[name])[1] or 0
        cell = printable(train.columns[name][bad], 40)
        comma = " with a decimal point" if numbers([cell.replace(",", ".")])[1] is None else ""
        raise DataError(
            f"{source}: {train.at(bad, name)} is {cell!r}, not a number{comma}, and too many cells differ for a "
            f"category ({different:,} of {len(train):,}); say what it is in data.columns: {{{name}: text}}, category "
            "or ignore, or correct its cells"
        )
    return "category"
