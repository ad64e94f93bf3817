"""The columns of a table that a version takes, and rows of cells as its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError
from tfhalf.text import is_empty_cell, printable

_MOST = 10_000
_LARGEST, _LARGEST_INT = float(np.finfo(np.float32).max), 2**31 - 1

Kind = Literal["number", "whole number", "category", "text", "image"]


class CellError(ValueError):
    """A cell that a field does not take; the message goes behind the cell's position."""


@dataclass(frozen=True)
class Field:
    """A column: ``kind`` says what its cells are; an image's are paths of files. ``categories`` are those that training
    knew; ``optional``: an empty cell is taken, a number's as the training ``mean``."""

    name: str
    input: str
    index: int
    kind: Kind
    categories: tuple[str, ...] = ()
    optional: bool = False
    mean: float | None = None

    def number(self, cell: str) -> float:
        """The value of a cell of numbers; NaN stands for one that is not known.

        Raises:
            CellError: it is not such a number, or is empty and must not be.
        """
        if is_empty_cell(cell):
            if self.optional:
                return math.nan
            raise CellError("is empty; accepted: a number, for training had no empty cell there; fill it in")
        try:
            value = math.nan if "_" in cell else float(cell)  # Python reads 1_000 as a number; in a table it is a name
        except ValueError:
            value = math.nan
        whole = self.kind == "whole number"
        if not abs(value) <= (_LARGEST_INT if whole else _LARGEST) or (whole and value != round(value)):
            raise CellError(f"is {printable(cell, 60)!r}; accepted: a {self.kind}; correct it")
        return value


def fields_of(manifest: Manifest, lookups: Lookups) -> tuple[Field, ...]:
    """The columns of a version whose inputs are numbers [N, F], categories, texts and images.

    A column is called as in the table that the version was trained on; else as its input, with a number where that
    takes several.

    Raises:
        ArtifactError: an input is something else, or the columns do not fit it.
    """
    if missing := [name for name in lookups.by_input if name not in manifest.input_dtypes]:
        raise ArtifactError(f"lookups.json names {printable(missing[0], 60)!r}, which is not an input; export again")
    fields = [field for port in manifest.inputs for field in _of_port(port, manifest, lookups)]
    names = [field.name for field in fields]
    if twice := next((name for k, name in enumerate(names) if name in names[:k]), None):
        raise ArtifactError(f"the manifest has the column {printable(twice, 60)!r} twice; export again")
    return tuple(fields)


def takes_table(manifest: Manifest, lookups: Lookups) -> bool:
    """Whether every input is a part of a table's row: numbers, a category, a text, or an image beside other inputs."""
    if len(manifest.inputs) == 1 and is_image(manifest.inputs[0]):
        return False
    return all(port.name in lookups.by_input or _is_row(port) or is_image(port) for port in manifest.inputs)


def is_image(port: Port) -> bool:
    """Whether an input takes images of one or three channels, of a size or of any."""
    return len(port.shape) == 4 and port.shape[3] in (1, 3) and port.dtype[0] in "uif"


def _is_row(port: Port) -> bool:
    return len(port.shape) == 2 and port.shape[1] is not None and port.shape[1] <= _MOST and port.dtype[0] in "uif"


def _of_port(port: Port, manifest: Manifest, lookups: Lookups) -> list[Field]:
    columns = manifest.columns.get(port.name, ())
    if lookup := lookups.by_input.get(port.name):
        name = columns[0] if len(columns) == 1 else port.name
        words = tuple(word for word in lookup.words if word) if lookup.kind == "category" else ()
        return [Field(name, port.name, 0, lookup.kind, words, optional=True)]
    if is_image(port):
        return [Field(port.name, port.name, 0, "image")]
    if not _is_row(port):
        raise ArtifactError(
            f"input {printable(port.name, 60)!r} takes arrays of shape {port.dims()}, not a row of a table"
        )
    count = port.shape[1] or 1
    if columns and len(columns) != count:
        raise ArtifactError(
            f"the manifest has {len(columns)} columns for {printable(port.name, 60)!r}, which takes {count}; export "
            "again"
        )
    names = columns or ((port.name,) if count == 1 else tuple(f"{port.name}_{k}" for k in range(count)))
    kind: Kind = "number" if port.dtype[0] == "f" else "whole number"
    means, missing = _means(manifest, port.name, count)
    return [Field(name, port.name, k, kind, (), missing, means[k]) for k, name in enumerate(names)]


def _means(manifest: Manifest, name: str, count: int) -> tuple[Sequence[float | None], bool]:
    """The training mean of each number, where the version knows it; whether one stands for an empty cell."""
    own: Any = manifest.data.preprocess.to_dict() if manifest.data else {}
    if isinstance(own.get("inputs"), Mapping):
        own = own["inputs"].get(name)
    if not isinstance(own, Mapping):
        return [None] * count, False
    mean = own.get("mean")
    fits = isinstance(mean, list | tuple) and len(mean) == count and all(isinstance(one, float | int) for one in mean)
    return ([float(one) for one in mean] if fits else [None] * count), own.get("missing") is True  # type: ignore[union-attr]


def as_inputs(
    fields: Sequence[Field], columns: Mapping[str, Sequence[Any]], manifest: Manifest, lookups: Lookups
) -> dict[str, np.ndarray]:
    """Inputs by name, each [N, ...], of ``columns``: of each field N numbers, N texts, or N images [H, W, C]."""
    inputs: dict[str, np.ndarray] = {}
    for port in manifest.inputs:
        own = [field for field in fields if field.input == port.name]
        if port.name in lookups.by_input:
            inputs[port.name] = lookups.encode(port.name, [str(cell).strip() if own[0].kind == "category" else str(cell)
                                                           for cell in columns[own[0].name]])  # fmt: skip
        elif own[0].kind == "image":
            inputs[port.name] = np.stack([np.asarray(image, port.dtype) for image in columns[own[0].name]])
        else:
            inputs[port.name] = np.stack([np.asarray(columns[field.name], np.float64) for field in own], 1).astype(
                port.dtype
            )
    return inputs
