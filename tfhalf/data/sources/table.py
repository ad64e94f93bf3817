"""``csv:PATH``: a table, each column with a role."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfhalf.data.check import Arrays
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array
from tfhalf.data.sources import cells
from tfhalf.data.sources.cells import Cells, numbers
from tfhalf.data.sources.roles import NUMBERS, ROLES, Parts, roles_of
from tfhalf.data.types import Kind, Kinds
from tfhalf.errors import DataError
from tfhalf.text import printable

FILES = {"train": ("train",), "val": ("val", "validation", "dev", "valid"), "test": ("test",)}
LAYOUT = "a .csv or .tsv file, or a folder with train.csv (or .tsv), and dev.csv and test.csv beside it"
_MEAN = "data.empty: mean, the mean of the column over the training part"
_FEW = 50  # different numbers: up to here they may be classes
_LISTED = 6


def read(
    path: Path,
    roles: Mapping[str, str],
    empty: Literal["refuse", "mean", "drop"],
    kind: Kinds,
    source: str,
    say: Callable[[str], None],
) -> Arrays:
    """The rows of a file, or of a folder's train, dev (or val, validation, valid) and test file, in their order.

    Number columns are one input ``numbers``, float32 [N, F]; each category column an input of its own, to be coded once
    the training part is drawn; each text column an input of objects of str [N]. One input alone is an array. Of the
    target columns y is made as ``kind`` needs it: texts [N] for ``classes``, else numbers [N, K]; where ``kind`` names
    several outputs, each is the target column of its name.

    Args:
        path: of a file or folder.
        roles: by the names of columns, one of `ROLES`. A column that is not named is a number where every cell is one
            or empty, else a category; a target must be named.
        empty: what an empty number cell means: a fault, NaN (the mean of the training part), or a row left out.
        kind: of the targets.
        source: for messages.
        say: called with progress messages.

    Raises:
        DataError: names file, line and column of the first cell that does not fit.
    """
    parts = {part: cells.read(file, source) for part, file in _files(path, source, say).items()}
    ignored = {name for name, role in roles.items() if role == "ignore"}
    parts = {part: _aligned(table, parts["train"], ignored, source, say) for part, table in parts.items()}
    table = _Table(parts, source, roles_of(parts, roles, source))
    say(f"{source}: {table.summary()}")
    if not table.of("number") + table.of("category") + table.of("text"):
        raise DataError(f"{source}: data.columns leaves no column to predict from; take 'ignore' from one")
    arrays = {part: _Rows(table, part, source).read(kind, empty, say) for part in parts}
    changed: dict[str, Any] = {}
    for part, one in arrays.items():
        changed |= {f"{letter}_{part}": getattr(one, f"{letter}_train") for letter in "xyw"}
    columns = {NUMBERS: table.of("number")} if table.of("number") else {}
    columns |= {name: (name,) for name in (*table.of("category"), *table.of("text"))}
    changed |= {"columns": columns, "categories": table.of("category"), "targets": table.of("target")}
    return replace(arrays["train"], **changed, empty_cells=empty == "mean")


def _files(path: Path, source: str, say: Callable[[str], None]) -> dict[str, Path]:
    if path.is_file() and path.suffix.lower() in cells.SUFFIXES:
        return {"train": path}
    if not path.is_dir():
        kind = "is neither" if path.exists() else "does not exist"
        raise DataError(f"{source}: {path} {kind}; accepted: {LAYOUT}; correct the path")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in cells.SUFFIXES)
    parts: dict[str, Path] = {}
    for part, stems in FILES.items():
        several = [file for file in files if file.stem in stems]
        if len(several) > 1:
            raise DataError(
                f"{source}: {path} holds {several[0].name} and {several[1].name}; one is accepted; join them"
            )
        if several:
            parts[part] = several[0]
    if "train" not in parts:
        raise DataError(f"{source}: {path} holds no train.csv or train.tsv; accepted: {LAYOUT}; add it")
    other = [file.name for file in files if file not in parts.values()]
    if other:
        say(f"{source}: {', '.join(other[:5])} not read: the parts are train, dev (or val) and test")
    return parts


def _aligned(part: Cells, train: Cells, ignored: set[str], source: str, say: Callable[[str], None]) -> Cells:
    """``part`` with the training part's columns, in their order. A single one of another name is taken for the one that
    is missing, if it stands where that does; others that the training part lacks are not read.

    Raises:
        DataError: a column is missing that is not ``ignored``.
    """
    names, its, file = list(train.columns), dict(part.columns), part.path.name
    missing, extra = [name for name in names if name not in its], [name for name in its if name not in names]
    if len(missing) == len(extra) == 1 and names.index(missing[0]) == list(its).index(extra[0]) and len(names) > 1:
        say(f"{source}: {file}: column {extra[0]!r} is read as {missing[0]!r}, which {train.path.name} has")
        its[missing[0]] = its[extra[0]]
    elif extra:
        say(f"{source}: {file}: not read, since {train.path.name} lacks them: {', '.join(extra[:_LISTED])}")
    absent = next((name for name in names if name not in its and name not in ignored), None)
    if absent is not None:
        raise DataError(
            f"{source}: column {printable(absent, 60)!r} is in {train.path.name} and not in {file}; all parts need the "
            f"same columns; add it to {file}, set data.columns: {{{absent}: ignore}}, or take {file} out of the folder"
        )
    return replace(part, columns={name: its.get(name, [""] * len(part)) for name in names})


@dataclass(frozen=True)
class _Table:
    parts: Parts
    source: str
    roles: dict[str, str]

    def of(self, role: str) -> tuple[str, ...]:
        return tuple(name for name, its in self.roles.items() if its == role)

    def summary(self) -> str:
        shown = []
        for role in ROLES.split(", "):
            names = self.of(role)
            if names:
                listed = ", ".join(names[:_LISTED]) + (
                    f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
                )
                shown.append(f"{role} {listed}")
        return "; ".join(shown)


@dataclass(frozen=True)
class _Rows:
    """One part of a table."""

    table: _Table
    part: str
    source: str

    @property
    def cells(self) -> Cells:
        return self.table.parts[self.part]

    def read(self, kind: Kinds, empty: str, say: Callable[[str], None]) -> Arrays:
        """This part, as the training part of `Arrays`."""
        inputs = {name: self._numbers(name) for name in self.table.of("number")}
        target, empty_targets = self._targets(kind)
        weights = {name: self._numbers(name) for name in self.table.of("weight")}
        gaps = {name: np.isnan(values) for name, values in (inputs | weights).items()} | empty_targets
        gaps = {name: mask for name, mask in gaps.items() if mask.any()}
        kept = self._kept(gaps, [name for name in gaps if empty != "mean" or name not in inputs], empty, say)
        if empty == "mean" and gaps:
            self._check_means(gaps)
            listed = ", ".join(f"{name} {int(mask.sum()):,}" for name, mask in list(gaps.items())[:_LISTED])
            say(f"{self.source}: empty cells of {self.cells.path.name}, to be the mean of the training part: {listed}")
        x: dict[str, Array] = {NUMBERS: self._float32(inputs)[kept]} if inputs else {}
        for role in ("category", "text"):
            x |= {name: self._texts(name, strip=role == "category")[kept] for name in self.table.of(role)}
        alone = len(x) == 1 and not self.table.of("category")
        w = next(iter(weights.values()))[kept] if weights else None
        items = () if kept.all() else tuple(map(str, np.flatnonzero(kept)))  # numbers of rows are those of the file
        return Arrays(next(iter(x.values())) if alone else Columns(x), target[kept], w_train=w, items=items)

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        """float64 [N], NaN where a cell is empty.

        Raises:
            DataError: a cell is not a number.
        """
        values, bad = numbers(self.cells.columns[name])
        if bad is not None:
            cell = printable(self.cells.columns[name][bad], 60)
            raise DataError(
                f"{self.source}: {self.cells.at(bad, name)} is {cell!r}; accepted: numbers; correct it, or give the "
                "column another role in data.columns"
            )
        return values

    def _texts(self, name: str, *, strip: bool) -> Array:
        """Objects of str [N]."""
        column = self.cells.columns[name]
        return np.array([cell.strip() for cell in column] if strip else column, dtype=object)

    def _float32(self, columns: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """float32 [N, F]."""
        stacked = np.empty((len(self.cells), len(columns)), np.float32)
        for index, (name, values) in enumerate(columns.items()):
            wide = np.abs(values) > np.finfo(np.float32).max
            if wide.any():
                row = int(np.argmax(wide))
                raise DataError(
                    f"{self.source}: {self.cells.at(row, name)} is {values[row]}; accepted: numbers up to 3.4e38; "
                    "correct it or use another unit"
                )
            stacked[:, index] = values
        return stacked

    def _kept(
        self, gaps: Mapping[str, npt.NDArray[np.bool_]], faults: list[str], empty: str, say: Callable[[str], None]
    ) -> npt.NDArray[np.bool_]:
        """Which rows stay, where the columns ``faults`` have cells that must not be empty."""
        kept = np.ones(len(self.cells), bool)
        if not faults:
            return kept
        if empty != "drop":
            raise self._empty(faults[0], gaps[faults[0]])
        for name in faults:
            kept &= ~gaps[name]
        out, file = len(kept) - int(kept.sum()), self.cells.path.name
        if out == len(kept):
            raise DataError(f"{self.source}: each row of {file} has an empty cell, so that none is left; {_MEAN}")
        say(f"{self.source}: {out:,} of {len(kept):,} rows of {file} are left out, which have an empty cell")
        return kept

    def _empty(self, name: str, mask: npt.NDArray[np.bool_]) -> DataError:
        row, count = int(np.argmax(mask)), int(mask.sum())
        more = f", as are {count - 1:,} more of {len(mask):,} rows" if count > 1 else ""
        mean = f"{_MEAN}, or " if name in self.table.of("number") else ""
        return DataError(
            f"{self.source}: {self.cells.at(row, name)} is empty{more}; accepted: a value in each; fill it in, or set "
            f"{mean}data.empty: drop, which leaves the row out"
        )

    def _check_means(self, gaps: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        whole = next((name for name, mask in gaps.items() if mask.all()), None)
        if whole is not None and self.part == "train":
            raise DataError(
                f"{self.source}: {self.cells.path.name}, column {printable(whole, 60)!r} has no number, so it has no "
                f"mean; set data.columns: {{{whole}: ignore}}, or fill it in"
            )

    def _targets(self, kind: Kinds) -> tuple[Array | Columns, dict[str, npt.NDArray[np.bool_]]]:
        """y, and which cells of it are empty, by column."""
        names = self.table.of("target")
        if isinstance(kind, str):
            return self._target(kind, names)
        if set(kind) != set(names):
            raise DataError(
                f"{self.source}: the targets are {', '.join(names)} where the outputs to learn are {', '.join(kind)}; "
                "accepted: a target column of the name of each output; correct data.columns"
            )
        outputs = {name: self._target(kind[name], (name,)) for name in names}
        empty = {column: mask for _, masks in outputs.values() for column, mask in masks.items()}
        return Columns({name: y for name, (y, _) in outputs.items()}), empty

    def _target(self, kind: Kind, names: tuple[str, ...]) -> tuple[Array, dict[str, npt.NDArray[np.bool_]]]:
        """Texts [N] for classes, else numbers [N, K] (texts [N, K] for steps that are not numbers), of the columns
        ``names``; which cells are empty, by column."""
        if kind == "masks" or (kind == "classes" and len(names) > 1):
            needs = "images of masks, as masks:PATH has them" if kind == "masks" else "one target column"
            raise DataError(
                f"{self.source}: the targets are {', '.join(names)}; the pipeline's task takes {needs}; set another "
                "task, or correct data.columns"
            )
        if kind == "classes":
            texts = self._texts(names[0], strip=True)
            self._check_classes(names[0], texts)
            return texts, {names[0]: texts == ""}
        if kind == "steps" and any(numbers(self.cells.columns[name])[1] is not None for name in names):
            return np.stack([self._texts(name, strip=True) for name in names], axis=1), {}
        if kind == "multi":
            columns = {name: self._zero_or_one(name) for name in names}
        else:
            columns = {name: self._numbers(name) for name in names}
        values = np.stack(list(columns.values()), axis=1)
        if kind == "steps" and (values == np.rint(values)).all():
            values = values.astype(np.int64)
        return values, {name: np.isnan(column) for name, column in columns.items()}

    def _zero_or_one(self, name: str) -> npt.NDArray[np.float64]:
        """A label's column, where true and false may stand for 1 and 0."""
        column = [cell.strip().lower() for cell in self.cells.columns[name]]
        if set(column) <= {"true", "false", ""}:
            return np.array([math.nan if not cell else float(cell == "true") for cell in column])
        return self._numbers(name)

    def _check_classes(self, name: str, texts: Array) -> None:
        """Refuse a quantity as classes, of which nearly each would have one item.

        Raises:
            DataError: names the column.
        """
        different = set(texts)
        fractions = any("." in text for text in different) and len(different) > _FEW
        if (fractions or len(different) > max(_FEW, len(texts) / 2)) and numbers(sorted(different))[1] is None:
            raise DataError(
                f"{self.source}: {self.cells.path.name}, column {printable(name, 60)!r} is the target and holds "
                f"{len(different):,} different numbers; too many for classes; it is a quantity to predict: set "
                "task: regression"
            )
